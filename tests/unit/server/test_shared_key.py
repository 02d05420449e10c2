"""One noise key for all clients of a round: the sum of their masks, small integers, is all that the mean needs."""

from fractions import Fraction

import numpy as np
import pytest
from core_examples import CLIENTS, LAYOUT, SECRET, noisy

import oracle
from fedmrn.codecs import ToldScale
from fedmrn.errors import ConfigError, DuplicateFrameError, LimitError, WrongKeyError, WrongRoundError
from fedmrn.methods import METHODS, method
from fedmrn.numerics.masking import MaskType, probability
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.numerics.rng import derive_key
from fedmrn.server import Round, Server
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group
from fedmrn.wire.messages import encode_update

CODED = LAYOUT.span(Group.CODED).stop
WEIGHTS = {"ann": 3, "bob": 20, "cyd": 7}
RUN = "00" * 16
ROWS = [name for name, row in METHODS.items() if "noise_key" in row.options]


def _server(name: str = "fedmrn", secret: bytes = SECRET, *, scale: float | str = 0.01, **options: object) -> Server:
    scheme = method(name).scheme({"noise_key": "round", "scale": scale, **options})
    return Server(LAYOUT, scheme, noisy(LAYOUT.size, 1, 1.0), secret, run=bytes(16))


def _answer(
    round_: Round, client: str, vector: np.ndarray, *, weight: int = 1, sampling_key: int | None = None
) -> bytes:
    broadcast = Frame.from_bytes(round_.broadcast(client))
    key = ord(client[0]) if sampling_key is None else sampling_key
    return encode_update(broadcast, LAYOUT, vector, weight=weight, sampling_key=key).to_bytes()


def _keys(server: Server, number: int) -> set[int]:
    round_ = server.begin(number, CLIENTS)
    return {Frame.from_bytes(round_.broadcast(c)).noise_key for c in CLIENTS}


def test_the_rows_that_have_the_option() -> None:
    """Not those of random codes, whose candidates a shared key would make the same for all clients."""
    assert ROWS == ["fedmrn", "fedmrn-s", "fedmrn-no-pm", "fedmrn-no-sm", "fedmrn-post"]
    for name in ROWS:
        assert not method(name).scheme().shared_key
        assert method(name).scheme({"noise_key": "client"}) == method(name).scheme()
        assert isinstance(method(name).scheme({"noise_key": "round"}).codecs[Group.CODED], ToldScale)
        assert method(name).scheme({"noise_key": "round"}).shared_key
    assert not any(row.scheme().shared_key for row in METHODS.values())
    with pytest.raises(ConfigError, match="noise_key 'rounds' does not exist; did you mean 'round'"):
        method("fedmrn-s").scheme({"noise_key": "rounds"})


@pytest.mark.parametrize("name", ROWS)
def test_all_clients_of_a_round_have_one_key_and_rounds_have_different_ones(name: str) -> None:
    server = _server(name)
    found = [_keys(server, number) for number in (1, 2, 3)]
    assert found == [{oracle.derived_key(SECRET, "noise", RUN, number)} for number in (1, 2, 3)]
    assert len(set.union(*found)) == 3
    assert found[0] != _keys(_server(name, secret=bytes(16)), 1)
    own = {derive_key(SECRET, "noise", RUN, number, c) for number in (1, 2, 3) for c in CLIENTS}
    assert not own & set.union(*found), "no key of a single client"


def test_broadcasts_of_a_round_are_the_same_bytes() -> None:
    round_ = _server().begin(1, CLIENTS)
    assert len({round_.broadcast(c) for c in CLIENTS}) == 1


def test_clients_still_draw_with_randomness_of_their_own() -> None:
    round_ = _server("fedmrn-s").begin(1, CLIENTS)
    vector = noisy(LAYOUT.size, 5, 0.0001)
    assert len({Frame.from_bytes(_answer(round_, c, vector)).sections[0].body for c in CLIENTS}) == 3
    assert _answer(round_, "ann", vector) == _answer(round_, "bob", vector, sampling_key=ord("a"))


@pytest.mark.parametrize("law", ["uniform", "gaussian", "bernoulli"])
@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s"])
def test_the_sum_is_the_noise_times_the_sum_of_masks(name: str, law: str) -> None:
    """Exactly, as integers: bit by bit from the bytes, noise from the oracle. Clients alike, in units of the fold."""
    server = _server(name, noise=law)
    round_ = server.begin(4, CLIENTS)
    masks = []
    for i, c in enumerate(CLIENTS):
        data = _answer(round_, c, noisy(LAYOUT.size, 10 + i))
        round_.add(c, data)
        masks.append(oracle.unpacked(bytes(Frame.from_bytes(data).sections[0].body), CODED))
    key, scale = oracle.derived_key(SECRET, "noise", RUN, 4), server.scheme.codecs[Group.CODED].noise.scale  # type: ignore[attr-defined]
    number = {"uniform": 0, "gaussian": 1, "bernoulli": 2}[law]
    noise = [oracle.noise(number, scale, key, i) for i in range(CODED)]
    summed = [sum(mask[i] for mask in masks) for i in range(CODED)]
    assert set(summed) > {1, 2}, "clients that disagree"
    multiples = [2 * s - 3 for s in summed] if name == "fedmrn-s" else summed
    mean = round_.aggregator.finish()[:CODED]
    exponent = round_.aggregator.sums.exponents[Group.CODED]
    units = [round(Fraction(n) * 2**exponent) for n in noise]
    expected = [u * m for u, m in zip(units, multiples, strict=True)]
    assert round_.aggregator.sums.integers[:CODED].tolist() == expected
    # The exact third of the sum, rounded to double (its factor too) and then to float32.
    for found, total in zip(mean.tolist(), expected, strict=True):
        exact = Fraction(total, 3) / 2**exponent
        assert abs(Fraction(found) - exact) <= abs(exact) * Fraction(101, 100) / 2**24


