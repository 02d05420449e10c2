"""Float16: IEEE 16-bit floats, for side data such as the parameters and statistics of normalisation layers.

What travels is a difference to the broadcast, so that eleven significant bits are of the change, not of the value.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import Codec, EncodeKeys, check_finite
from fedmrn.codecs.floats import OpenedFloats, open_floats
from fedmrn.codecs.limit import clipped
from fedmrn.errors import EncodeError, MalformedFrameError

LARGEST = 65504.0
_OVERFLOWS = 65520.0  # the least magnitude that does not round to it


@dataclass(frozen=True)
class Float16(Codec):
    """Rounded to the nearest 16-bit float, two bytes an element; no parameters."""

    id: ClassVar[int] = 10
    name: ClassVar[str] = "float16"

    @property
    def elementwise(self) -> bool:
        """Yes: eleven significant bits each, fewer below 2^-14."""
        return True

    def holds(self, vector: NDArray[np.float32]) -> bool:
        """Whether no magnitude rounds to more than 65504."""
        return not vector.size or bool(max(vector.max(), -vector.min()) < _OVERFLOWS)

    def fitted(self, vector: NDArray[np.float32], max_value: float) -> NDArray[np.float32]:
        """Return the vector clipped to the largest 16-bit float that is at most the limit."""
        most = np.float16(self.bound(max_value))
        if float(most) > max_value:
            most = np.nextafter(most, np.float16(0))
        return clipped(vector, float(most))

    def params(self) -> bytes:
        """Return no bytes."""
        return b""

    @classmethod
    def from_params(cls, params: bytes) -> Self:
        """Return the codec; its parameters are empty."""
        if params:
            raise MalformedFrameError(f"codec float16 has no parameters, got {len(params)} bytes")
        return cls()

    def bound(self, max_value: float) -> float:
        """Return the largest 16-bit float, or the receiver's limit if that is less: `open` checks every value."""
        return min(LARGEST, max_value)

    def encode(self, vector: NDArray[np.float32], keys: EncodeKeys) -> bytes:
        """Return 2 bytes an element.

        Raises:
            EncodeError: a magnitude rounds to more than 65504.
        """
        check_finite(vector)
        with np.errstate(over="ignore"):
            halves = vector.astype("<f2")
        if not np.isfinite(halves).all():
            raise EncodeError(f"a value of magnitude {np.abs(vector).max():g} is too large for 16 bits; send 32")
        return halves.tobytes()

    def open(self, body: bytes | memoryview, count: int, noise_key: int, max_value: float) -> OpenedFloats:
        """Check the length and every value.

        Raises:
            MalformedFrameError: the body is not 2 * count bytes.
            NonFiniteError: a value is NaN or infinite.
            BoundError: a magnitude is above max_value.
        """
        return open_floats(body, "<f2", count, max_value, "16-bit")
