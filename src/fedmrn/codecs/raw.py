"""Raw: little-endian float32, four bytes an element. The codec of FedAvg and of everything left dense."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import CHUNK, Codec, EncodeKeys, check_finite
from fedmrn.errors import BoundError, MalformedFrameError, NonFiniteError


@dataclass(frozen=True, slots=True)
class _RawReader:
    body: memoryview

    def read(self, start: int, out: NDArray[np.float32]) -> None:
        out[:] = np.frombuffer(self.body, "<f4", out.size, 4 * start)


@dataclass(frozen=True)
class Raw(Codec):
    """Float32 as it is; no parameters."""

    id: ClassVar[int] = 0
    name: ClassVar[str] = "raw"

    @property
    def unbiased(self) -> bool:
        """Yes, it is exact."""
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

    def open(self, body: bytes | memoryview, count: int, noise_key: int, max_value: float) -> _RawReader:
        """Check the length and every value.

        Raises:
            MalformedFrameError: the body is not 4 * count bytes.
            NonFiniteError: a value is NaN or infinite.
            BoundError: a magnitude is above max_value.
        """
        view = memoryview(body)
        if len(view) != 4 * count:
            raise MalformedFrameError(f"{count} raw values take {4 * count} bytes, the section has {len(view)}")
        for start in range(0, count, CHUNK):
            values = np.abs(np.frombuffer(view, "<f4", min(CHUNK, count - start), 4 * start))
            if not np.isfinite(values).all():
                raise NonFiniteError(f"a dense section holds NaN or infinity within elements {start}..{start + CHUNK}")
            if (values > max_value).any():
                raise BoundError(f"a dense value has magnitude {values.max():g}; at most {max_value:g} is accepted")
        return _RawReader(view)
