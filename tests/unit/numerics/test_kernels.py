"""The compiled helpers against exact arithmetic."""

from fractions import Fraction

import numpy as np
import pytest

from fedmrn.numerics.kernels import NEAR, apply_mask, fold


def exact(values: np.ndarray, factor: float) -> list[int]:
    """Each product as a double, rounded to the nearest integer, ties to even."""
    return [round(Fraction(float(v) * factor)) for v in values]


def folded(values: np.ndarray, factor: float, near: bool) -> list[int]:
    total = np.arange(values.size, dtype=np.int64)
    fold(values, factor, near, total)
    return (total - np.arange(values.size)).tolist()


@pytest.mark.parametrize("exponent", [-30, -1, 0, 1, 20, 24, 25, 26, 27, 31, 37, 50, 51, 52, 53, 60, 61])
def test_rounding_is_to_the_nearest_even(exponent: int) -> None:
    rng = np.random.default_rng(exponent + 100)
    size = rng.uniform(1, 2, 3000) * 2.0 ** rng.integers(-60, 1, 3000)
    values = np.concatenate([size * rng.choice([-1, 1], 3000), [0.0, -0.0, 1.5, -1.999]]).astype(np.float32)
    for weight in (1.0, 3.0, 1.0 - 2.0**-53):
        factor = weight * 2.0 ** (exponent - 2)
        largest = float(np.abs(values.astype(np.float64)).max()) * factor
        assert largest < 2.0**62
        expected = exact(values, factor)
        assert folded(values, factor, False) == expected
        if largest < NEAR:
            assert folded(values, factor, True) == expected


@pytest.mark.parametrize("unit", [2.0**-3, 2.0**10, 2.0**25, 2.0**26, 2.0**36])
def test_ties(unit: float) -> None:
    """Half-way points, beside zero and beside multiples of 2^26."""
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.25, 0.75, 2.0**22 + 0.5, -(2.0**22) - 0.5], np.float32)
    assert folded(values, 1.0, False) == folded(values, 1.0, True) == exact(values, 1.0)
    around = np.array([1.0, 1.0 + 2.0**-23, 1.0 - 2.0**-24, 0.5, -1.0, -1.0 + 2.0**-24], np.float32)
    assert folded(around, unit, False) == exact(around, unit)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 31, 32, 33, 64, 1000, 4096])
def test_choose(size: int, signed: bool) -> None:
    rng = np.random.default_rng(size)
    noise = rng.standard_normal(size).astype(np.float32)
    mask = rng.random(size) < 0.5
    for skip in (0, 1, 3):  # bytes anywhere: a section starts where it starts
        bits = np.concatenate([np.full(skip, 255, np.uint8), np.packbits(mask, bitorder="little")])
        out = np.full(size + 2, 7, np.float32)
        apply_mask(noise, bits[skip:], signed, out[1:-1])
        lower = -noise if signed else np.zeros_like(noise)
        assert out[1:-1].tobytes() == np.where(mask, noise, lower).tobytes()
        assert out[0] == out[-1] == 7
