"""scale = "auto": a noise scale that follows the updates, from what the server sees anyway.

Too small a scale is seen as saturation: a client's u is beyond its noise, and the mask says no more than a sign. Too
large a one drowns the update in the dice of its mask. Between the two lies a range in which accuracy hardly depends on
the scale, so the rule steers into that range and rests. Updates become smaller as training converges, and the scale
does not follow them down: it falls only while it is too large for the largest updates so far.

What tells where a scale lies: C, the mean of u_j u_k over pairs of clients, is what the mean square of clients' mean
has beyond their own squares, and free of the dice. The half of the elements whose noise is the smaller in magnitude
gives C_small, the others C_large. R = C_small / C_large is 1 where nothing is saturated; where everything is, a
client's mean is sign(u) |n|, and R that of the halves' mean |n|. Large updates weigh most in R, as they do in training.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import Codec, MaskedNoise, Plane
from fedmrn.errors import ConfigError
from fedmrn.masking import MaskType
from fedmrn.noise import LARGEST_SCALE, SMALLEST_SCALE, Law

AUTO = "auto"
"""What a person types in place of a scale."""
SATURATED = {MaskType.BINARY: 0.17, MaskType.SIGNED: 0.07}
"""R minus its least value, below which the scale grows. The dice of signed masks cost more, so theirs stay smaller."""
START = {MaskType.BINARY: 1.0, MaskType.SIGNED: 0.5}
"""The scale of round 1 over the root mean square of the coded weights."""
FAINT = {MaskType.BINARY: 0.035, MaskType.SIGNED: 0.07}
"""sqrt(C) / scale below which the scale falls; binary masks say half of u."""
LEAST_R = {Law.UNIFORM: 1 / 3, Law.GAUSSIAN: 0.2553}
"""R where everything is saturated: the ratio of the halves' mean |n|, as the noise of two clients is independent."""
_MOST = 8.0
"""The most that a scale grows in a round, and falls."""
_PART = 1 << 18


@dataclass(frozen=True, slots=True)
class Seen:
    """What a round told about its updates, as means over the coded elements.

    Attributes:
        size: how many elements.
        clients: how many clients of one weight the mean is worth.
        power, small: squares of the mean update; products of it with that of the clients' parts over smaller noise.
        own, own_small: what of these is each client's with itself.
    """

    size: int
    clients: float
    power: float
    small: float
    own: float
    own_small: float


def mean_product(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return the mean of a_i b_i over vectors of shape (d,); 0 for none.

    The sum is of integers, each product rounded to 2^-30 of the largest, so that it is the same in any order of adding
    and on any machine.
    """
    parts = [slice(at, at + _PART) for at in range(0, a.size, _PART)]
    products = (np.multiply(a[part], b[part], dtype=np.float64) for part in (*parts, *parts))
    largest = max((float(np.abs(next(products)).max()) for _ in parts), default=0.0)
    if not largest:
        return 0.0
    total = sum(int(np.rint(p * (2.0**30 / largest)).astype(np.int64).sum()) for p in products)
    return total * (largest / 2.0**30) / a.size


@dataclass(frozen=True, slots=True)
class Level:
    """Where the noise is, carried from round to round; both are float32 values.

    Attributes:
        scale: of the next round's noise.
        peak: sqrt(C) of the largest updates so far.
    """

    scale: float
    peak: float = 0.0


@dataclass(frozen=True)
class AutoScale:
    """How the noise scale moves from round to round.

    Attributes:
        law, mask: of the noise.

    Raises:
        ConfigError: the noise has one magnitude only.
    """

    law: Law
    mask: MaskType

    def __post_init__(self) -> None:
        if self.law not in LEAST_R:
            raise ConfigError('scale = "auto" needs noise = "uniform" or "gaussian", whose magnitude varies')

    @classmethod
    def of(cls, codec: Codec, *, shared: bool = False) -> "AutoScale":
        """Return the rule for a codec.

        Raises:
            ConfigError: the codec has no noise, or none that this rule can follow; or clients share it.
        """
        if shared:
            raise ConfigError(
                'scale = "auto" compares clients with noise of their own; noise_key = "round" is one for all'
            )
        inner = codec.uncoded
        if not isinstance(inner, MaskedNoise):
            raise ConfigError(f"codec {codec.name} has no noise whose scale could follow the updates")
        return cls(inner.noise.law, inner.mask)

    @property
    def planes(self) -> tuple[Plane, ...]:
        """What must be summed beside what the rule needs."""
        return (Plane.SMALL,)

    def start(self, weights: NDArray[np.float32]) -> Level:
        """Return the level of round 1, from the coded weights that a run starts from, shape (d,)."""
        scale = START[self.mask] * sqrt(mean_product(weights, weights))
        return Level(float(np.float32(min(max(scale, SMALLEST_SCALE), LARGEST_SCALE) if scale else 0.01)))

    def next(self, level: Level, seen: Seen) -> Level:
        """Return the level of the next round; its scale is at least 1/8 and at most 8 times this one's."""
        if seen.clients <= 1:
            return level  # one client has nothing in common with another
        common = (seen.power - seen.own) / (1 - 1 / seen.clients)
        small = (seen.small - seen.own_small) / (1 - 1 / seen.clients)
        doubt = sqrt(2 / seen.size) * seen.own / (1 - 1 / seen.clients)  # the standard deviation of C
        peak, factor = level.peak, 1.0
        if common > 4 * doubt:
            peak = max(peak, sqrt(common))
        large = common - small
        if large > 4 * doubt:
            over = small / large - LEAST_R[self.law] + 2 * doubt / large  # saturated beyond doubt, or left alone
            factor = SATURATED[self.mask] / max(over, SATURATED[self.mask] / _MOST)
        if factor <= 1:
            factor = min(1.0, max(peak / (FAINT[self.mask] * level.scale), 1 / _MOST))
        scale = min(max(level.scale * factor, SMALLEST_SCALE), LARGEST_SCALE)
        return Level(float(np.float32(scale)), float(np.float32(peak)))
