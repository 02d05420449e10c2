"""OwnScale: masked noise whose scale each client chooses, a tensor at a time, from its own update (scale = "auto").

The scales travel with the mask, and the noise itself is that of scale 1; `fedmrn.codecs.mask.scale` says how they are
found, and why.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import EncodeKeys
from fedmrn.codecs.mask.coded_mask import CodedMask
from fedmrn.codecs.mask.interleaved_mask import InterleavedMask
from fedmrn.codecs.mask.masked_noise import MaskedNoise
from fedmrn.codecs.mask.random_code import RandomCode
from fedmrn.codecs.mask.scale import FitsUpdate
from fedmrn.codecs.mask.scaled_mask import ScaledMask
from fedmrn.codecs.mask.shorter_mask import ShorterMask
from fedmrn.codecs.scales import TensorScales


@dataclass(frozen=True)
class OwnScale(ScaledMask):
    """Masked noise with a scale for each tensor that is not empty, measured when an update is encoded."""

    id: ClassVar[int] = 12
    name: ClassVar[str] = "own-scale"
    inners: ClassVar[dict[int, type[MaskedNoise] | type[ShorterMask]]] = {
        c.id: c for c in (MaskedNoise, CodedMask, RandomCode, InterleavedMask)
    }

    @property
    def noise_scale(self) -> FitsUpdate:
        """A scale for each tensor, fitted to the update."""
        return FitsUpdate()

    def head(self, vector: NDArray[np.float32], keys: EncodeKeys) -> tuple[TensorScales, bytes]:
        """Measure the scales that fit, each no more than its cap."""
        scales = TensorScales.measure(vector, keys, self.scale)
        return scales, scales.to_bytes()

    def split(
        self, body: bytes | memoryview, count: int, max_value: float
    ) -> tuple[TensorScales, NDArray[np.int16], memoryview]:
        """Check the table of scales: they are those that fit."""
        scales, rest = self.split_scales(body, count, max_value)
        return scales, scales.exponents, rest
