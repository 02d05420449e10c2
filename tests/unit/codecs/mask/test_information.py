"""Costs and errors of masks from histograms, against sums over elements and integrals over the noise, one by one."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from fedmrn.codecs.mask.information import BINS, DOUBLINGS, coin, counted, curves, histograms
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec, gaussian_table

F32 = NDArray[np.float32]
each_mask = pytest.mark.parametrize("mask", MaskType)
each_law = pytest.mark.parametrize("law", Law)


def updates() -> dict[str, F32]:
    rng = np.random.Generator(np.random.Philox(4))
    found = {
        "normal": rng.standard_normal(300),
        "laplace": rng.laplace(size=300),
        "heavy": rng.standard_t(2, size=300),
        "sparse": rng.standard_normal(300) * (rng.random(300) < 0.3),
        "one size": np.full(300, 2.0**0.25),
    }
    return {name: u.astype(np.float32) for name, u in found.items()}


def magnitudes(law: Law, buckets: int) -> list[list[float]]:
    """Magnitudes of noise of scale 1, evenly over its law, by buckets."""
    if law is Law.BERNOULLI:
        return [[1.0]]
    points = [(i + 0.5) / 512 for i in range(512)] if law is Law.UNIFORM else gaussian_table()[::8].tolist()
    bound = NoiseSpec(law, 1.0).bound
    found: list[list[float]] = [[] for _ in range(buckets)]
    for t in points:
        found[min(int(t / bound * buckets), buckets - 1)].append(t)
    return [bucket for bucket in found if bucket]


def h(p: float) -> float:
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p) if 0 < p < 1 else 0.0


def slow(u: F32, scale: float, mask: MaskType, law: Law, buckets: int) -> tuple[float, float]:
    """Information in bits an element, and mean squared error, by their definitions."""
    information = error = noises = 0.0
    for bucket in magnitudes(law, buckets):
        ps, spent = 0.0, 0.0
        for t in bucket:
            for x in map(float, np.abs(u)):
                for n in (t * scale, -t * scale):
                    if mask is MaskType.SIGNED:
                        p, low, target = min(max((x / n + 1) / 2, 0), 1), -n, x
                    else:
                        p, low, target = min(max(x / n, 0), 1), 0.0, x / 2
                    ps, spent = ps + p, spent + h(p)
                    error += p * (n - target) ** 2 + (1 - p) * (low - target) ** 2
        many = 2 * u.size * len(bucket)
        information += many * h(ps / many) - spent
        noises += many
    return information / noises, error / noises


@each_mask
@each_law
@pytest.mark.parametrize("kind", updates())
def test_information_and_error(mask: MaskType, law: Law, kind: str) -> None:
    """Elements of a bin count as its middle, 19 % from its ends: squares of 300 of them are off by 5 % or so."""
    u = updates()[kind]
    found = curves(mask, law, 16)
    first = np.array([-1], np.int32)
    shares = histograms(u, np.zeros(u.size, np.int64), first)
    information, errors = found.information(shares)[0], found.errors(shares)[0] / 4
    for doublings in (0, 2, 5):
        bits, error = slow(u, 2.0 ** (doublings - 1), mask, law, 16)
        assert information[doublings] == pytest.approx(bits, rel=0.04, abs=0.004)
        assert errors[doublings] == pytest.approx(error, rel=0.1)


@pytest.mark.parametrize("buckets", [1, 2, 64])
def test_fewer_buckets_say_less(buckets: int) -> None:
    u = updates()["normal"]
    shares = histograms(u, np.zeros(u.size, np.int64), np.zeros(1, np.int32))
    found = curves(MaskType.BINARY, Law.UNIFORM, buckets).information(shares)[0]
    for doublings in (0, 3):
        bits, _ = slow(u, 2.0**doublings, MaskType.BINARY, Law.UNIFORM, buckets)
        assert found[doublings] == pytest.approx(bits, rel=0.04, abs=0.004)


def test_histograms_are_counted_one_by_one() -> None:
    u = np.array([0, 1, -1, 1.5, 2, -0.7, 3e38, 1e-45, 2.0**-16, 7, 0.25], np.float32)
    tensor, first = np.array([0] * 9 + [1] * 2, np.int64), np.array([0, -3], np.int32)
    expected = np.zeros((2, BINS))
    for x, t in zip(map(float, np.abs(u)), tensor.tolist(), strict=True):
        place = 2 * (math.log2(x) - int(first[t])) + BINS // 2 if x else 0
        expected[t, min(max(math.floor(place), 0), BINS - 1)] += 1
    assert np.array_equal(counted(u, tensor, first), expected)
    assert np.array_equal(histograms(u, tensor, first), expected / [[9], [2]])


@each_mask
@each_law
def test_wider_noise_says_less(mask: MaskType, law: Law) -> None:
    """And what has not moved says nothing."""
    found = curves(mask, law, 16)
    shares = np.eye(BINS)
    information = found.information(shares)
    assert information.shape == found.errors(shares).shape == (BINS, DOUBLINGS + 1)
    assert (information > -1e-12).all()
    assert (information <= 1 + 1e-12).all()
    mixed = found.information(np.full((1, BINS), 1 / BINS))[0]
    assert (np.diff(mixed) < 0).all()
    assert information[0].max() < 1e-4


def test_a_coin() -> None:
    assert coin(np.array([0.0, 0.5, 1.0])).tolist() == [0, 1, 0]
    assert coin(np.array([0.1]))[0] == pytest.approx(h(0.1))
