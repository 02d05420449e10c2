"""Random damage with a right checksum: a frame is refused with a FrameError, or it is a valid frame. Nothing else."""

import struct

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmrn.errors import EncodeError, FrameError
from fedmrn.frame import Frame, Kind
from fedmrn.layout import Group, Layout, TensorSpec
from fedmrn.methods import method
from fedmrn.server import Round, Server
from fedmrn.update import encode_update, read_state
from oracle import reseal

LAYOUT = Layout.of(
    [
        TensorSpec("w", (3, 5), Group.CODED),
        TensorSpec("b", (4,), Group.DENSE),
        TensorSpec("s", (2,), Group.STATS),
    ]
)
VECTOR = np.linspace(-0.01, 0.01, LAYOUT.size).astype(np.float32)


def _round(name: str = "fedmrn") -> Round:
    scheme, state = method(name).scheme(), VECTOR.copy()
    if name == "fedpm":  # whose state is no model
        state = Server.initial(LAYOUT, scheme, state)
    server = Server(LAYOUT, scheme, state, b"a secret of tests")
    return server.begin(1, ["ann", "bob"])


def _update(round_: Round, client: str) -> bytes:
    broadcast = Frame.from_bytes(round_.broadcast(client))
    return encode_update(broadcast, LAYOUT, VECTOR, weight=2, sampling_key=1).to_bytes()


NAMES = ("fedmrn", "signsgd-vote", "fedbat", "fedpm", "fedsparsify-global", "fedsparsify-local", "fedmrn-mrc")
UPDATES = {name: _update(_round(name), "ann") for name in NAMES}
BROADCASTS = {name: _round(name).broadcast("ann") for name in NAMES}

interesting = st.sampled_from([0, 1, 2, 3, 0x7F, 0x80, 0xFF])
numbers = st.sampled_from([0, 1, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 20, (1 << 64) - 1])
steps = st.one_of(
    st.tuples(st.just("byte"), st.integers(4, 400), interesting | st.integers(0, 255)),
    st.tuples(st.just("u64"), st.integers(4, 400), numbers | st.integers(0, 300)),
    st.tuples(st.just("cut"), st.integers(4, 400), st.integers(1, 40)),
    st.tuples(st.just("insert"), st.integers(4, 400), st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("copy"), st.integers(4, 400), st.integers(1, 60)),
)


def _damaged(data: bytes, plan: list[tuple[str, int, int | bytes]], total: bool) -> bytes:
    out = bytearray(data[:-4])
    for kind, position, value in plan:
        at = position % len(out)
        if kind == "byte":
            out[at] = value
        elif kind == "u64":
            at = min(at, len(out) - 8)
            struct.pack_into("<Q", out, at, value)
        elif kind == "cut" and len(out) - value > 64:
            del out[at : at + value]
        elif kind == "insert":
            out[at:at] = value
        elif kind == "copy":
            out[at:at] = out[at : at + value]
    return reseal(bytes(out) + bytes(4), total=total)


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(NAMES), st.lists(steps, min_size=1, max_size=4), st.booleans())
def test_a_damaged_update_is_refused_or_valid(name: str, plan: list[tuple[str, int, int | bytes]], total: bool) -> None:
    round_ = _round(name)
    round_.add("bob", _update(round_, "bob"))
    fold = round_.aggregator
    before = (fold._sum.tobytes(), set(fold._senders), fold.total_weight)
    data = _damaged(UPDATES[name], plan, total)
    try:
        frame = round_.add("ann", data)
    except FrameError:
        assert (fold._sum.tobytes(), fold._senders, fold.total_weight) == before
        round_.add("ann", UPDATES[name])
    else:
        assert frame.to_bytes() == data
        assert fold.total_weight == before[2] + (frame.weight if fold.weighted else 1)
    assert np.isfinite(round_.finish()).all()


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(NAMES), st.lists(steps, min_size=1, max_size=4), st.booleans())
def test_a_damaged_broadcast_is_refused_or_valid(
    name: str, plan: list[tuple[str, int, int | bytes]], total: bool
) -> None:
    """Or it asks for what this vector is not: zero where the damaged state is, or as small as 16 bits hold."""
    data = _damaged(BROADCASTS[name], plan, total)
    try:
        frame = Frame.from_bytes(data, kind=Kind.BROADCAST)
        assert frame.to_bytes() == data
        state = read_state(frame, LAYOUT)
        answer = encode_update(frame, LAYOUT, VECTOR, weight=1, sampling_key=2)
    except (FrameError, EncodeError):
        return
    assert np.isfinite(state).all()
    assert Frame.from_bytes(answer.to_bytes(), kind=Kind.UPDATE) == answer


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300), st.booleans())
def test_noise_is_refused(data: bytes, sealed: bool) -> None:
    text = b"FMRN\x01" + data
    if sealed and len(text) >= 20:
        text = reseal(text, total=True)
    try:
        frame = Frame.from_bytes(text)
    except FrameError:
        return
    assert frame.to_bytes() == text
