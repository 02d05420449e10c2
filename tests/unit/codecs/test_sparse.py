"""Top-k: which elements are kept, that their places come back, what they cost, what is refused."""

from math import floor, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedmrn.codecs.base import EncodeKeys, Plane
from fedmrn.codecs.sparse import Sparse
from fedmrn.errors import (
    BoundError,
    ConfigError,
    EncodeError,
    FrameError,
    MalformedFrameError,
    NonFiniteError,
    PaddingError,
)

KEYS = EncodeKeys(1, 2)
F32 = NDArray[np.float32]


def vector(size: int, seed: int = 0) -> F32:
    return np.random.default_rng(seed).standard_t(3, size).astype(np.float32)


def top(x: F32, k: int) -> F32:
    """By sorting: the k largest magnitudes, ties to the first."""
    kept = np.zeros(x.size, np.float32)
    order = sorted(range(x.size), key=lambda i: (-abs(float(x[i])), i))[:k]
    kept[order] = x[order]
    return kept


@pytest.mark.parametrize("density", [2.0**-20, 0.01, 0.03, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("size", [1, 2, 31, 33, 1000])
def test_the_largest_come_back(size: int, density: float) -> None:
    codec = Sparse(density)
    for x in (vector(size), np.round(vector(size)) + np.float32(0), np.zeros(size, np.float32)):
        body = codec.encode(x, KEYS)
        k = max(1, floor(float(np.float32(density)) * size + 0.5))
        assert codec.decode(body, size, 1).tobytes() == top(x, k).tobytes()


@given(st.integers(1, 3000), st.floats(0.001, 1), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_any_pattern_comes_back(size: int, density: float, seed: int) -> None:
    codec, x = Sparse(density), vector(size, seed)
    found = codec.decode(codec.encode(x, KEYS), size, 1)
    assert np.count_nonzero(found) == codec.kept(size)
    assert np.array_equal(found[found != 0], x[found != 0])
    assert np.abs(x[found == 0]).max(initial=0) <= np.abs(found[found != 0]).min()


@pytest.mark.parametrize("density", [0.001, 0.01, 0.03, 0.1, 0.3])
def test_places_cost_nearly_their_entropy(density: float) -> None:
    """A Rice code of geometric gaps is within 5 % of their entropy; the pattern's own entropy varies by 1 %."""
    size = 200_000
    codec = Sparse(density)
    body = codec.encode(vector(size), KEYS)
    bits = 8 * (len(body) - 4 * codec.kept(size)) / size
    entropy = -density * log2(density) - (1 - density) * log2(1 - density)
    assert entropy * 0.97 < bits < entropy * 1.06


def test_sixteen_bits() -> None:
    codec, x = Sparse(0.1, 16), vector(1000)
    body = codec.encode(x, KEYS)
    assert np.array_equal(codec.decode(body, 1000, 1), top(x, 100).astype(np.float16).astype(np.float32))
    assert len(Sparse(0.1).encode(x, KEYS)) - len(body) == 200
    with pytest.raises(EncodeError, match="too large for 16 bits"):
        codec.encode(np.full(10, 1e6, np.float32), KEYS)


def test_ranges() -> None:
    x = vector(50_000)
    codec = Sparse(0.05)
    reader = codec.open(codec.encode(x, KEYS), x.size, 1, 1e9)
    whole = top(x, codec.kept(x.size))
    for start, stop in ((0, 50_000), (16_384, 32_768), (49_152, 50_000)):
        out = np.empty(stop - start, np.float32)
        reader.read(start, out)
        assert np.array_equal(out, whole[start:stop])


def test_the_plane_of_what_was_sent() -> None:
    """One where an element was kept, also where its value is zero."""
    x = vector(50_000)
    x[::2] = 0
    codec = Sparse(0.6)
    reader = codec.open(codec.encode(x, KEYS), x.size, 1, 1e9)
    order = sorted(range(x.size), key=lambda i: (-abs(float(x[i])), i))
    expected = np.zeros(x.size, np.float32)
    expected[order[: codec.kept(x.size)]] = 1
    assert np.count_nonzero(x) < expected.sum() == 30_000
    for start, stop in ((0, 50_000), (16_384, 32_768), (49_152, 50_000), (0, 1)):
        out = np.full(stop - start, np.nan, np.float32)
        reader.plane(Plane.KEPT).read(start, out)
        assert np.array_equal(out, expected[start:stop])
    for plane in (Plane.SIGN, Plane.SCALE):
        with pytest.raises(ConfigError, match=f"no plane {plane.value}"):
            reader.plane(plane)


def test_what_is_refused() -> None:
    codec, x = Sparse(0.1), vector(100)
    body = codec.encode(x, KEYS)
    values, gaps = body[:40], body[40:]
    cases: list[tuple[bytes, type[FrameError]]] = [
        (values, MalformedFrameError),
        (body[:-1], MalformedFrameError),
        (body + b"\0", MalformedFrameError),
        (values[:20], MalformedFrameError),
        (np.array([np.nan], "<f4").tobytes() + body[4:], NonFiniteError),
        (np.array([-np.inf], "<f4").tobytes() + body[4:], NonFiniteError),
        (np.array([2e9], "<f4").tobytes() + body[4:], BoundError),
        (values + b"\xff" * len(gaps), MalformedFrameError),
        (values + b"\xff" * 100_000, MalformedFrameError),
    ]
    for bad, error in cases:
        with pytest.raises(error):
            codec.open(bad, 100, 1, 1e9)
    used = sum((int(g) >> codec.rice) + 1 + codec.rice for g in np.diff(np.flatnonzero(top(x, 10)), prepend=-1) - 1)
    if used % 8:
        with pytest.raises(PaddingError):
            codec.open(body[:-1] + bytes([body[-1] | 0x80]), 100, 1, 1e9)
    for count in (1 << 31, 1 << 61, (1 << 64) - 1):
        with pytest.raises(MalformedFrameError):
            codec.open(body, count, 1, 1e9)


@pytest.mark.parametrize(("density", "bits"), [(0, 32), (-1, 32), (1.5, 32), (float("nan"), 32), (0.1, 8)])
def test_impossible_settings(density: float, bits: int) -> None:
    with pytest.raises(ConfigError):
        Sparse(density, bits)
