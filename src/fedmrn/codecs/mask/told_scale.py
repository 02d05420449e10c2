"""ToldScale: masked noise whose scales the server tells all clients of a round (scale = "auto", noise_key = "round").

Clients that share one noise cannot choose scales: their masks are summed as bits, and a bit stands for the same number
in each. So the broadcast tells a scale for each tensor. An update says beside its mask which scale would have fitted
it, and the lower median of these wishes is what the server tells next.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import EncodeKeys
from fedmrn.codecs.mask.coded_mask import CodedMask
from fedmrn.codecs.mask.interleaved_mask import InterleavedMask
from fedmrn.codecs.mask.masked_noise import MaskedNoise
from fedmrn.codecs.mask.scale import LARGEST_EXPONENT, SMALLEST_EXPONENT, Told
from fedmrn.codecs.mask.scaled_mask import ScaledMask
from fedmrn.codecs.mask.shorter_mask import ShorterMask
from fedmrn.codecs.scales import TensorScales
from fedmrn.errors import EncodeError, MalformedFrameError


@dataclass(frozen=True)
class ToldScale(ScaledMask):
    """Masked noise with a scale for each tensor that is not empty, which `EncodeKeys.scales` tells.

    Where none is told, the update is written in the scales that fit it: what a client would have wished for.
    """

    id: ClassVar[int] = 13
    name: ClassVar[str] = "told-scale"
    inners: ClassVar[dict[int, type[MaskedNoise] | type[ShorterMask]]] = {
        c.id: c for c in (MaskedNoise, CodedMask, InterleavedMask)
    }

    @property
    def noise_scale(self) -> Told:
        """A scale for each tensor, from the broadcast."""
        return Told()

    @property
    def known_magnitude(self) -> bool:
        """No: the scales are not among the parameters."""
        return False

    @property
    def told_multiple(self) -> float:
        """The same multiple by which clients choose scales of their own."""
        return self.multiple

    def head(self, vector: NDArray[np.float32], keys: EncodeKeys) -> tuple[TensorScales, bytes]:
        """Return the scales that were told, and measure those that fit.

        Raises:
            EncodeError: scales are told for another number of tensors.
        """
        wanted = TensorScales.measure(vector, keys, self.scale)
        told = wanted
        if keys.scales:
            if len(keys.scales) != wanted.values.size:
                raise EncodeError(f"{len(keys.scales)} scales are told for {wanted.values.size} tensors")
            told = TensorScales(wanted.ends, np.ldexp(np.float32(1), np.array(keys.scales, np.int32)))
        return told, told.to_bytes() + wanted.exponents.astype(np.int8).tobytes()

    def split(
        self, body: bytes | memoryview, count: int, max_value: float
    ) -> tuple[TensorScales, NDArray[np.int16], memoryview]:
        """Check the table of scales, and the exponents of those that fit, a byte each.

        Raises:
            MalformedFrameError: also if these are cut, or beyond -80..80.
        """
        scales, rest = self.split_scales(body, count, max_value)
        runs = scales.values.size
        if len(rest) < runs:
            raise MalformedFrameError(f"{runs} wanted scales take as many bytes, the section has {len(rest)} left")
        wanted = np.frombuffer(rest, np.int8, runs).astype(np.int16)
        if runs and not SMALLEST_EXPONENT <= wanted.min() <= wanted.max() <= LARGEST_EXPONENT:
            raise MalformedFrameError(
                f"wanted scales are 2^{wanted.min()} to 2^{wanted.max()}; "
                f"2^{SMALLEST_EXPONENT} to 2^{LARGEST_EXPONENT} is accepted"
            )
        return scales, wanted, rest[runs:]
