from fractions import Fraction

import numpy as np
import pytest
from core_examples import CLIENTS, LAYOUT, SECRET, begin, noisy, update

from fedmrn.errors import (
    ChecksumError,
    ConfigError,
    DuplicateFrameError,
    EmptyRoundError,
    UnknownClientError,
    WrongKeyError,
    WrongKindError,
    WrongRoundError,
)
from fedmrn.frame import Frame, Kind, Limits
from fedmrn.rng import derive_key
from fedmrn.scheme import method
from fedmrn.server import Server
from fedmrn.update import encode_update, read_state


def _server(name: str = "fedavg", **options: object) -> Server:
    return Server(LAYOUT, method(name).scheme(), noisy(LAYOUT.size, 1, 1.0), SECRET, **options)  # type: ignore[arg-type]


def test_broadcasts_differ_in_the_key_alone() -> None:
    round_ = begin(number=7)
    frames = {c: Frame.from_bytes(round_.broadcast(c), kind=Kind.BROADCAST) for c in CLIENTS}
    for client, frame in frames.items():
        assert frame.noise_key == derive_key(SECRET, "noise", 7, client)
        assert (frame.round, frame.method, frame.weight) == (7, 2, 0)
        assert frame.sections == frames["ann"].sections
        assert np.array_equal(read_state(frame, LAYOUT), noisy(LAYOUT.size, 1, 1.0))
    assert len({f.noise_key for f in frames.values()}) == 3
    assert Frame.from_bytes(begin(number=8).broadcast("ann")).noise_key != frames["ann"].noise_key


def test_a_number_and_its_text_are_two_clients() -> None:
    round_ = _server().begin(1, [1, "1"])
    assert Frame.from_bytes(round_.broadcast(1)).noise_key != Frame.from_bytes(round_.broadcast("1")).noise_key


def test_a_round_of_fedavg_is_the_weighted_mean() -> None:
    server = _server()
    before = server.state.copy()
    round_ = server.begin(1, CLIENTS)
    weights = {"ann": 3, "bob": 50, "cyd": 7}
    vectors = {c: noisy(LAYOUT.size, 10 + i) for i, c in enumerate(CLIENTS)}
    for c in CLIENTS:
        frame = encode_update(
            Frame.from_bytes(round_.broadcast(c)), LAYOUT, vectors[c], weight=weights[c], sampling_key=0
        )
        assert round_.add(c, frame.to_bytes()) == frame
    mean = [float(sum(weights[c] * Fraction(float(vectors[c][i])) for c in CLIENTS) / 60) for i in range(LAYOUT.size)]
    after = round_.finish()
    assert after is server.state
    # The mean is rounded to float32, and then the sum with the state: half a unit of each in the last place.
    assert np.abs(after - (before.astype(np.float64) + mean)).max() <= 2.0**-25 + 2.0**-30
    assert not np.array_equal(after, before)


def test_the_next_round_sends_the_new_state() -> None:
    server = _server("fedmrn-s")
    round_ = server.begin(1, CLIENTS)
    round_.add("bob", update(round_, "bob"))
    state = round_.finish()
    assert np.array_equal(read_state(Frame.from_bytes(server.begin(2, CLIENTS).broadcast("ann")), LAYOUT), state)


def test_a_client_answers_once() -> None:
    round_ = begin()
    round_.add("ann", update(round_, "ann"))
    with pytest.raises(DuplicateFrameError, match="client ann answered already"):
        round_.add("ann", update(round_, "ann", seed=6))
    assert round_.aggregator.count == 1


def test_a_client_may_try_again_after_a_refusal() -> None:
    round_ = begin()
    good = update(round_, "ann")
    with pytest.raises(ChecksumError):
        round_.add("ann", good[:-1] + bytes([good[-1] ^ 1]))
    round_.add("ann", good)
    assert round_.aggregator.count == 1


def test_a_client_that_was_not_asked() -> None:
    round_ = begin()
    with pytest.raises(UnknownClientError, match="client dan was not asked in round 1"):
        round_.broadcast("dan")
    with pytest.raises(UnknownClientError, match="client dan"):
        round_.add("dan", update(round_, "ann"))
    assert round_.aggregator.count == 0


def test_a_frame_is_its_clients_own() -> None:
    round_ = begin()
    with pytest.raises(WrongKeyError):
        round_.add("bob", update(round_, "ann"))
    with pytest.raises(WrongKindError):
        round_.add("bob", round_.broadcast("bob"))
    assert round_.aggregator.count == 0


def test_an_empty_round_keeps_the_state() -> None:
    server = _server()
    before = server.state.tobytes()
    with pytest.raises(EmptyRoundError, match="round 4"):
        server.begin(4, CLIENTS).finish()
    assert server.state.tobytes() == before


def test_a_round_needs_a_client() -> None:
    with pytest.raises(ConfigError, match="at least one client"):
        _server().begin(1, [])


@pytest.mark.parametrize("state", [np.zeros(28, np.float32), np.zeros((29, 1), np.float32), np.zeros(29)])
def test_a_state_of_another_shape_or_type(state: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="the state must be float32 of shape"):
        Server(LAYOUT, method("fedavg").scheme(), state, SECRET)


@pytest.mark.parametrize("size", [0, 15, 65])
def test_a_secret_has_16_to_64_bytes(size: int) -> None:
    with pytest.raises(ConfigError, match=f"16 to 64 bytes, got {size}"):
        Server(LAYOUT, method("fedavg").scheme(), np.zeros(29, np.float32), bytes(size))


def test_limits_reach_the_aggregator() -> None:
    round_ = _server(limits=Limits(max_weight=5), threads=2).begin(1, CLIENTS)
    assert round_.aggregator.limits == Limits(max_weight=5)
    assert round_.aggregator.threads == 2
    assert round_.aggregator.max_clients == 3


def test_a_finished_round_is_over() -> None:
    server = _server()
    round_ = server.begin(1, ["ann", "bob"])
    data = encode_update(
        Frame.from_bytes(round_.broadcast("ann")), LAYOUT, noisy(LAYOUT.size, 2), weight=1, sampling_key=0
    ).to_bytes()
    round_.add("ann", data)
    state = round_.finish().copy()
    with pytest.raises(WrongRoundError, match="finished"):
        round_.finish()
    with pytest.raises(WrongRoundError, match="finished"):
        round_.add("bob", data)
    assert np.array_equal(server.state, state)


@pytest.mark.parametrize("number", [0, -1, 1 << 32])
def test_rounds_are_numbered_from_one_in_32_bits(number: int) -> None:
    with pytest.raises(ConfigError, match="numbered from 1"):
        _server().begin(number, ["ann"])
