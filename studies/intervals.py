"""The interval of a mean over seeds."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev

from scipy.stats import t as student


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds and half the width of its 95 % interval, by Student's t; two values at least."""
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / sqrt(len(values))
    return fmean(values), float(half)
