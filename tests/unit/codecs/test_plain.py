"""Frames without coding: the same values, the bytes of a scheme that codes nothing, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from core_examples import fitting, noisy
from numpy.typing import NDArray

from allocated import allocated
from fedmrn.codecs import CodedMask, EncodeKeys, Float16, MaskedNoise, RandomCode, Sparse, Support, codec_from
from fedmrn.errors import LimitError, MalformedFrameError, UnknownCodecError
from fedmrn.methods import METHODS, method
from fedmrn.methods.method import DOWN, GRID, SIDE
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.server import Server
from fedmrn.wire.frame import Frame, Kind, Limits, Role, Section
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update, read_state
from fedmrn.wire.plain import plain

LAYOUT = Layout.of(
    [
        TensorSpec("w", (64, 64), Group.CODED),
        TensorSpec("b", (999,), Group.CODED),
        TensorSpec("scale", (8,), Group.DENSE),
        TensorSpec("mean", (8,), Group.STATS),
    ]
)
CODED = LAYOUT.span(Group.CODED)
OTHERS = slice(CODED.stop, LAYOUT.size)
# A twentieth of the noise's scale: few bits of a binary mask are set, so that coding pays.
VECTOR = noisy(LAYOUT.size, 3, 0.0005)


def frames(
    name: str, side: str = "float32", down: str = "float32", vector: NDArray[np.float32] = VECTOR, **options: object
) -> tuple[Frame, Frame]:
    """A broadcast, and an update that answers it; the same randomness whatever is coded."""
    scheme, model = method(name).scheme(options, side, down), noisy(LAYOUT.size, 1, 1.0)
    server = Server(LAYOUT, scheme, Server.initial(LAYOUT, scheme, model), b"sixteen letters!", run=bytes(16))
    broadcast = Frame.from_bytes(server.begin(1, [1]).broadcast(1))
    sent = fitting(server, vector)
    return broadcast, encode_update(broadcast, LAYOUT, sent, weight=3, sampling_key=5, state=server.state)


def values(frame: Frame, state: NDArray[np.float32]) -> list[bytes]:
    found = []
    for s in frame.sections:
        if s.role not in {Role.TEMPLATE, Role.TERMS}:
            codec = codec_from(s.codec, s.params).bind(state[LAYOUT.span(s.group)])
            found.append(codec.decode(s.body, s.count, frame.noise_key).tobytes())
    return found


@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s", "fedmrn-post"])
def test_a_coded_update_becomes_the_raw_one_to_the_byte(name: str) -> None:
    (coded_down, coded_up), (raw_down, raw_up) = (frames(name, coding=c) for c in ("entropy", "raw"))
    if name != "fedmrn-s":
        assert len(coded_up.to_bytes()) < len(raw_up.to_bytes())
    assert plain(coded_up).to_bytes() == raw_up.to_bytes()
    assert plain(coded_down).to_bytes() == raw_down.to_bytes()
    assert (plain(raw_up), plain(raw_down)) == (raw_up, raw_down)


@pytest.mark.parametrize(
    ("scale", "codec", "table"), [(0.01, 1, 0), ("auto", 12, 4 + 2 * 12)], ids=["one scale", "own scales"]
)
@pytest.mark.parametrize("name", ["fedmrn-mrc", "fedmrn-s-mrc"])
def test_a_mask_by_a_random_code_takes_a_bit_an_element(name: str, scale: object, codec: int, table: int) -> None:
    _, update = frames(name, scale=scale)
    bare = plain(update)
    assert len(bare.sections[0].body) == table + -(-CODED.stop // 8)
    assert bare.sections[0].codec == codec
    if (name, scale) == ("fedmrn-s-mrc", "auto"):  # noise as narrow as the update: a sign says nearly a bit of it
        assert len(update.sections[0].body) <= len(bare.sections[0].body) + 1
    else:
        assert len(update.sections[0].body) < len(bare.sections[0].body)


def test_a_mask_that_was_not_worth_coding() -> None:
    _, update = frames("fedmrn-s", scale=0.005, coding="entropy", vector=np.zeros(LAYOUT.size, np.float32))
    assert update.sections[0].body[0] == 0
    assert plain(update).sections[0].body == update.sections[0].body[1:]


@pytest.mark.parametrize(
    ("side", "most"), [("float16", 2.0**-11), ("levels", np.sqrt(8) / 127)], ids=["float16", "a level of the norm"]
)
def test_side_data_becomes_the_floats_that_it_stands_for(side: str, most: float) -> None:
    (_, coded), (_, raw) = frames("fedmrn", side), frames("fedmrn")
    bare = plain(coded)
    assert len(bare.to_bytes()) == len(raw.to_bytes()) > len(coded.to_bytes())
    assert bare.sections[0] == coded.sections[0]
    for s in bare.sections[1:]:
        got, sent = np.frombuffer(s.body, "<f4"), VECTOR[LAYOUT.span(s.group)]
        assert not np.array_equal(got, sent)
        assert np.abs(got - sent).max() <= most * np.abs(sent).max()


@pytest.mark.parametrize("down", ["float16", "eden4", "eden2"])
def test_a_broadcast_becomes_the_state_that_the_client_got(down: str) -> None:
    (coded, _), (raw, _) = frames("fedmrn", "float16", down, coding="entropy"), frames("fedmrn")
    bare = plain(coded)
    assert len(bare.to_bytes()) == len(raw.to_bytes()) > len(coded.to_bytes())
    assert [s.template for s in bare.sections] == [s.template for s in raw.sections]
    got = np.concatenate([np.frombuffer(s.body, "<f4") for s in bare.sections])
    assert got.tobytes() == read_state(coded, LAYOUT).tobytes()


@pytest.mark.parametrize("side", SIDE)
@pytest.mark.parametrize("down", [down for down in DOWN if down != GRID])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_the_same_and_nothing_is_left_to_undo(name: str, down: str, side: str) -> None:
    if METHODS[name].scheme().rule.needs_zeros:
        down = "float32"
    broadcast, update = frames(name, side, down)
    state = read_state(broadcast, LAYOUT)
    for frame in (broadcast, update):
        before = frame.to_bytes()
        bare = plain(frame)
        assert frame.to_bytes() == before
        assert values(bare, state) == values(frame, state)
        assert Frame.from_bytes(bare.to_bytes()) == plain(bare) == bare
        assert sum(bare.account().values()) == len(bare.to_bytes())
        # The templates say how to answer in plain.
        assert [s.template for s in plain(broadcast).sections if s.role is Role.TEMPLATE] == [
            s.template for s in plain(update).sections
        ]
    coded = update.sections[0]
    if not name.endswith("mrc"):
        assert plain(update).sections[0] == coded


def test_nothing_is_decoded_beyond_the_limit() -> None:
    _, update = frames("fedmrn", "float16")
    assert plain(update, Limits(max_bytes=32)) == plain(update)
    with pytest.raises(LimitError, match="8 values are more than 31 bytes"):
        plain(update, Limits(max_bytes=31))
    mask = MaskedNoise(NoiseSpec(Law.UNIFORM, 0.01), MaskType.BINARY)
    for codec in (CodedMask(mask), RandomCode(mask)):
        body = codec.encode(np.zeros(10_000, np.float32), EncodeKeys(update.noise_key, 1))
        section = Section(codec.id, Role.UPDATE, Group.CODED, 10_000, codec.params(), body)
        assert body[0] == 1, "this test is of masks that are shortened"
        assert len(plain(replace(update, sections=(section,)), Limits(max_bytes=1250)).sections[0].body) == 1250
        with pytest.raises(LimitError, match="a mask of 10000 elements is more than 1249 bytes"):
            plain(replace(update, sections=(section,)), Limits(max_bytes=1249))
    # A sparse section of a few bytes may declare any number of elements.
    huge = 1 << 40
    body = bytes(8)
    section = Section(Sparse.id, Role.UPDATE, Group.DENSE, huge, Sparse(0.0001).params(), body)

    def refused() -> None:
        with pytest.raises(LimitError):
            plain(replace(update, sections=(section,)))

    assert allocated(refused) < 64 << 10


def test_what_does_not_decode_is_refused() -> None:
    _, update = frames("fedmrn", "float16", scale=0.01, coding="entropy")
    coded, dense, stats = update.sections
    assert coded.body[0] == 1
    for body in (b"", bytes(coded.body)[:-4], bytes(coded.body) + bytes(4)):
        with pytest.raises(MalformedFrameError):
            plain(replace(update, sections=(replace(coded, body=body), dense, stats)))
    with pytest.raises(MalformedFrameError):
        plain(replace(update, sections=(coded, replace(dense, body=bytes(15)), stats)))
    with pytest.raises(UnknownCodecError):
        plain(replace(update, sections=(coded, replace(dense, codec=200), stats)))


def test_what_is_bound_to_a_state_stays_as_it_is() -> None:
    section = Section(Support.id, Role.UPDATE, Group.DENSE, 3, b"", bytes(12))
    frame = Frame(Kind.UPDATE, 2, 1, 7, LAYOUT.digest, 1, (section,))
    assert plain(frame) == frame
    other = replace(frame, sections=(replace(section, codec=Float16.id, body=bytes(6)),))
    assert plain(other).sections[0].body == bytes(12)


def test_a_public_model_is_written_out_where_its_values_are_known() -> None:
    """As float32, as an exact broadcast would be; else its sections stay as they are, since others cannot read them."""
    broadcast, _ = frames("fedmrn", "float32", GRID)
    exact, _ = frames("fedmrn", "float32", "float32")
    state = read_state(broadcast, LAYOUT)
    assert plain(broadcast).to_bytes() == broadcast.to_bytes()
    bare = plain(broadcast, public=lambda group: state[LAYOUT.span(group)])
    assert bare.account() == exact.account()
    assert read_state(bare, LAYOUT).tobytes() == state.tobytes()
