"""Bernoulli: one bit an element, 1 with the element's value as its probability (FedPM; Isik et al., ICLR 2023).

What adds up are the bits themselves, so that the mean over clients is the mean mask. The seed of the frozen weights
that the masks belong to travels among the parameters: server and clients must use the same.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import CHUNK, Codec, EncodeKeys, Opened, check_finite
from fedmrn.codecs.observation import DENSITY, Observable, Observed
from fedmrn.errors import ConfigError, MalformedFrameError
from fedmrn.numerics.bits import check_mask, count_ones, pack_bits
from fedmrn.numerics.rng import Purpose, Stream, domain
from fedmrn.whole import shown

_PARAMS = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class OpenedBits(Opened):
    """Packed bits, the first least significant; each stands for 0 or 1."""

    bits: NDArray[np.uint8]

    def read(self, start: int, out: NDArray[np.float32]) -> None:
        """Write the elements of a chunk."""
        out[:] = np.unpackbits(self.bits[start >> 3 :], count=out.size, bitorder="little")

    def observed(self, tensors: Sequence[slice]) -> Observed:
        """Return the number of ones of each tensor."""
        return {DENSITY: [count_ones(self.bits, where.start, where.stop) for where in tensors]}


@dataclass(frozen=True)
class Bernoulli(Codec):
    """One random bit an element; unbiased for values in [0, 1], others count as the nearer end.

    Attributes:
        seed: of the frozen weights, 64 bits.

    Raises:
        ConfigError: the seed is not an unsigned 64-bit integer.
    """

    id: ClassVar[int] = 7
    name: ClassVar[str] = "bernoulli"
    observables: ClassVar[tuple[Observable, ...]] = (DENSITY,)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 64:
            raise ConfigError(f"the seed of frozen weights is an unsigned 64-bit integer, got {shown(self.seed)}")

    @property
    def any_vector(self) -> bool:
        """False: it is made for probabilities."""
        return False

    @property
    def known_magnitude(self) -> bool:
        """Yes: 0 or 1."""
        return True

    def params(self) -> bytes:
        """Return 8 bytes: the seed."""
        return _PARAMS.pack(self.seed)

    @classmethod
    def from_params(cls, params: bytes) -> Self:
        """Return the codec with these 8 bytes of parameters."""
        if len(params) != _PARAMS.size:
            raise MalformedFrameError(f"codec bernoulli cannot have parameters {params.hex()}")
        return cls(*_PARAMS.unpack(params))

    def bound(self, max_value: float) -> float:
        """Return 1."""
        return 1.0

    def encode(self, vector: NDArray[np.float32], keys: EncodeKeys) -> bytes:
        """Draw a bit for each probability and pack them."""
        check_finite(vector)
        stream = Stream(keys.sampling, domain(Purpose.FINAL_MASK))
        mask = np.empty(vector.size, np.bool_)
        for start in range(0, vector.size, CHUNK):
            p = vector[start : start + CHUNK]
            mask[start : start + p.size] = stream.uniform(start, start + p.size) < p
        return pack_bits(mask)

    def open(self, body: bytes | memoryview, count: int, noise_key: int, max_value: float) -> OpenedBits:
        """Check the length and the padding.

        Raises:
            MalformedFrameError: the body is not ceil(count / 8) bytes.
            PaddingError: an unused bit is set.
        """
        check_mask(body, count)
        return OpenedBits(np.frombuffer(body, np.uint8))
