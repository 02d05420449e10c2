"""Support: what is sent are the values where the state is not zero; both sides must know the state."""

from dataclasses import replace

import numpy as np
import pytest
from core_examples import LAYOUT, SECRET, noisy
from numpy.typing import NDArray

from fedmrn.codecs.base import CHUNK, EncodeKeys, Plane
from fedmrn.codecs.support import Support
from fedmrn.errors import BoundError, ConfigError, EncodeError, FrameError, MalformedFrameError, NonFiniteError
from fedmrn.methods import method
from fedmrn.server import Server
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group
from fedmrn.wire.messages import encode_update, read_state

F32 = NDArray[np.float32]
KEYS = EncodeKeys(0, 0)
STATE = np.array([0.5, 0, -0.0, -2, 1e-45, 0, 3e38, -1e-45, 0], np.float32)
PLACES = [0, 3, 4, 6, 7]


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def test_the_values_of_the_support_travel_and_nothing_else() -> None:
    codec = Support().bind(STATE)
    x = np.zeros(9, np.float32)
    x[PLACES] = [1, -2, 0, 4, -5]
    assert codec.encode(x, KEYS) == floats(1, -2, 0, 4, -5)
    assert codec.decode(floats(1, -2, 0, 4, -5), 9, 0).tobytes() == x.tobytes()


def test_zeros_of_either_sign_are_outside_and_the_smallest_numbers_inside() -> None:
    body = Support().bind(STATE).encode(np.zeros(9, np.float32), KEYS)
    assert len(body) == 4 * len(PLACES)


def test_a_state_of_zeros_sends_nothing() -> None:
    codec = Support().bind(np.zeros(5, np.float32))
    assert codec.encode(np.zeros(5, np.float32), KEYS) == b""
    assert codec.decode(b"", 5, 0).tobytes() == bytes(20)


def test_large_vectors_are_read_in_pieces() -> None:
    state = np.where(noisy(2 * CHUNK + 77, 1) > 0, np.float32(1), np.float32(0))
    state[:CHUNK] = 0  # a piece without any
    x = noisy(state.size, 2) * state
    codec = Support().bind(state)
    reader = codec.open(codec.encode(x, KEYS), x.size, 0, 1.0)
    for start in (2 * CHUNK, 0, CHUNK):
        for length in (1, 7, 77):
            out = np.full(length, np.nan, np.float32)
            reader.read(start, out)
            assert np.array_equal(out, x[start : start + length])


def test_a_value_outside_the_support_is_not_lost_silently() -> None:
    for at in (1, 2, 5, 8):
        x = np.zeros(9, np.float32)
        x[at] = 1e-45
        with pytest.raises(EncodeError, match="pruned weights must stay zero"):
            Support().bind(STATE).encode(x, KEYS)
    x = np.zeros(9, np.float32)
    x[1] = -0.0
    assert Support().bind(STATE).encode(x, KEYS) == bytes(20)


def test_a_bound_codec_does_not_follow_the_state() -> None:
    state = STATE.copy()
    plain = Support()
    codec = plain.bind(state)
    state[:] = 1
    assert len(codec.encode(np.zeros(9, np.float32), KEYS)) == 20
    assert plain.places is None
    assert codec.bind(state).encode(np.zeros(9, np.float32), KEYS) == bytes(36)


@pytest.mark.parametrize("codec", [Support(), Support().bind(STATE[:8]), Support().bind(np.ones(10, np.float32))])
def test_without_a_state_of_this_size_it_neither_reads_nor_writes(codec: Support) -> None:
    with pytest.raises(ConfigError, match="bound to a state of"):
        codec.encode(np.zeros(9, np.float32), KEYS)
    with pytest.raises(ConfigError, match="asked for 9"):
        codec.open(bytes(20), 9, 0, 1.0)


def test_what_it_says_of_itself() -> None:
    codec = Support().bind(STATE)
    assert codec.needs_state
    assert codec.bound(3.0) == 3
    assert codec.params() == b""
    assert Support.from_params(b"") == Support() == codec
    assert codec.planes == {Plane.VALUE}, "what is kept is the same for all clients"
    with pytest.raises(MalformedFrameError, match="no parameters, got 1 bytes"):
        Support.from_params(b"\0")


