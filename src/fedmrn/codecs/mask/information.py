"""What a mask by minimal random coding costs, and what error it has, for the histogram of an update over its noise.

Both are sums over elements of functions of a = |u| / scale. So all that they need of a tensor is the histogram of
log2 a, in half octaves; doubling the scale moves it by two bins. With t = |n| / scale, p the probability of a 1, and
h the entropy of a coin in bits:

    binary: p = min(1, a / t) where n has u's sign, else 0        information  E_t [h(E p / 2) - E h(p) / 2]
    signed: p = (1 + min(1, a / t)) / 2, or one less that         information  E_t [1 - E h(p)]
    error of a value v of one client, over scale^2                E (v / scale - g a)^2, g = 1/2 binary, 1 signed

The information is that about u, given the noise: I(u; m | n), as `fedmrn.codecs.mask.random_code` codes it, with one
prior for each bucket of |n|.
"""

from dataclasses import dataclass
from functools import cache
from math import erf, sqrt

import numpy as np
from numpy.typing import NDArray

from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec

F64 = NDArray[np.float64]
BINS = 64
"""Of a histogram: half octaves of a from 2^-16 to 2^16. What is beyond counts with the first or the last."""
DOUBLINGS = 20
"""Of the first scale: costs and errors are those of scales 1, 2, 4, ... times it."""
_MIDDLE = BINS // 2
_CELLS = 16
"""Half octaves of t, from its bound down; the last reaches to 0."""
_FINE = 64
"""Points of t within one."""
_POINTS = 1024
"""Of the law of t, where errors are summed over it."""


@dataclass(frozen=True, slots=True)
class Curves:
    """Matrices by which histograms are multiplied, all float64. *Widths* are t * scale in half octaves.

    Attributes:
        mask: the type of the mask.
        prior: mean p over both signs of the noise, for each bin (row) and width (column).
        entropy: the same of h(p).
        cells: the share of the noise that has each width (row) at each scale (column).
        buckets: the share of each width (row) in a bucket of |n| at a scale (column: scales times buckets).
        shares: the share of the noise in each bucket that there is.
        error: for each bin (row) and scale (column), in units of the first scale squared.
    """

    mask: MaskType
    prior: F64
    entropy: F64
    cells: F64
    buckets: F64
    shares: F64
    error: F64

    def information(self, histograms: F64) -> F64:
        """Return the information of a mask in bits an element, for tensors (rows) and scales (columns).

        Args:
            histograms: as `histograms` makes them.
        """
        spent = histograms @ self.entropy @ self.cells
        if self.mask is MaskType.SIGNED:
            return np.asarray(1 - spent)
        prior = (histograms @ self.prior @ self.buckets).reshape(*spent.shape, self.shares.size)
        return np.asarray(coin(prior) @ self.shares - spent)

    def errors(self, histograms: F64) -> F64:
        """Return the mean squared error of a value, in units of the first scale squared, of the same shape."""
        return np.asarray(histograms @ self.error)


def coin(p: F64) -> F64:
    """Return the entropy of a coin of each p in [0, 1], in bits."""
    return np.asarray(-p * np.log2(np.maximum(p, 1e-99)) - (1 - p) * np.log2(np.maximum(1 - p, 1e-99)))


def histograms(u: NDArray[np.float32], tensor: NDArray[np.int64], first: NDArray[np.int32]) -> F64:
    """Return the histograms of |u| over the tensors' first scales, as shares: float64, shape (tensors, BINS).

    Args:
        u: elements of all tensors, float32, shape (k,), at least one of each.
        tensor: which tensor each is of, int64, shape (k,).
        first: exponents of the scales, int32, shape (tensors,).
    """
    counts = counted(u, tensor, first)
    return np.asarray(counts / counts.sum(1, keepdims=True))


def counted(u: NDArray[np.float32], tensor: NDArray[np.int64], first: NDArray[np.int32]) -> F64:
    """Return the same as numbers of elements; there may be tensors without any."""
    square = np.square(u, dtype=np.float64)
    half = np.frexp(square)[1] - 1 + _MIDDLE - 2 * first[tensor]  # of a^2 in [2^k, 2^(k+1))
    place = tensor * BINS + np.where(square > 0, half, 0).clip(0, BINS - 1)
    return np.bincount(place, minlength=first.size * BINS).astype(np.float64).reshape(-1, BINS)


@cache
def curves(mask: MaskType, law: Law, buckets: int) -> Curves:
    """Return the curves of masks over noise of a law, coded with a prior for each of so many buckets of |n|."""
    bound = NoiseSpec(law, 1.0).bound
    a = 2.0 ** ((np.arange(BINS) - _MIDDLE + 0.5) / 2)
    widths = np.arange(2 * DOUBLINGS + _CELLS) - _CELLS + 1
    within = np.ones(1) if law is Law.BERNOULLI else 1 - (np.arange(_FINE) + 0.5) / _FINE * (1 - sqrt(0.5))
    p = np.minimum(1, a[:, None, None] / (bound * 2.0 ** (widths[:, None] / 2) * within))
    entropy = coin((1 + p) / 2) if mask is MaskType.SIGNED else coin(p) / 2
    share = -np.diff(_below(law, bound * 2.0 ** (-np.arange(1, _CELLS) / 2)), prepend=1.0, append=0.0)
    centres = 2.0 ** (-(np.arange(_CELLS) + 0.5) / 2)
    bucket = np.unique(np.floor(centres * buckets), return_inverse=True)[1]
    within_bucket = share[:, None] * (bucket[:, None] == np.arange(bucket.max() + 1))
    shares = within_bucket.sum(0)
    cells = np.zeros((widths.size, DOUBLINGS + 1))
    grouped = np.zeros((*cells.shape, shares.size))
    for scale in range(DOUBLINGS + 1):
        at = 2 * scale - np.arange(_CELLS) + _CELLS - 1
        cells[at, scale], grouped[at, scale] = share, within_bucket / np.where(shares > 0, shares, 1)
    flat = grouped.reshape(widths.size, -1)
    return Curves(mask, p.mean(2) / 2, entropy.mean(2), cells, flat, shares, _error(mask, law, a))


def _below(law: Law, t: F64) -> F64:
    """Return the share of noise of scale 1 whose magnitude is below each t."""
    if law is Law.GAUSSIAN:
        return np.array([erf(x / sqrt(2)) for x in t.tolist()])
    return np.clip(t, 0, 1) if law is Law.UNIFORM else (t > 1).astype(np.float64)


def _error(mask: MaskType, law: Law, a: F64) -> F64:
    points = 1 if law is Law.BERNOULLI else _POINTS
    edges = NoiseSpec(law, 1.0).bound * np.arange(points + 1) / points
    share = np.diff(_below(law, edges[:-1]), append=1.0)
    t = (edges[1:] if law is Law.BERNOULLI else edges[1:] - edges[1] / 2) * 2.0 ** np.arange(DOUBLINGS + 1)[:, None]
    a = a[:, None, None]
    low = np.minimum(t, a)
    each = t**2 - 2 * a * low + a**2 if mask is MaskType.SIGNED else (t * low - a * low) / 2 + a**2 / 4
    return np.asarray(each @ share)
