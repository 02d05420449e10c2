"""Float8: every byte, rounding that keeps the mean, its exponent, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import oracle
from fedmrn.codecs import CHUNK, EncodeKeys, Float8
from fedmrn.codecs.float8 import LEAST_TOP, MOST_TOP
from fedmrn.errors import BoundError, EncodeError, FrameError, MalformedFrameError

CODEC = Float8()
KEYS = EncodeKeys(1, 2)
BYTES = bytes(code for code in range(256) if code != 0x80)


def sent(x: NDArray[np.float32], sampling: int = 2) -> NDArray[np.float32]:
    body = CODEC.encode(x, EncodeKeys(1, sampling))
    assert len(body) == 1 + x.size
    values = CODEC.decode(body, x.size, 1)
    assert oracle.decode(16, b"", x.size, body, 1, []) == values.tolist()
    return values


@pytest.mark.parametrize("top", [LEAST_TOP, -3, 0, 17, MOST_TOP])
def test_every_byte(top: int) -> None:
    body = top.to_bytes(1, "little", signed=True) + BYTES
    values = CODEC.decode(body, 255, 1)
    assert values.tolist() == oracle.decode(16, b"", 255, body, 1, [])
    assert values.max() == np.float32(1.9375 * 2.0**top) == -values.min()
    assert np.unique(values).size == 255
    assert CODEC.encode(values, KEYS) == body, "what it can say is exact"


@settings(deadline=None)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=40), st.integers(0, 2**32))
def test_a_value_goes_to_a_neighbour(values: list[float], sampling: int) -> None:
    x = np.array(values, np.float32)
    got = sent(x, sampling).astype(np.float64)
    largest = float(np.abs(x).max(initial=0))
    assert (np.abs(got - x) <= np.maximum(np.abs(x) / 16, max(largest, 2.0**LEAST_TOP) * 2.0**-9)).all()
    assert (got * x >= 0).all()
    assert np.abs(got).max(initial=0) <= largest * 1.0625


def test_rounding_keeps_the_mean() -> None:
    """10,000 clients: the error of a mean is at most a step of 1/16 over twice 100, times 5."""
    x = np.array([1.0, 0.3, -0.011, 7.3e-4, -1.9e-5, 1e-7], np.float32)
    mean = np.mean([sent(x, k).astype(float) for k in range(10_000)], axis=0)
    step = np.maximum(2.0 ** np.floor(np.log2(np.abs(x))) / 16, 2.0**-10)
    assert (np.abs(mean - x) <= 5 * step / 200).all()


def test_large_neighbours_cost_little() -> None:
    """What no level of a norm can: a change of 20 in the logarithm of one variance leaves the others their digits."""
    x = np.full(64, 0.1, np.float32)
    x[5] = 20
    assert np.abs(np.delete(sent(x), 5) - 0.1).max() <= 2.0**-6


def test_more_than_a_chunk() -> None:
    x = (np.random.Generator(np.random.Philox(1)).standard_normal(CHUNK + 5)).astype(np.float32)
    got = sent(x)
    assert np.abs(got - x).max() < np.abs(x).max() / 16
    assert ((got - x) ** 2).mean() < 0.0008  # steps of 1/16 of a power of two, rounded at random: 1/16^2 / 6 of x^2


def test_the_ends() -> None:
    assert CODEC.encode(np.empty(0, np.float32), KEYS) == bytes([256 + LEAST_TOP])
    assert CODEC.encode(np.zeros(3, np.float32), KEYS) == bytes([256 + LEAST_TOP, 0, 0, 0])
    assert sent(np.array([-0.0, 1e-45, -1e-45], np.float32)).tolist() == [0, 0, 0]
    most = np.float32(1.9375 * 2.0**MOST_TOP)
    assert sent(np.array([most, -most], np.float32)).tolist() == [most, -most]
    assert CODEC.holds(np.array([most], np.float32))
    assert not CODEC.holds(np.array([np.nextafter(most, np.float32(np.inf))], np.float32))
    with pytest.raises(EncodeError, match="too large for 8-bit floats"):
        CODEC.encode(np.array([3e38], np.float32), KEYS)
    with pytest.raises(EncodeError, match="NaN or infinite"):
        CODEC.encode(np.array([np.nan], np.float32), KEYS)


@pytest.mark.parametrize("limit", [65536.0, 0.1, 1e-3, 1.8750001, 1e30])
def test_what_is_fitted_is_accepted(limit: float) -> None:
    x = np.array([limit * 0.999, -limit * 7, 0.01 * limit, 3e38], np.float32)
    fitted = CODEC.fitted(x, limit)
    for sampling in range(20):
        body = CODEC.encode(fitted, EncodeKeys(1, sampling))
        assert np.abs(CODEC.decode(body, x.size, 1, limit)).max() <= limit
    small = np.array([limit / 100], np.float32)
    assert CODEC.fitted(small, limit) is small


@pytest.mark.parametrize(
    ("body", "count", "error", "message"),
    [
        (b"", 0, MalformedFrameError, "0 8-bit values take 1 bytes, the section has 0"),
        (b"\0\1", 2, MalformedFrameError, "2 8-bit values take 3 bytes, the section has 2"),
        (b"\0\1\1\1", 2, MalformedFrameError, "take 3 bytes, the section has 4"),
        (bytes([101, 1]), 1, MalformedFrameError, "an exponent of 8-bit floats is -100 to 100, got 101"),
        (bytes([256 - 101, 1]), 1, MalformedFrameError, "got -101"),
        (bytes([0, 0x80]), 1, MalformedFrameError, "an 8-bit value is -0"),
        (bytes([17, 0, 0xF0]), 2, BoundError, "has magnitude 131072; at most 65536 is accepted"),
    ],
)
def test_what_is_refused(body: bytes, count: int, error: type[FrameError], message: str) -> None:
    with pytest.raises(error, match=message):
        CODEC.open(body, count, 1, 65536.0)


def test_parameters() -> None:
    assert Float8.from_params(b"") == CODEC
    assert CODEC.params() == b""
    assert CODEC.elementwise
    with pytest.raises(FrameError, match="codec float8 has no parameters"):
        Float8.from_params(b"\0")