LIMIT = 100.0


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", MalformedFrameError),
        (bytes(16), MalformedFrameError),
        (bytes(19), MalformedFrameError),
        (bytes(21), MalformedFrameError),
        (bytes(36), MalformedFrameError),
        (floats(0, 0, 0, 0, np.nan), NonFiniteError),
        (floats(np.inf, 0, 0, 0, 0), NonFiniteError),
        (floats(0, 0, -np.inf, 0, 0), NonFiniteError),
        (floats(0, 101, 0, 0, 0), BoundError),
        (floats(0, 0, 0, 0, np.nextafter(np.float32(-100), np.float32(-101))), BoundError),
    ],
)
def test_hostile_bodies(body: bytes, error: type[FrameError]) -> None:
    with pytest.raises(error) as caught:
        Support().bind(STATE).open(body, 9, 0, LIMIT)
    assert caught.type is error


def test_the_limit_itself_is_accepted() -> None:
    assert Support().bind(STATE).decode(floats(100, -100, 0, 0, 0), 9, 0, LIMIT)[[0, 3]].tolist() == [100, -100]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_not_encoded(value: float) -> None:
    for at in (0, 1):
        x = np.zeros(9, np.float32)
        x[at] = value
        with pytest.raises(EncodeError, match=f"the first at {at}"):
            Support().bind(STATE).encode(x, KEYS)


# --- within frames ---------------------------------------------------------------------------------------------------


def _server() -> Server:
    state = noisy(LAYOUT.size, 1, 1.0)
    state[[0, 4, 20, 22]] = 0  # the last one is dense: it is sent all the same
    return Server(LAYOUT, method("fedsparsify-global").scheme(), state, SECRET, run=bytes(16))


def _update() -> F32:
    x = noisy(LAYOUT.size, 2)
    x[[0, 4, 20]] = 0
    return x


def test_the_state_is_taken_from_the_broadcast() -> None:
    server = _server()
    round_ = server.begin(1, ["ann"])
    broadcast = Frame.from_bytes(round_.broadcast("ann"))
    frame = encode_update(broadcast, LAYOUT, _update(), weight=3, sampling_key=1)
    assert frame.account()["coded"] == 4 * (LAYOUT.span(Group.CODED).stop - 3)
    given = encode_update(broadcast, LAYOUT, _update(), weight=3, sampling_key=1, state=read_state(broadcast, LAYOUT))
    assert given == frame
    round_.add("ann", frame.to_bytes())
    # One client: in units of 2^-20 / 3 or less, half of it off at most, and rounded to float32.
    np.testing.assert_allclose(round_.aggregator.finish(), _update(), rtol=2.0**-24, atol=2.0**-22)
    assert not round_.aggregator.finish()[[0, 4, 20]].any()


def test_an_update_where_the_state_is_pruned_is_not_made() -> None:
    broadcast = Frame.from_bytes(_server().begin(1, ["ann"]).broadcast("ann"))
    with pytest.raises(EncodeError, match="pruned weights must stay zero"):
        encode_update(broadcast, LAYOUT, noisy(LAYOUT.size, 2), weight=3, sampling_key=1)


def test_a_client_that_sends_more_or_less_than_the_support_is_refused() -> None:
    server = _server()
    round_ = server.begin(1, ["ann"])
    good = encode_update(Frame.from_bytes(round_.broadcast("ann")), LAYOUT, _update(), weight=3, sampling_key=1)
    coded = good.sections[0]
    for body in (bytes(coded.body)[:-4], bytes(coded.body) + bytes(4), bytes(4 * coded.count)):
        bad = replace(good, sections=(replace(coded, body=body), *good.sections[1:]))
        with pytest.raises(MalformedFrameError, match="raw values take"):
            round_.add("ann", bad.to_bytes())
    assert round_.aggregator.count == 0


def test_a_state_does_not_travel_as_an_update_of_itself() -> None:
    broadcast = Frame.from_bytes(_server().begin(1, ["ann"]).broadcast("ann"))
    bad = tuple(replace(s, codec=Support.id) if s.role is Role.STATE else s for s in broadcast.sections)
    with pytest.raises(MalformedFrameError, match="codec support is for updates of a state"):
        read_state(replace(broadcast, sections=bad), LAYOUT)