@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s"])
def test_weights_are_small_integers_too(name: str) -> None:
    """Noise of a scale that is a power of two is exact in the fold's units, and so is any weight times it."""
    server = _server(name, scale=2.0**-7, noise="uniform")
    round_ = server.begin(1, CLIENTS)
    summed = [0] * CODED
    for i, c in enumerate(CLIENTS):
        data = _answer(round_, c, noisy(LAYOUT.size, 10 + i), weight=WEIGHTS[c])
        round_.add(c, data)
        for at, bit in enumerate(oracle.unpacked(bytes(Frame.from_bytes(data).sections[0].body), CODED)):
            summed[at] += WEIGHTS[c] * bit
    assert all(0 <= s <= 30 for s in summed)
    key = oracle.derived_key(SECRET, "noise", RUN, 1)
    round_.aggregator.finish()
    for at, total in enumerate(round_.aggregator.sums.integers[:CODED].tolist()):
        noise = Fraction(oracle.noise(0, 2.0**-7, key, at))
        multiple = 2 * summed[at] - 30 if name == "fedmrn-s" else summed[at]
        assert Fraction(total) == noise * multiple * 2 ** round_.aggregator.sums.exponents[Group.CODED]


def test_a_client_answers_once_and_another_may_with_the_same_key() -> None:
    round_ = _server().begin(1, CLIENTS)
    data = {c: _answer(round_, c, noisy(LAYOUT.size, i)) for i, c in enumerate(CLIENTS)}
    round_.add("ann", data["ann"])
    frame = Frame.from_bytes(data["ann"])
    before = round_.aggregator.sums.integers.tobytes()
    with pytest.raises(DuplicateFrameError, match="client ann answered already"):
        round_.add("ann", data["bob"])
    with pytest.raises(DuplicateFrameError, match="a frame of this client was folded"):
        round_.aggregator.add(frame, frame.noise_key, "ann")
    assert (round_.aggregator.sums.integers.tobytes(), round_.aggregator.count) == (before, 1)
    round_.add("bob", data["bob"])
    round_.add("cyd", data["cyd"])
    assert round_.aggregator.count == 3
    with pytest.raises(LimitError, match="planned for 3 clients"):
        round_.aggregator.add(frame, frame.noise_key, "dan")


def test_a_frame_of_another_round_or_key_is_refused() -> None:
    server = _server()
    first, second = server.begin(1, CLIENTS), server.begin(2, CLIENTS)
    data = bytearray(_answer(first, "ann", noisy(LAYOUT.size, 1)))
    with pytest.raises(WrongRoundError):
        second.add("ann", bytes(data))
    own = Server(
        LAYOUT, method("fedmrn").scheme({"scale": 0.01}), noisy(LAYOUT.size, 1, 1.0), SECRET, run=bytes(16)
    ).begin(1, CLIENTS)
    for round_, other in ((first, own), (own, first)):
        with pytest.raises(WrongKeyError):
            round_.add("ann", _answer(other, "ann", noisy(LAYOUT.size, 1)))
        assert round_.aggregator.count == 0


def test_partial_sums_know_their_clients() -> None:
    server = _server()
    rounds = [server.begin(1, CLIENTS) for _ in range(3)]
    data = {c: _answer(rounds[0], c, noisy(LAYOUT.size, i)) for i, c in enumerate(CLIENTS)}
    for round_, clients in zip(rounds, (("ann", "bob"), ("bob",), ("cyd",)), strict=True):
        for c in clients:
            round_.add(c, data[c])
    left, overlapping, right = (round_.aggregator for round_ in rounds)
    before = left.sums.integers.tobytes()
    with pytest.raises(DuplicateFrameError, match="both aggregators folded a frame of the same client"):
        left.merge(overlapping)
    assert (left.sums.integers.tobytes(), left.count) == (before, 2)
    left.merge(right)
    whole = server.begin(1, CLIENTS)
    for c in CLIENTS:
        whole.add(c, data[c])
    assert left.count == 3
    assert left.finish().tobytes() == whole.aggregator.finish().tobytes()


def test_what_a_shared_key_does_to_the_mean() -> None:
    """The expected values of the codewords, of four clients whose updates stay below the noise (secure-aggregation.md).

    Binary: half of the mean update, and a kick of half of the mean magnitude in the noise's direction, the same for all
    clients. Signed: the mean update, whatever the noise. Float32 rounds p, p + 1 and half of it by 2^-24 at most each,
    and the exact products are taken in double.
    """
    n = NoiseSpec(Law.UNIFORM, 0.01).chunk(7, 0, 4096)
    share = np.stack([noisy(n.size, key, 1.0) for key in range(1, 5)])  # of the noise, in [-1, 1)
    u = (share * np.abs(n)).astype(np.float32)
    wide = n.astype(np.float64)
    binary = np.mean([probability(v, n, MaskType.BINARY) * wide for v in u], axis=0)
    signed = np.mean([(2.0 * probability(v, n, MaskType.SIGNED) - 1) * wide for v in u], axis=0)
    mean, size = u.mean(0, dtype=np.float64), np.abs(u).mean(0, dtype=np.float64)
    kick = np.sign(wide) * size / 2
    assert (np.abs(binary - (mean / 2 + kick)) <= np.abs(wide) * 2.0**-24).all()
    assert (np.abs(signed - mean) <= np.abs(wide) * 2.0**-22).all()
    assert np.abs(kick).mean() > 0.2 * np.abs(wide).mean(), "not a small effect: E|share| / 2 is 1/4"
