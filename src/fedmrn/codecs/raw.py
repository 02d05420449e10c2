"""Raw: little-endian float32, four bytes an element. The codec of FedAvg and of everything left dense."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import Codec, EncodeKeys, check_finite
from fedmrn.codecs.floats import OpenedFloats, open_floats
from fedmrn.errors import MalformedFrameError


@dataclass(frozen=True)
class Raw(Codec):
    """Float32 as it is; no parameters."""

    id: ClassVar[int] = 0
    name: ClassVar[str] = "raw"

    @property
    def unbiased(self) -> bool:
        """Yes, it is exact."""
        return True

    @property
    def elementwise(self) -> bool:
        """Yes."""
        return True

    def params(self) -> bytes:
        """Return no bytes."""
        return b""

    @classmethod
    def from_params(cls, params: bytes) -> Self:
        """Return the codec; its parameters are empty."""
        if params:
            raise MalformedFrameError(f"codec raw has no parameters, got {len(params)} bytes")
        return cls()

    def bound(self, max_value: float) -> float:
        """Return the receiver's limit: `open` checks every value against it."""
        return max_value

    def encode(self, vector: NDArray[np.float32], keys: EncodeKeys) -> bytes:
        """Return 4 bytes an element."""
        check_finite(vector)
        return vector.astype("<f4", copy=False).tobytes()

    def open(self, body: bytes | memoryview, count: int, noise_key: int, max_value: float) -> OpenedFloats:
        """Check the length and every value.

        Raises:
            MalformedFrameError: the body is not 4 * count bytes.
            NonFiniteError: a value is NaN or infinite.
            BoundError: a magnitude is above max_value.
        """
        return open_floats(body, "<f4", count, max_value, "raw")
