"""OwnScale: masked noise whose scale each client chooses, a tensor at a time, from its own update (scale = "auto").

The scales travel with the mask, and the noise itself is that of scale 1; `fedmrn.codecs.mask.scale` says how they are
found, and why. With a budget they are as wide as a told cost takes (`fedmrn.codecs.mask.budget`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import EncodeKeys
from fedmrn.codecs.mask.budget import Dial, FitsBudget, check_budget
from fedmrn.codecs.mask.coded_mask import CodedMask
from fedmrn.codecs.mask.interleaved_mask import InterleavedMask
from fedmrn.codecs.mask.masked_noise import MaskedNoise
from fedmrn.codecs.mask.random_code import RandomCode
from fedmrn.codecs.mask.scale import LARGEST_EXPONENT, FitsUpdate
from fedmrn.codecs.mask.scaled_mask import ScaledMask
from fedmrn.codecs.mask.shorter_mask import ShorterMask
from fedmrn.codecs.scales import TensorScales
from fedmrn.errors import ConfigError, EncodeError


@dataclass(frozen=True)
class OwnScale(ScaledMask):
    """Masked noise with a scale for each tensor that is not empty, measured when an update is encoded.

    Attributes:
        budget: bits that a client may spend on a parameter; 0 for what the scales of `FitsUpdate` cost. It does not
            travel with the codec: a reader takes any scales. The broadcast's terms tell it to clients.

    Raises:
        ConfigError: `budget` is out of its range, or the mask is no random code, whose cost does not follow its scale.
    """

    id: ClassVar[int] = 12
    name: ClassVar[str] = "own-scale"
    inners: ClassVar[dict[int, type[MaskedNoise] | type[ShorterMask]]] = {
        c.id: c for c in (MaskedNoise, CodedMask, RandomCode, InterleavedMask)
    }
    budget: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget:
            check_budget(self.budget)
            if RandomCode.of(self.inner) is None:
                raise ConfigError(f"a budget needs a random code, and masks travel by codec {self.inner.name}")

    @property
    def noise_scale(self) -> FitsUpdate | FitsBudget:
        """A scale for each tensor, fitted to the update, or to the update and the budget."""
        code = RandomCode.of(self.inner)
        if not self.budget or code is None:
            return FitsUpdate()
        return FitsBudget(self.budget, code.masked.mask, code.masked.noise.law, code.buckets, code.rate)

    def spending(self, budget: float) -> Self:
        """Return this codec for clients that may spend a budget, in bits a parameter."""
        return replace(self, budget=budget)

    def dial(self, sizes: Sequence[int], key: int, caps: Sequence[int] = ()) -> Dial | None:
        """Return what finds the scales of a client in a round; None without a budget."""
        code, scale = RandomCode.of(self.inner), self.noise_scale
        if code is None or not isinstance(scale, FitsBudget):
            return None
        rows = np.array(sizes, np.int64)
        if len(caps) not in {0, rows.size}:
            raise EncodeError(f"{len(caps)} caps for the scales of {rows.size} tensors")
        most = np.array(caps or [LARGEST_EXPONENT] * rows.size, np.int32)
        table = TensorScales(np.cumsum(rows), np.ones(rows.size, np.float32))
        return scale.dial(rows, len(table.to_bytes()) + code.overhead(rows), key, most)

    def head(self, vector: NDArray[np.float32], keys: EncodeKeys) -> tuple[TensorScales, bytes]:
        """Measure the scales that fit, each no more than its cap."""
        dial = self.dial([size for size in keys.segments(vector.size) if size], keys.sampling, keys.caps)
        if dial is None:
            scales = TensorScales.measure(vector, keys, self.scale)
        else:
            scales = TensorScales.given(np.ldexp(1.0, dial.exponents(vector)).tolist(), vector, keys)
        return scales, scales.to_bytes()

    def split(
        self, body: bytes | memoryview, count: int, max_value: float
    ) -> tuple[TensorScales, NDArray[np.int16], memoryview]:
        """Check the table of scales: they are those that fit."""
        scales, rest = self.split_scales(body, count, max_value)
        return scales, scales.exponents, rest
