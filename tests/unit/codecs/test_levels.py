"""Levels (QSGD): against a slow reader in whole numbers, theory, and hostile bodies."""

import struct
from fractions import Fraction

import numpy as np
import pytest
from test_sign import F32, LIMIT, SIZES, check_ranges, gaussian

from allocated import allocated
from fedmrn.codecs.base import CHUNK, EncodeKeys
from fedmrn.codecs.levels import Levels
from fedmrn.errors import BoundError, ConfigError, EncodeError, MalformedFrameError, NonFiniteError, PaddingError
from fedmrn.numerics.rng import Stream

WIDTHS = {1: 2, 2: 3, 3: 3, 4: 4, 7: 4, 15: 5, 31: 6, 63: 7, 64: 8, 127: 8}


def symbols_of(body: bytes, count: int, codec: Levels) -> tuple[list[float], list[int]]:
    """Norms and symbols, from the words of wire-format.md alone."""
    blocks, width = -(-count // codec.block), len(f"{2 * codec.levels:b}")
    norms = list(struct.unpack_from(f"<{blocks}f", body))
    bits = int.from_bytes(body[4 * blocks :], "little")
    text = f"{bits:0{8 * len(body)}b}"[::-1]
    return norms, [int(text[width * i : width * (i + 1)][::-1], 2) for i in range(count)]


def slow_levels(body: bytes, count: int, codec: Levels) -> F32:
    norms, symbols = symbols_of(body, count, codec)
    return np.array(
        [float(np.float32(norms[i // codec.block] * (v - codec.levels) / codec.levels)) for i, v in enumerate(symbols)],
        np.float32,
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("codec", [Levels(1, 4096), Levels(3, 1000), Levels(7), Levels(127, 1 << 20)], ids=str)
def test_a_slow_reader_agrees(codec: Levels, size: int) -> None:
    body = codec.encode(gaussian(size), EncodeKeys(0, 42))
    assert len(body) == 4 * -(-size // codec.block) + -(-size * codec.width // 8)
    values = codec.decode(body, size, 0, LIMIT)
    assert np.array_equal(values, slow_levels(body, size, codec))
    check_ranges(codec, body, size)


@pytest.mark.parametrize(("levels", "width"), WIDTHS.items())
def test_every_width(levels: int, width: int) -> None:
    for block in (1, 7, CHUNK + 3):
        codec = Levels(levels, block)
        assert codec.width == width
        size = CHUNK + 13
        body = codec.encode(gaussian(size), EncodeKeys(0, 42))
        assert np.array_equal(codec.decode(body, size, 0), slow_levels(body, size, codec))


def test_the_rule() -> None:
    x, codec = gaussian(CHUNK + 1000), Levels(7, 1000)
    norms, symbols = symbols_of(codec.encode(x, EncodeKeys(0, 42)), x.size, codec)
    blocks = [x[i : i + 1000].astype(np.float64) for i in range(0, x.size, 1000)]
    assert np.allclose(norms, [np.sqrt(np.sum(b**2)) for b in blocks], rtol=1e-7)
    words = Stream(42, 8 << 32).words(0, x.size)
    for i in range(x.size):
        ratio = 7 * abs(float(x[i])) / norms[i // 1000]
        level = int(ratio) + ((int(words[i]) + 0.5) / 2**32 >= 1 - (ratio - int(ratio)))
        assert symbols[i] == 7 + (level if x[i] > 0 else -level)


def test_values_are_rounded_once() -> None:
    """The double quotient, rounded to float32, is the float32 nearest to the true quotient."""
    rng = np.random.default_rng(3)
    norms = np.abs(rng.standard_normal(400) * 10.0 ** rng.integers(-44, 4, 400)).astype(np.float32)
    for levels in (3, 7, 127):
        codec = Levels(levels, 1)
        symbols = rng.integers(0, 2 * levels + 1, 400)
        bits = sum(int(v) << codec.width * i for i, v in enumerate(symbols))
        body = norms.astype("<f4").tobytes() + bits.to_bytes(50 * codec.width, "little")
        for norm, v, value in zip(norms, symbols, codec.decode(body, 400, 0), strict=True):
            true = Fraction(float(norm)) * (int(v) - levels) / levels
            off = abs(Fraction(float(value)) - true)
            for near in (np.nextafter(value, np.float32(np.inf)), np.nextafter(value, np.float32(-np.inf))):
                assert off <= abs(Fraction(float(near)) - true)
            assert abs(value) <= norm


def test_zeros() -> None:
    body = Levels(3, 4).encode(np.array([0.0, -0.0, 0, 0, 0], np.float32), EncodeKeys(0, 1))
    assert body == bytes(8) + (0b011011011011011).to_bytes(2, "little")
    assert Levels(3, 4).decode(body, 5, 0).tobytes() == bytes(20)
    assert Levels().encode(np.empty(0, np.float32), EncodeKeys(0, 1)) == b""
    assert Levels().decode(b"", 0, 0).size == 0


def test_one_element_that_is_its_norm_is_exact() -> None:
    x = gaussian(500)
    for levels in WIDTHS:
        codec = Levels(levels, 1)
        assert np.array_equal(codec.decode(codec.encode(x, EncodeKeys(0, levels)), 500, 0), x)


@pytest.mark.parametrize("levels", [1, 3, 7, 100])
def test_unbiased_with_the_variance_of_theory(levels: int) -> None:
    x, n = gaussian(64), 4000
    codec = Levels(levels, 40)
    norms = np.repeat([np.linalg.norm(x[:40].astype(float)), np.linalg.norm(x[40:].astype(float))], (40, 24))
    step = norms / levels
    fraction = np.abs(x) / step % 1
    variance = step**2 * fraction * (1 - fraction)
    draws = np.array([codec.decode(codec.encode(x, EncodeKeys(0, key)), 64, 0) for key in range(n)])
    assert (np.abs(draws.mean(axis=0, dtype=np.float64) - x) <= 4 * np.sqrt(variance / n) + 1e-6).all()
    square = np.square(draws - x.astype(np.float64))
    assert square.sum(axis=1).mean() == pytest.approx(variance.sum(), rel=0.03)
    for part, d in ((slice(0, 40), 40), (slice(40, 64), 24)):
        bound = min(d / levels**2, np.sqrt(d) / levels) * norms[part][0] ** 2
        assert square[:, part].sum(axis=1).mean() <= bound


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_encoded(value: float) -> None:
    x = gaussian(33)
    x[7] = value
    with pytest.raises(EncodeError, match="the first at 7"):
        Levels().encode(x, EncodeKeys(0, 1))


def test_a_norm_beyond_float32_is_not_encoded() -> None:
    largest = np.finfo(np.float32).max
    x = np.array([largest, largest], np.float32)
    with pytest.raises(EncodeError, match="norm"):
        Levels().encode(x, EncodeKeys(0, 1))
    assert np.array_equal(Levels(7, 1).decode(Levels(7, 1).encode(x, EncodeKeys(0, 1)), 2, 0), x)
    tiny = np.array([1e-45, -1e-45], np.float32)
    assert np.abs(Levels().decode(Levels().encode(tiny, EncodeKeys(0, 1)), 2, 0)).max() <= 3e-45


def test_parameters() -> None:
    assert Levels(3, 4096).params() == b"\0\x10\0\0\3"
    assert Levels.from_params(b"\0\x10\0\0\3") == Levels(3, 4096)
    assert Levels.from_params(b"\xff\xff\xff\xff\x7f") == Levels(127, (1 << 32) - 1)
    for wrong in (b"", bytes(5), b"\0\0\0\0\1", b"\1\0\0\0\0", b"\1\0\0\0\x80", b"\1\0\0\0", b"\1\0\0\0\1\0"):
        with pytest.raises(MalformedFrameError):
            Levels.from_params(wrong)
    for levels, block in ((0, 1), (128, 1), (1, 0), (1, 1 << 32)):
        with pytest.raises(ConfigError):
            Levels(levels, block)
    assert Levels().bound(3.0) == 3.0


def test_the_largest_block() -> None:
    codec, x = Levels(7, (1 << 32) - 1), gaussian(CHUNK + 5)
    body = codec.encode(x, EncodeKeys(0, 1))
    assert np.array_equal(codec.decode(body, x.size, 0), slow_levels(body, x.size, codec))


NORMS = struct.pack("<2f", 1.0, 2.0)
HOSTILE = {  # five elements of three bits, blocks of four
    "nothing": (b"", MalformedFrameError),
    "truncated": (NORMS + b"\0", MalformedFrameError),
    "longer": (NORMS + bytes(3), MalformedFrameError),
    "nan": (struct.pack("<2f", 1.0, float("nan")) + bytes(2), NonFiniteError),
    "inf": (struct.pack("<2f", float("inf"), 1.0) + bytes(2), NonFiniteError),
    "negative": (struct.pack("<2f", 1.0, -1.0) + bytes(2), BoundError),
    "minus zero": (struct.pack("<2f", 1.0, -0.0) + bytes(2), BoundError),
    "above the bound": (struct.pack("<2f", 1.0, 65537.0) + bytes(2), BoundError),
    "a level of 7": (NORMS + b"\7\0", MalformedFrameError),
    "a last level of 7": (NORMS + b"\0\x70", MalformedFrameError),
    "padding": (NORMS + b"\0\x80", PaddingError),
}


@pytest.mark.parametrize(("body", "error"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bodies(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        Levels(3, 4).open(body, 5, 0, LIMIT)
    assert caught.type is error


def test_the_largest_symbols_are_accepted() -> None:
    body = NORMS + (0b110110110110110).to_bytes(2, "little")
    assert Levels(3, 4).decode(body, 5, 0).tolist() == [1, 1, 1, 1, 2]


def test_a_bad_level_far_in_is_found() -> None:
    codec = Levels(3, 1 << 20)
    body = bytearray(codec.encode(gaussian(CHUNK + 800), EncodeKeys(0, 1)))
    body[-1] |= 0xE0
    with pytest.raises(MalformedFrameError):
        codec.open(bytes(body), CHUNK + 800, 0, LIMIT)


@pytest.mark.parametrize("count", [0, 6, 1 << 40, 1 << 63, (1 << 64) - 1])
def test_declared_numbers_allocate_nothing(count: int) -> None:
    def refused() -> None:
        with pytest.raises(MalformedFrameError):
            Levels(3, 2).open(NORMS + bytes(2), count, 0, LIMIT)

    assert allocated(refused) < 32 << 10
