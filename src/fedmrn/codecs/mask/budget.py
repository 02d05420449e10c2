"""FitsBudget: noise as wide as it takes for coding a mask to cost a told number of bits a parameter (`budget`).

Minimal random coding pays for the information in a mask about the update u, given the noise. Wider noise has less of
it, and the mean over clients more of what the dice add. Noise starts as `scale = "auto"` has it. One tensor after the
other then gets noise twice as wide, always the one where that adds the least error for a bit saved, until the cost is
what was told. That shares bits out as a Lagrangian does; the mean squared errors of all tensors have one weight. What
a layer makes of its input is off by its error over its weights, however many they are, and a small tensor's bits are
cheap.

Where headers and tables take more than half of what was told, paths get the other half, and the budget is exceeded:
noise that is wide enough to save the rest would drown the update.

While a client trains, noise is as `auto` has it: wide noise would be in the way of what it learns. Wide is what is
sent.

The last doubling would save too much: it is made with the probability that gives the mean over clients the told cost.

Source: bits by equal slopes, Shoham and Gersho, "Efficient bit allocation for an arbitrary set of quantizers", IEEE
Trans. ASSP 1988.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import CHUNK
from fedmrn.codecs.mask.information import BINS, F64, Curves, counted, curves, histograms
from fedmrn.codecs.mask.scale import LARGEST_EXPONENT, FitsUpdate, NoiseScale
from fedmrn.codecs.scales import mean_magnitude
from fedmrn.errors import ConfigError
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law
from fedmrn.numerics.rng import Purpose, Stream, domain
from fedmrn.whole import shown

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
LEAST_BUDGET, MOST_BUDGET = 2.0**-5, 1.0
"""Bits a parameter that can be told. Less would be mostly headers and tables, and more is a mask as it is."""
_LEAST_COST = 1 / 256
"""Path bits of an element whose mask says nothing: the least that codec random-code writes."""
_LEAST_OF_PATHS = 0.5
"""Share of a budget that is for paths, however much the rest of a section takes."""
_SAMPLE = 1 << 12
"""Elements of a tensor that are looked at for statistics of the model that is sent, or a few more."""


def check_budget(budget: float) -> None:
    """Refuse a number of bits a parameter that cannot be told.

    Raises:
        ConfigError: it is not from 1/32 to 1.
    """
    if not LEAST_BUDGET <= budget <= MOST_BUDGET:
        raise ConfigError(
            f"budget = {shown(budget)}: a client may spend {LEAST_BUDGET:g} to {MOST_BUDGET:g} bits on a parameter; "
            "0 for what its scales cost"
        )


@dataclass(frozen=True, slots=True)
class FitsBudget(NoiseScale):
    """A scale for each client, round and tensor, such that masks cost a told number of bits a parameter.

    Attributes:
        budget: bits of the coded group's section over its elements, 1/32 to 1.
        mask, law: what is coded.
        buckets, rate: of the random code.

    Raises:
        ConfigError: `budget` is out of its range.
    """

    follows_update: ClassVar[bool] = True
    budget: float
    mask: MaskType
    law: Law
    buckets: int
    rate: float

    def __post_init__(self) -> None:
        check_budget(self.budget)

    @property
    def of_parameters(self) -> float:
        """Return 1: each tensor's scale travels in the body."""
        return 1.0

    def dial(self, sizes: I64, overhead: int, key: int, caps: I32) -> "Dial":
        """Return what finds the scales of one client in one round.

        Args:
            sizes: of the tensors, none empty, int64, shape (tensors,).
            overhead: bytes of the section that are no path.
            key: the client's sampling key, which throws the dice for the last doubling.
            caps: exponents of the largest scales that are allowed, int32, shape (tensors,).
        """
        size, fixed = float(sizes.sum()), 8.0 * overhead
        spare = max(self.budget * size - fixed, self.budget * size * _LEAST_OF_PATHS)
        if fixed >= size:  # masks travel as they are, whatever the noise
            spare = size
        word = int(Stream(key, domain(Purpose.QUANTISE)).words(0, 1)[0])
        found = curves(self.mask, self.law, self.buckets)
        return Dial(found, self.rate, FitsUpdate.multiple(self.mask, self.law), sizes, spare, word * 2.0**-32, caps)


