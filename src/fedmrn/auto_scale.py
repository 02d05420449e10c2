"""scale = "auto": a noise scale that follows the updates, from what the server sees anyway.

Too small a scale is seen as saturation: a client's u is beyond its noise, and the mask says no more than a sign. Too
large a one drowns the update in the dice of its mask. Between the two lies a range of an order of magnitude in which
accuracy hardly depends on the scale, so the rule steers into that range and rests.
Updates become smaller as training converges, and the scale does not follow them down: it falls only while it is too
large for the largest updates so far.

What tells where a scale lies:

    binary   the density of the masks: 1/2 where all elements are saturated, and near |u / n| / 2 where none are.
    signed   their density is always 1/2. But the mean of u_j u_k over pairs of clients can be told from the dice:
             C = (K P - E[n^2]) / (K - 1), where P is the mean square of the mean of K clients. The half of the
             elements whose noise is the smaller in magnitude gives C_small, the others C_large. R = C_small / C_large
             is 1 where nothing is saturated; where everything is, it is that of the mean |n| of the halves.
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
SPARSE, DENSE = 0.05, 0.3
"""Where the scale of binary masks rests: between these densities."""
FAINT = 0.07
"""sqrt(C) / scale below which the scale of signed masks falls."""
SATURATED = 0.07
"""R minus its least value, below which the scale of signed masks grows."""
_LAWS = {Law.UNIFORM: (1 / 3, 1 / 24, 1 / 3), Law.GAUSSIAN: (1.0, 0.0713, 0.2553)}
"""E[n^2], that of the smaller half alone, and the least R; for scale 1."""
_MOST, _MOST_SIGNED = 64.0, 4.0
"""The most that a scale grows in a round, and falls; R near its least value says less of how far to go."""
_PART = 1 << 18


@dataclass(frozen=True, slots=True)
class Seen:
    """What a round told about its updates, over the coded elements.

    Attributes:
        size: how many elements.
        clients: how many clients of one weight the mean is worth.
        density: share of ones in the masks.
        power: mean square of the mean update.
        small: mean product of the mean update with that of its part over the smaller noise; 0 if it was not asked for.
    """

    size: int
    clients: float
    density: float
    power: float
    small: float = 0.0


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
        peak: the size of the largest updates so far, as far as it can be seen: density * scale, or sqrt(C).
    """

    scale: float
    peak: float = 0.0


@dataclass(frozen=True)
class AutoScale:
    """How the noise scale moves from round to round.

    Attributes:
        start: the scale of round 1.
        law, mask: of the noise.

    Raises:
        ConfigError: the masks are signed and the noise has one magnitude only.
    """

    start: float
    law: Law
    mask: MaskType

    def __post_init__(self) -> None:
        if self.mask is MaskType.SIGNED and self.law not in _LAWS:
            raise ConfigError('scale = "auto" of signed masks needs noise = "uniform" or "gaussian"')

    @classmethod
    def of(cls, codec: Codec) -> "AutoScale":
        """Return the rule for a codec, starting from its scale.

        Raises:
            ConfigError: the codec has no noise, or none that this rule can follow.
        """
        inner = codec.uncoded
        if not isinstance(inner, MaskedNoise):
            raise ConfigError(f"codec {codec.name} has no noise whose scale could follow the updates")
        return cls(inner.noise.scale, inner.noise.law, inner.mask)

    @property
    def planes(self) -> tuple[Plane, ...]:
        """What must be summed for `Seen.small`."""
        return (Plane.SMALL,) if self.mask is MaskType.SIGNED else ()

    def next(self, level: Level, seen: Seen) -> Level:
        """Return the level of the next round; its scale is at least 1/64 and at most 64 times this one's."""
        binary = self.mask is MaskType.BINARY
        size, growth = self._binary(level.scale, seen) if binary else self._signed(level.scale, seen)
        peak, most = max(level.peak, size), _MOST if binary else _MOST_SIGNED
        factor = growth if growth > 1 else min(1.0, peak / ((SPARSE if binary else FAINT) * level.scale))
        scale = min(level.scale * min(most, max(1 / most, factor)), LARGEST_SCALE)
        return Level(float(np.float32(max(scale, SMALLEST_SCALE))), float(np.float32(peak)))

    def _binary(self, scale: float, seen: Seen) -> tuple[float, float]:
        """How large the updates are, and the factor by which the scale should grow.

        Far beyond the noise, 1 - 2 d falls as the inverse of the size of u.
        """
        return seen.density * scale, (1 - 2 * DENSE) / max(1 - 2 * seen.density, 1 / _MOST / 8)

    def _signed(self, scale: float, seen: Seen) -> tuple[float, float]:
        if seen.clients <= 1:
            return FAINT * scale, 1.0  # one client has nothing in common with another: the scale rests
        second, of_small, least = _LAWS[self.law]
        common = (seen.clients * seen.power / scale**2 - second) / (seen.clients - 1)
        small = (seen.clients * seen.small / scale**2 - of_small) / (seen.clients - 1)
        doubt = 4 * second * sqrt(2 / seen.size) / (seen.clients - 1)  # four standard deviations of C
        if common < doubt:
            return 0.0, 1.0
        over = small / max(common - small, doubt) - least
        # Far beyond the noise, R comes near its least value as the inverse square of the size of u.
        return sqrt(common) * scale, sqrt(SATURATED / max(over, SATURATED / _MOST_SIGNED**2))
