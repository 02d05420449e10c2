"""Masks that add themselves to sums: from any place on, in scales of their own, as values that are read and added."""

from collections.abc import Sequence
from math import ldexp

import numpy as np
import pytest
from numpy.typing import NDArray

import fedmrn.server.sum
from fedmrn.codecs import CHUNK, MaskedNoise, Opened
from fedmrn.codecs.mask.masked_noise import OpenedMask
from fedmrn.codecs.mask.scaled_mask import OpenedScaledMask
from fedmrn.codecs.scales import TensorScales
from fedmrn.numerics.kernels import NEAR
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.server.sum import Contribution, Sum

SIZES = (700, 1, 9, 64, CHUNK, 3, 5000)
COUNT = sum(SIZES)
each_law, each_mask = pytest.mark.parametrize("law", Law), pytest.mark.parametrize("mask", MaskType)


def opened(law: Law, mask: MaskType, exponents: Sequence[int] | None, key: int = 7) -> OpenedMask | OpenedScaledMask:
    """A mask of random bits; over noise of scale 1 times powers of two where there are exponents."""
    bits = np.random.Generator(np.random.Philox(key)).integers(0, 256, (COUNT + 7) // 8).astype(np.uint8)
    inner = OpenedMask(MaskedNoise(NoiseSpec(law, 1.0 if exponents else 0.3), mask), key, bits)
    if exponents is None:
        return inner
    scales = TensorScales(np.cumsum(SIZES, dtype=np.int64), np.ldexp(np.float32(1), exponents).astype(np.float32))
    return OpenedScaledMask(inner, scales, np.array(exponents, np.int16))


def values_of(section: Opened) -> NDArray[np.float64]:
    values = np.empty(COUNT, np.float32)
    for start in range(0, COUNT, CHUNK):
        section.read(start, values[start : start + CHUNK])
    return values.astype(np.float64)


@pytest.mark.parametrize("exponents", [None, (0, -80, -3, 2, -7, 1, -60), (0, 1, 2, 3, 2, 1, 0)])
@each_mask
@each_law
def test_from_any_place_on(law: Law, mask: MaskType, exponents: tuple[int, ...] | None) -> None:
    section = opened(law, mask, exponents)
    values = values_of(section)
    for factor, near in ((3 * 2.0**40, True), (5 * 2.0**50, False), (float(np.pi), True)):
        for start, size in (
            (0, COUNT),
            (1, 40),
            (5, 5000),
            (699, 3),
            (700, 1),
            (774, CHUNK + 2),
            (COUNT - 1, 1),
            (9, 0),
        ):
            total = np.arange(size, dtype=np.int64)
            section.fold(start, factor, near, total)
            added = np.rint(values[start : start + size] * factor).astype(np.int64)
            assert np.array_equal(total, np.arange(size) + added), (start, factor)


def test_scales_that_give_subnormal_values_are_read_first() -> None:
    """A cap may be as low as 2^-126; values are rounded to float32 there."""
    section = opened(Law.UNIFORM, MaskType.SIGNED, (0, -126, 0, -101, -120, -126, -110))
    values = values_of(section)
    for factor in (ldexp(1.0, 40), ldexp(1.0, 150) / 3):
        for start, size in ((0, COUNT), (1, 702), (775, CHUNK + 1), (CHUNK + 700, 500)):
            part = values[start : start + size]
            near = bool(np.abs(part).max() * factor < NEAR)
            total = np.zeros(size, np.int64)
            if np.abs(part).max() * factor < 2.0**62:
                section.fold(start, factor, near, total)
                assert np.array_equal(total, np.rint(part * factor).astype(np.int64))


@pytest.mark.parametrize("threads", [1, 3])
@each_mask
@each_law
def test_a_sum_is_the_same_whichever_way(
    law: Law, mask: MaskType, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against sections that are read, with a unit a tensor; a part ends within tensors."""
    monkeypatch.setattr(fedmrn.server.sum, "PART", CHUNK)
    monkeypatch.setattr("fedmrn.numerics.threads.PIECE", 1)
    exponents = [(0, -1, 1, 0, -2, 1, 0), (1, 1, 1, 1, 1, 1, 1), (-3, 0, -1, -5, 0, 0, -2)]
    found = []
    for least in (1, COUNT):
        monkeypatch.setattr(fedmrn.server.sum, "_LONG", least)
        total = Sum(np.zeros(COUNT, np.int64), 100, 3, fine=False)
        total.set_units(np.cumsum(SIZES).tolist(), [16.0, 8.0, 8.0, 16.0, 8.0, 32.0, 8.0])
        sections = [opened(law, mask, e, key) for key, e in enumerate(exponents)]
        assert all(total._folds_itself(s) is (least == 1) for s in sections)
        total.fold([Contribution(s, weight) for weight, s in enumerate(sections, 5)], threads)
        found.append(total.integers)
    assert np.array_equal(*found)
    assert found[0].any()