@dataclass(frozen=True, slots=True)
class Dial:
    """The search for scales that cost what was told.

    Attributes:
        curves, rate: costs and errors, and path bits for a bit of information.
        multiple: what the least scale of a tensor is over its mean |u|.
        sizes: of the tensors, int64, shape (tensors,).
        spare: bits for the paths of all tensors together.
        dither: in [0, 1): the last doubling is made if that is less than its part that is needed.
        caps: exponents, int32, shape (tensors,).
    """

    curves: Curves
    rate: float
    multiple: float
    sizes: I64
    spare: float
    dither: float
    caps: I32

    def exponents(self, vector: F32) -> I32:
        """Return the exponent of each tensor's scale, int32, shape (tensors,), for a whole update (sum of sizes,)."""
        ends = np.cumsum(self.sizes)
        first, counts = self._first(vector, ends), np.zeros((ends.size, BINS))
        for start in range(0, vector.size, CHUNK):
            part = vector[start : start + CHUNK]
            tensor = np.searchsorted(ends, np.arange(start, start + part.size), "right")
            counts += counted(part, tensor, first)
        return self.widened(first, counts / self.sizes[:, None])

    @property
    def sample(self) -> I64:
        """Which elements to look at where the whole is not sent yet: evenly spaced ones of each tensor, int64."""
        starts = np.cumsum(self.sizes) - self.sizes
        rows = zip(starts, self.sizes, self._steps, strict=True)
        return np.concatenate([np.empty(0, np.int64), *(a + np.arange(0, size, step) for a, size, step in rows)])

    @property
    def _steps(self) -> I64:
        return self.sizes // _SAMPLE | 1  # odd, so that it does not walk along rows of even lengths

    def multiples(self, sampled: F32) -> F64:
        """Return what each tensor's scale is over its mean |u|, given the elements of `sample`; float64."""
        tensor = np.repeat(np.arange(self.sizes.size), -(-self.sizes // self._steps))
        sums = np.bincount(tensor, np.abs(sampled, dtype=np.float64), self.sizes.size)
        means = sums / np.bincount(tensor, minlength=self.sizes.size)
        first = np.asarray(FitsUpdate.exponents(means, self.multiple, self.caps), np.int32)
        found = self.widened(first, histograms(sampled, tensor, first))
        usual = (found == first) | ~np.isfinite(means)
        return np.where(usual, self.multiple, np.ldexp(1.0, found) / np.where(means > 0, means, 1))

    def _first(self, vector: F32, ends: I64) -> I32:
        rows = zip(ends - self.sizes, ends, strict=True)
        means = np.array([mean_magnitude(vector[start:end]) for start, end in rows], np.float64)
        return np.asarray(FitsUpdate.exponents(means, self.multiple, self.caps), np.int32)

    def cost(self, shares: F64) -> F64:
        """Return the path bits of each tensor (row) at 1, 2, 4, ... times its first scale (column), as estimated."""
        path = self.rate * self.curves.information(shares)
        return np.asarray(self.sizes[:, None] * path.clip(_LEAST_COST, 1))

    def widened(self, first: I32, shares: F64) -> I32:
        """Return the exponent of each tensor's scale.

        Args:
            first: exponents of the least scales, int32, shape (tensors,), none above its cap.
            shares: `histograms` of |u| over these scales, float64, shape (tensors, BINS).
        """
        cost = self.cost(shares)
        if not cost.size or cost[:, 0].sum() <= self.spare:
            return first
        unit = 4.0 ** (first - first.max())
        saved = cost[:, :-1] - cost[:, 1:]
        added = np.diff(self.curves.errors(shares) * unit[:, None], axis=1).clip(0)
        # A tensor's doublings come in turn: none is worth more than the worst before it.
        slope = np.maximum.accumulate(added / np.maximum(saved, 1e-9), axis=1)
        room = np.minimum(self.caps, LARGEST_EXPONENT) - first
        slope = np.where((np.arange(slope.shape[1]) < room[:, None]) & (saved > 0), slope, np.inf)
        order = np.argsort(slope, axis=None, kind="stable")
        save = saved.ravel()[order]
        left = cost[:, 0].sum() - np.cumsum(save) + save  # before each
        chosen = np.zeros(slope.size, np.bool_)
        chosen[order] = (left - self.dither * save > self.spare) & np.isfinite(slope.ravel()[order])
        return np.asarray(first + chosen.reshape(slope.shape).sum(1), np.int32)
