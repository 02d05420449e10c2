"""Ternary and the packing of trits: against a slow reader, theory, and hostile bodies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sign import F32, LIMIT, SIZES, body_of, check_ranges, gaussian, slow_table, tensors

from fedmrn.codecs.base import CHUNK, EncodeKeys
from fedmrn.codecs.ternary import Ternary
from fedmrn.errors import BoundError, ConfigError, EncodeError, MalformedFrameError, NonFiniteError, PaddingError
from fedmrn.numerics.bits import check_trits, pack_trits, trits_size, unpack_trits
from fedmrn.numerics.rng import Stream

CLIPPED, FREE = Ternary(), Ternary(0.0)


def slow_ternary(body: bytes, count: int) -> F32:
    scales, trits = slow_table(body)
    digits = [trits[i // 5] // 3 ** (i % 5) % 3 for i in range(count)]
    return np.array([(0.0, scales[i], -scales[i])[t] for i, t in enumerate(digits)], np.float32)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(0, 2), max_size=60), st.data())
def test_trits(trits: list[int], data: st.DataObject) -> None:
    packed = pack_trits(np.array(trits, np.uint8))
    padded = trits + [0] * (-len(trits) % 5)
    groups = [padded[i : i + 5] for i in range(0, len(padded), 5)]
    assert list(packed) == [sum(t * 3**k for k, t in enumerate(g)) for g in groups]
    assert len(packed) == trits_size(len(trits))
    check_trits(packed, len(trits))
    start = data.draw(st.integers(0, len(trits)))
    stop = data.draw(st.integers(start, len(trits)))
    assert unpack_trits(np.frombuffer(packed, np.uint8), start, stop).tolist() == trits[start:stop]


@settings(deadline=None, max_examples=200)
@given(st.binary(min_size=1, max_size=4), st.integers(0, 4))
def test_any_bytes_of_trits_are_canonical_or_refused(data: bytes, unused: int) -> None:
    count = 5 * len(data) - unused
    last = data[-1] >= 3 ** (5 - unused) if unused else False
    if max(data) > 242:
        with pytest.raises(MalformedFrameError):
            check_trits(data, count)
    elif last:
        with pytest.raises(PaddingError):
            check_trits(data, count)
    else:
        check_trits(data, count)
        assert pack_trits(unpack_trits(np.frombuffer(data, np.uint8), 0, count)) == data


def test_trits_of_another_length_are_refused() -> None:
    for count in (0, 4, 5, 11, 1 << 63):
        with pytest.raises(ValueError, match="trits take"):
            check_trits(bytes(2), count)
    check_trits(b"", 0)
    assert pack_trits(np.empty(0, np.uint8)) == b""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("codec", [CLIPPED, FREE], ids=["clipped", "free"])
def test_a_slow_reader_agrees(codec: Ternary, size: int) -> None:
    x = gaussian(size)
    for sizes in ((), tensors(size)):
        body = codec.encode(x, EncodeKeys(0, 42, sizes))
        assert len(body) == 4 + 12 * max(1, np.count_nonzero(sizes)) + -(-size // 5)
        values = codec.decode(body, size, 0, LIMIT)
        assert np.array_equal(values, slow_ternary(body, size))
        check_ranges(codec, body, size)


def test_the_rule() -> None:
    x, sizes = gaussian(5 * CHUNK + 1000), (400, 5 * CHUNK + 600)
    words = Stream(42, 8 << 32).words(0, x.size)
    for codec in (CLIPPED, FREE):
        values = codec.decode(codec.encode(x, EncodeKeys(0, 42, sizes)), x.size, 0)
        for first, part in ((0, x[:400].astype(float)), (400, x[400:].astype(float))):
            s = np.abs(part).max()
            if codec.clip:
                s = min(s, 2.5 * np.sqrt(np.mean(part**2)))
            s = float(np.float32(s))
            p = np.minimum(np.abs(part), s) / s
            u = (words[first : first + part.size] + 0.5) / 2**32
            expected = np.where(u < p, np.sign(part) * s, 0)
            assert np.array_equal(values[first : first + part.size], expected)
    assert s == np.abs(x[400:]).max()


def test_small_and_constant_tensors_are_not_clipped_away() -> None:
    """The deviation from the mean would be zero here."""
    x = np.array([0.3, 0.2, 0.2, -0.7], np.float32)
    assert np.array_equal(CLIPPED.decode(CLIPPED.encode(x, EncodeKeys(0, 1, (1, 2, 1))), 4, 0), x)


def test_zeros() -> None:
    for codec in (CLIPPED, FREE):
        for zero in (0.0, -0.0):
            body = codec.encode(np.full(7, zero, np.float32), EncodeKeys(0, 1))
            assert body == body_of([(7, 0.0)], bytes(2))
            assert codec.decode(body, 7, 0).tobytes() == bytes(28)
        assert codec.encode(np.empty(0, np.float32), EncodeKeys(0, 1)) == bytes(4)
    nothing = Ternary(1e-45).encode(np.full(2, 1e-10, np.float32), EncodeKeys(0, 1))
    assert nothing == body_of([(2, 0.0)], b"\0")


def test_unbiased_without_clipping_with_the_variance_of_theory() -> None:
    x, n, sizes = gaussian(64), 4000, (60, 4)
    s = np.repeat([np.abs(x[:60]).max(), np.abs(x[60:]).max()], sizes).astype(np.float64)
    draws = np.array([FREE.decode(FREE.encode(x, EncodeKeys(0, key, sizes)), 64, 0) for key in range(n)])
    variance = np.abs(x) * s - x.astype(np.float64) ** 2
    assert (np.abs(draws.mean(axis=0, dtype=np.float64) - x) <= 4 * np.sqrt(variance / n) + 1e-7).all()
    assert np.square(draws - x.astype(np.float64)).sum(axis=1).mean() == pytest.approx(variance.sum(), rel=0.02)


def test_clipping_trades_bias_for_variance() -> None:
    x = gaussian(200_000)
    errors = {}
    for codec in (CLIPPED, FREE):
        values = codec.decode(codec.encode(x, EncodeKeys(0, 1)), x.size, 0)
        errors[codec.clip] = float(np.square(values - x, dtype=np.float64).mean())
    s = 2.5  # of a unit Gaussian: E s min(|x|, s) - min(|x|, s)^2 + (|x| - s)^2 beyond s
    grid = np.linspace(0, 12, 1_200_001)
    density = 2 * np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    m = np.minimum(grid, s)
    theory = float(np.sum((s * m - m**2 + (grid - m) ** 2) * density) * 1e-5)
    assert errors[2.5] == pytest.approx(theory, rel=0.02)
    assert errors[0.0] > 2 * errors[2.5]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_encoded(value: float) -> None:
    x = gaussian(33)
    x[7] = value
    with pytest.raises(EncodeError, match="the first at 7"):
        CLIPPED.encode(x, EncodeKeys(0, 1))


def test_extremes() -> None:
    largest = np.finfo(np.float32).max
    x = np.array([largest, -largest, 1e-45, 0], np.float32)
    assert np.array_equal(CLIPPED.decode(CLIPPED.encode(x, EncodeKeys(0, 1)), 4, 0)[:2], x[:2])


def test_parameters() -> None:
    assert FREE.params() == bytes(4)
    assert CLIPPED.params() == b"\0\0\x20\x40"
    assert Ternary.from_params(b"\0\0\x20\x40") == CLIPPED
    rounded = Ternary(2.7)
    assert Ternary.from_params(rounded.params()) == rounded
    for wrong in (b"", bytes(3), bytes(5), b"\0\0\0\x80", b"\0\0\x80\x7f", b"\0\0\xc0\x7f", b"\0\0\x20\xc0"):
        with pytest.raises(MalformedFrameError):
            Ternary.from_params(wrong)
    for clip in (-1.0, -0.0, float("nan"), float("inf"), 1e39):
        with pytest.raises(ConfigError):
            Ternary(clip)
    assert FREE.bound(3.0) == 3.0


HOSTILE = {
    "nothing": (b"", MalformedFrameError),
    "2^32-1 runs": (body_of([(7, 1.0)], bytes(2), runs=0xFFFFFFFF), MalformedFrameError),
    "an empty run": (body_of([(0, 1.0), (7, 1.0)], bytes(2)), MalformedFrameError),
    "sizes that wrap around": (body_of([(1 << 63, 1.0), (1 << 63, 1.0), (7, 1.0)], bytes(2)), MalformedFrameError),
    "truncated": (body_of([(7, 1.0)], bytes(1)), MalformedFrameError),
    "longer": (body_of([(7, 1.0)], bytes(3)), MalformedFrameError),
    "nan": (body_of([(7, float("nan"))], bytes(2)), NonFiniteError),
    "negative": (body_of([(7, -1.0)], bytes(2)), BoundError),
    "above the bound": (body_of([(7, 65537.0)], bytes(2)), BoundError),
    "a byte of 243": (body_of([(7, 1.0)], b"\xf3\0"), MalformedFrameError),
    "a last byte of 255": (body_of([(7, 1.0)], b"\0\xff"), MalformedFrameError),
    "padding": (body_of([(7, 1.0)], b"\xf2\x09"), PaddingError),
}


@pytest.mark.parametrize(("body", "error"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bodies(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        CLIPPED.open(body, 7, 0, LIMIT)
    assert caught.type is error


def test_the_largest_symbols_are_accepted() -> None:
    values = CLIPPED.decode(body_of([(7, LIMIT)], b"\xf2\x08"), 7, 0, LIMIT)
    assert values.tolist() == [-LIMIT] * 7
