"""Bernoulli: which bits are drawn, with which law, and what is refused."""

import numpy as np
import pytest
from numpy.typing import NDArray

import oracle
from fedmrn.codecs.base import CHUNK, EncodeKeys, Plane
from fedmrn.codecs.bernoulli import Bernoulli
from fedmrn.errors import ConfigError, EncodeError, FrameError, MalformedFrameError, PaddingError
from fedmrn.numerics.rng import Stream

F32 = NDArray[np.float32]
CODEC = Bernoulli(5)


def _drawn(x: F32, sampling: int = 1, noise: int = 0) -> F32:
    return CODEC.decode(CODEC.encode(x, EncodeKeys(noise, sampling)), x.size, noise)


def test_a_bit_is_one_where_the_clients_own_draw_is_below_the_probability() -> None:
    p = Stream(1, 1).uniform(0, 1030)
    bits = _drawn(p, sampling=42)
    for i in [*range(100), 255, 256, 1023, 1024, 1029]:
        assert bits[i] == (oracle.uniform(42, oracle.FINAL_MASK_DOMAIN, i) < float(p[i]))


def test_a_draw_that_equals_the_probability_is_a_zero() -> None:
    """So that 0 is never drawn and the bits of p = k / 2^24 are exactly that probable."""
    p = Stream(1, oracle.FINAL_MASK_DOMAIN).uniform(0, 100)
    assert _drawn(p).tolist() == [0] * 100
    assert _drawn(np.nextafter(p, np.float32(2))).tolist() == [1] * 100


def test_any_length_is_drawn_from_one_stream() -> None:
    p = np.full(2 * CHUNK + 5, 0.5, np.float32)
    bits = _drawn(p)
    assert np.array_equal(bits, Stream(1, oracle.FINAL_MASK_DOMAIN).uniform(0, p.size) < 0.5)
    assert np.array_equal(_drawn(p[: CHUNK + 1]), bits[: CHUNK + 1])


def test_the_mean_of_the_bits_is_the_probability() -> None:
    """A bit has variance p (1 - p): each of 50 means over 2,000 clients within 4.5 deviations, the ends exactly."""
    n, p = 2000, np.linspace(0, 1, 50).astype(np.float32)
    mean = np.mean([_drawn(p, key) for key in range(n)], axis=0, dtype=np.float64)
    exact = p.astype(np.float64)
    assert (np.abs(mean - exact) <= 4.5 * np.sqrt(exact * (1 - exact) / n)).all()
    assert (mean[0], mean[-1]) == (0, 1)


def test_values_outside_count_as_the_nearer_end() -> None:
    largest = np.finfo(np.float32).max
    x = np.tile(np.array([-largest, -1, -1e-45, -0.0, 0, 1, 1.5, largest], np.float32), 50)
    assert _drawn(x).reshape(50, 8).tolist() == [[0, 0, 0, 0, 0, 1, 1, 1]] * 50


def test_only_the_sampling_key_matters() -> None:
    p = np.full(1000, 0.5, np.float32)
    assert _drawn(p, 1, noise=0).tobytes() == _drawn(p, 1, noise=9).tobytes() != _drawn(p, 2).tobytes()
    assert Bernoulli(6).encode(p, EncodeKeys(0, 1)) == CODEC.encode(p, EncodeKeys(0, 1))


def test_a_bit_an_element_and_no_more() -> None:
    for size in (0, 1, 7, 8, 9, 1000):
        body = CODEC.encode(np.ones(size, np.float32), EncodeKeys(0, 1))
        assert body == ((1 << size) - 1).to_bytes(-(-size // 8), "little")
        assert CODEC.decode(body, size, 0).tolist() == [1] * size


def test_the_seed_travels() -> None:
    for seed in (0, 1, 0x0123456789ABCDEF, (1 << 64) - 1):
        params = Bernoulli(seed).params()
        assert params == seed.to_bytes(8, "little")
        assert Bernoulli.from_params(params) == Bernoulli(seed)


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_a_seed_of_more_than_64_bits(seed: int) -> None:
    with pytest.raises(ConfigError, match="unsigned 64-bit"):
        Bernoulli(seed)


@pytest.mark.parametrize("params", [b"", bytes(7), bytes(9)])
def test_parameters_of_another_length(params: bytes) -> None:
    with pytest.raises(MalformedFrameError, match="codec bernoulli cannot have parameters"):
        Bernoulli.from_params(params)


@pytest.mark.parametrize(
    ("body", "count", "error"),
    [
        (b"", 1, MalformedFrameError),
        (b"\0", 0, MalformedFrameError),
        (b"\xff", 9, MalformedFrameError),
        (b"\xff\x01\0", 9, MalformedFrameError),
        (b"\xff", 1 << 63, MalformedFrameError),
        (b"\xff", (1 << 64) - 1, MalformedFrameError),
        (b"\x02", 1, PaddingError),
        (b"\xff\x03", 9, PaddingError),
        (b"\xff\x81", 9, PaddingError),
        (b"\x80", 7, PaddingError),
    ],
)
def test_hostile_bodies(body: bytes, count: int, error: type[FrameError]) -> None:
    with pytest.raises(error) as caught:
        CODEC.open(body, count, 0, 1.0)
    assert caught.type is error


def test_values_are_at_most_one_whatever_the_limit() -> None:
    assert CODEC.bound(65536.0) == CODEC.bound(0.5) == 1
    assert CODEC.planes == {Plane.VALUE}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_probabilities_that_are_not_finite(value: float) -> None:
    with pytest.raises(EncodeError, match="the first at 2"):
        CODEC.encode(np.array([0.5, 0.5, value], np.float32), EncodeKeys(0, 1))
