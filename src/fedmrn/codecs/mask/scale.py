"""The scale of masked noise: a number that the server sets, or one a tensor that fits the update.

One scale for all tensors and rounds is too small for some, whose masks then say no more than a sign, and too large for
others, whose update drowns in the randomness of its mask; which it is changes as training converges. A client knows how
large its update u is: the noise of each tensor gets the power of two nearest to a fixed multiple of the mean of |u|.
(Not of the root mean square: where a few elements move far, that gives signed masks so much noise for all others that
training can run away.) No product with a power of two is rounded: training, mask and server see the same noise.

Clients that share one noise cannot each choose its scale: there the server tells one, from what clients wished for.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import frexp
from typing import Any, ClassVar

import numpy as np

from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import LARGEST_SCALE, SMALLEST_SCALE, Law

_SAME_POWER = 3.0**-0.5
"""Of the scale of uniform noise: gaussian and bernoulli noise of that scale have its power."""
_OVER_MEAN = {
    (MaskType.BINARY, Law.UNIFORM): 4.0,
    (MaskType.BINARY, Law.GAUSSIAN): 4.0 * _SAME_POWER,
    (MaskType.BINARY, Law.BERNOULLI): 4.0 * _SAME_POWER,
    (MaskType.SIGNED, Law.UNIFORM): 1.0,
    (MaskType.SIGNED, Law.GAUSSIAN): _SAME_POWER,
    (MaskType.SIGNED, Law.BERNOULLI): 2.0**0.5,
}
"""Scale of the noise over the mean of |u|. Signed masks of bernoulli noise are plus or minus one number: if that is the
least power of two that reaches the mean of |u|, they hand over most of u at the least cost in dice."""
SMALLEST_EXPONENT, LARGEST_EXPONENT = frexp(SMALLEST_SCALE)[1] - 1, frexp(LARGEST_SCALE)[1] - 1
"""What e can be in a scale 2^e of noise."""


class NoiseScale(ABC):
    """Where the scale of masked noise comes from."""

    follows_update: ClassVar[bool]
    """Whether it changes with the update while a client trains."""

    @property
    @abstractmethod
    def of_parameters(self) -> float:
        """The scale that the codec of the mask has among its parameters."""


@dataclass(frozen=True, slots=True)
class Fixed(NoiseScale):
    """One scale for all tensors, rounds and clients: it travels among the codec's parameters."""

    follows_update: ClassVar[bool] = False
    scale: float

    @property
    def of_parameters(self) -> float:
        """This scale."""
        return self.scale


@dataclass(frozen=True, slots=True)
class Told(NoiseScale):
    """A scale for each round and tensor that the broadcast tells: `scale = "auto"` where clients share one noise."""

    follows_update: ClassVar[bool] = False

    @property
    def of_parameters(self) -> float:
        """Return 1: each tensor's scale is told."""
        return 1.0


@dataclass(frozen=True, slots=True)
class FitsUpdate(NoiseScale):
    """A scale for each client, round and tensor, measured on the update that it is for: `scale = "auto"`."""

    follows_update: ClassVar[bool] = True

    @property
    def of_parameters(self) -> float:
        """Return 1: each tensor's scale travels in the body."""
        return 1.0

    @staticmethod
    def multiple(mask: MaskType, law: Law) -> float:
        """Return what a tensor's scale is over its mean |u|, but for rounding to a power of two."""
        multiple: float = _OVER_MEAN[mask, law]
        return multiple

    @staticmethod
    def exponents(means: Any, multiple: Any, caps: Any = None, xp: Any = np) -> Any:
        """Return the exponent of each tensor's scale: the power of two nearest to a multiple of the mean of |u|.

        Nearest in ratio, and within what noise can have. A tensor that has not moved gets the smallest scale, 2^-80;
        NaN and infinity give 1: training goes on to an update that is refused, or recovers.

        Args:
            means: of |u|, float64, shape (tensors,): an array of `xp`.
            multiple: as `multiple` says, or one for each tensor, float64, shape (tensors,), an array of `xp`.
            caps: exponents of the largest scales that are allowed, int32, shape (tensors,), an array of `xp`.
            xp: the namespace of the array, numpy or torch.

        Returns:
            int32, shape (tensors,), an array of `xp`.
        """
        wanted = means * multiple
        nearest = xp.frexp(wanted * wanted)[1] // 2  # 2^e with |log2(wanted) - e| <= 1/2
        least, most = SMALLEST_EXPONENT, LARGEST_EXPONENT
        nearest = xp.where(wanted > 0, nearest, least)
        found = xp.clip(xp.where(xp.isfinite(wanted), nearest, 0), least, most)
        return found if caps is None else xp.minimum(found, xp.clip(caps, least, most))
