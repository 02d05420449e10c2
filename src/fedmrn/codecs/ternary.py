"""Ternary: 0, +s or -s an element, five to a byte, and one scale s a tensor.

TernGrad (Wen et al., "TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep Learning",
NeurIPS 2017): magnitudes are clipped to 2.5 sigma, s is the largest of them, and x becomes sign(x) s with probability
|x| / s, else 0: unbiased but for the clipping. Sigma is the root mean square here, not the deviation from the mean:
they agree where the mean is near zero, and a tensor of one element, or of equal ones, is not clipped to nothing.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import CHUNK, Codec, EncodeKeys, Opened, check_finite
from fedmrn.codecs.scales import F32, TensorScales, draws, largest_magnitude
from fedmrn.errors import ConfigError, MalformedFrameError
from fedmrn.numerics.bits import check_trits, pack_trits, trits_size, unpack_trits
from fedmrn.whole import shown

_PARAMS = struct.Struct("<f")
_FACTOR = np.array([0.0, 1.0, -1.0], np.float32)
_PIECE = 5 * CHUNK


@dataclass(frozen=True, slots=True)
class OpenedTrits(Opened):
    """Trits times the scales of their tensors."""

    scales: TensorScales
    trits: NDArray[np.uint8]

    def read(self, start: int, out: F32) -> None:
        """Write the elements of a chunk."""
        self.scales.spread(start, out)
        out *= np.take(_FACTOR, unpack_trits(self.trits, start, start + out.size))

    def tensor_scales(self) -> TensorScales:
        """Return the scales of the tensors."""
        return self.scales

    def capped(self, caps: Sequence[int]) -> Self:
        """Return the section with no scale above 2^cap of its tensor."""
        return replace(self, scales=self.scales.capped(caps))


@dataclass(frozen=True)
class Ternary(Codec):
    """1.6 bits an element and one scale a tensor.

    Attributes:
        clip: magnitudes are clipped to this many root mean squares of their tensor; 0 clips nothing. Held as float32.
    """

    id: ClassVar[int] = 4
    name: ClassVar[str] = "ternary"
    clip: float = 2.5

    def __post_init__(self) -> None:
        if not 0 <= self.clip <= float(np.finfo(np.float32).max) or math.copysign(1.0, self.clip) < 0:
            raise ConfigError(f"clip is a finite float32, 0 or more, got {shown(self.clip)}")
        object.__setattr__(self, "clip", float(np.float32(self.clip)))

    @property
    def sends_scales(self) -> bool:
        """Yes."""
        return True

    @property
    def unbiased(self) -> bool:
        """Only without clipping."""
        return self.clip == 0

    def params(self) -> bytes:
        """Return 4 bytes: the clip as float32."""
        return _PARAMS.pack(self.clip)

    @classmethod
    def from_params(cls, params: bytes) -> Self:
        """Return the codec with these 4 bytes of parameters."""
        try:
            return cls(*_PARAMS.unpack(params))
        except (struct.error, ConfigError) as error:
            raise MalformedFrameError(f"codec ternary cannot have parameters {params.hex()}") from error

    def bound(self, max_value: float) -> float:
        """Return the receiver's limit: `open` checks every scale against it."""
        return max_value

    def _scale(self, x: F32) -> float:
        largest = largest_magnitude(x)
        if not self.clip:
            return largest
        squares = sum(float(np.square(x[i : i + CHUNK], dtype=np.float64).sum()) for i in range(0, x.size, CHUNK))
        return min(largest, self.clip * math.sqrt(squares / x.size))

    def encode(self, vector: F32, keys: EncodeKeys) -> bytes:
        """Measure each tensor's scale and sample a trit an element: 0, 1 for +s, 2 for -s."""
        check_finite(vector)
        scales = TensorScales.measure(vector, keys, self._scale)
        parts = [scales.to_bytes()]
        scale = np.empty(min(_PIECE, vector.size), np.float32)
        for start in range(0, vector.size, _PIECE):
            x = vector[start : start + _PIECE]
            s = scale[: x.size]
            scales.spread(start, s)
            keep = draws(keys, start, start + x.size) * s < np.abs(x)
            keep &= s > 0
            parts.append(pack_trits(keep * (np.uint8(1) + (x < 0))))
        return b"".join(parts)

    def open(self, body: bytes | memoryview, count: int, noise_key: int, max_value: float) -> OpenedTrits:
        """Check the table of scales, the length, every byte of trits and the padding.

        Raises:
            MalformedFrameError: as `TensorScales.split`, and for a byte above 242.
            NonFiniteError, BoundError: as `TensorScales.split`.
            PaddingError: an unused trit is not zero.
        """
        scales, trits = TensorScales.split(body, count, trits_size(count), max_value)
        check_trits(trits, count)
        return OpenedTrits(scales, np.frombuffer(trits, np.uint8))
