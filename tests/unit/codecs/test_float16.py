"""Float16: rounding, the ends of its range, and what is refused."""

import struct

import numpy as np
import pytest

import oracle
from fedmrn.codecs import CHUNK, EncodeKeys, Float16
from fedmrn.errors import BoundError, EncodeError, FrameError, MalformedFrameError, NonFiniteError
from fedmrn.numerics.rng import Stream

KEYS = EncodeKeys(1, 2)
CODEC = Float16()


def sent(*values: float) -> list[float]:
    body = CODEC.encode(np.array(values, np.float32), KEYS)
    assert len(body) == 2 * len(values)
    return CODEC.decode(body, len(values), 1).tolist()


def test_every_finite_half_is_exact() -> None:
    halves = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    exact = halves[np.isfinite(halves)].astype(np.float32)
    assert exact.size == 2 * 0x7C00
    body = CODEC.encode(exact, KEYS)
    assert body == exact.astype("<f2").tobytes()
    values = CODEC.decode(body, exact.size, 1)
    assert values.tobytes() == exact.tobytes(), "signs of zeros included"
    assert oracle.decode(10, b"", exact.size, body, 1, []) == exact.tolist()


def test_the_rest_is_rounded_to_nearest_ties_to_even() -> None:
    unit = 2.0**-10
    assert sent(1 + unit / 2, 1 + 3 * unit / 2, 1 + 0.51 * unit, 1 + 0.49 * unit) == [1, 1 + 2 * unit, 1 + unit, 1]
    assert sent(0.1, -0.1) == [0.0999755859375, -0.0999755859375]
    x = (Stream(1, 2).uniform(0, 50_000) - np.float32(0.5)).astype(np.float32)
    values = CODEC.decode(CODEC.encode(x, KEYS), x.size, 1)
    assert values.tolist() == [struct.unpack("<e", struct.pack("<e", v))[0] for v in x.tolist()]
    assert (np.abs(values - x) <= np.maximum(np.abs(x) * 2.0**-11, 2.0**-25)).all()


def test_subnormal_halves_and_less() -> None:
    least = 2.0**-24
    assert sent(least, -least, 3 * least, 0.75 * least) == [least, -least, 3 * least, least]
    assert sent(0.5 * least, 1.5 * least, 1e-45, -0.0) == [0, 2 * least, 0, 0]
    assert sent(2.0**-14, 2.0**-14 - least) == [2.0**-14, 2.0**-14 - least]


def test_the_largest() -> None:
    assert sent(65504, -65504, 65519.99, -65519) == [65504, -65504, 65504, -65504]
    for value in (65520.0, -65520.0, 1e5, -3e38):
        with pytest.raises(EncodeError, match=r"magnitude .* is too large for 16 bits"):
            sent(0.0, value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_sent(value: float) -> None:
    with pytest.raises(EncodeError, match="1 of 3 values to encode are NaN or infinite, the first at 1"):
        sent(0.0, value, 1.0)


@pytest.mark.parametrize("pattern", [0x7C00, 0xFC00, 0x7C01, 0x7E00, 0xFFFF])
@pytest.mark.parametrize("at", [0, CHUNK - 1, CHUNK, CHUNK + 6])
def test_what_is_not_finite_is_refused(pattern: int, at: int) -> None:
    body = bytearray(2 * (CHUNK + 7))
    struct.pack_into("<H", body, 2 * at, pattern)
    with pytest.raises(NonFiniteError):
        CODEC.open(bytes(body), CHUNK + 7, 1, 65536.0)


def test_magnitudes_above_the_limit_are_refused() -> None:
    body = CODEC.encode(np.array([1, -2, 1.5], np.float32), KEYS)
    assert CODEC.decode(body, 3, 1, 2.0).tolist() == [1, -2, 1.5]
    with pytest.raises(BoundError, match="magnitude 2; at most 1"):
        CODEC.open(body, 3, 1, 1.9990234375)
    assert (CODEC.bound(65536.0), CODEC.bound(float("inf")), CODEC.bound(8.0)) == (65504, 65504, 8)


@pytest.mark.parametrize(("length", "count"), [(0, 1), (1, 1), (3, 1), (4, 1), (2, 0), (6, 1 << 63), (2, 1 << 64)])
def test_other_lengths_are_refused(length: int, count: int) -> None:
    with pytest.raises(MalformedFrameError, match=f"{count} 16-bit values take {2 * count} bytes"):
        CODEC.open(bytes(length), count, 1, 1.0)


def test_it_has_no_parameters() -> None:
    assert CODEC.params() == b""
    assert Float16.from_params(b"") == CODEC
    with pytest.raises(FrameError, match="codec float16 has no parameters"):
        Float16.from_params(b"\0")
