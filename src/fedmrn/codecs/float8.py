"""Float8: 8-bit floats with one exponent a section, for side data such as parameters of normalisation layers.

A sign, three bits of exponent and four of mantissa (E3M4), times a power of two that suits the section's largest
magnitude, as in microscaling formats (OCP MX). Rounding is random, so that the mean over clients loses little. A value
has five significant bits down to 2^-6 of the largest, and is off by at most 2^-10 of twice the largest below.
"""

from dataclasses import dataclass
from math import frexp
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import CHUNK, Codec, EncodeKeys, Opened, check_finite
from fedmrn.codecs.limit import any_above, clipped
from fedmrn.codecs.scales import draws
from fedmrn.errors import BoundError, EncodeError, MalformedFrameError

F32 = NDArray[np.float32]
LEAST_TOP, MOST_TOP = -100, 100
"""What the exponent can be. Every value is a normal float32 then."""
_LARGEST = 1.9375
_NEGATIVE_ZERO = 0x80


def _table() -> F32:
    """The values of all bytes, for exponent 0: 2^(e - 7) (1 + m / 16), and m 2^-10 where e is 0."""
    code = np.arange(128)
    e, m = code >> 4, code & 15
    magnitude = np.where(e > 0, np.ldexp(1 + m / 16, e - 7), np.ldexp(m.astype(np.float64), -10))
    return np.concatenate([magnitude, -magnitude]).astype(np.float32)


_VALUES = _table()


@dataclass(frozen=True, slots=True)
class OpenedFloat8(Opened):
    """Bytes, each the place of a value in a table."""

    codes: NDArray[np.uint8]
    values: F32

    def read(self, start: int, out: F32) -> None:
        """Write the elements of a chunk."""
        np.take(self.values, self.codes[start : start + out.size], out=out)


@dataclass(frozen=True)
class Float8(Codec):
    """An 8-bit float an element and one exponent; no parameters."""

    id: ClassVar[int] = 16
    name: ClassVar[str] = "float8"

    @property
    def elementwise(self) -> bool:
        """Yes: five significant bits each, fewer below 2^-6 of the largest magnitude."""
        return True

    @property
    def unbiased(self) -> bool:
        """Yes: rounding is random."""
        return True

    def holds(self, vector: F32) -> bool:
        """Whether no magnitude is above 1.9375 * 2^100."""
        return not vector.size or bool(max(vector.max(), -vector.min()) <= _LARGEST * 2.0**MOST_TOP)

    def fitted(self, vector: F32, max_value: float) -> F32:
        """Return the vector clipped to a value of five significant bits within the limit: no rounding goes beyond."""
        most = min(max_value, _LARGEST * 2.0**MOST_TOP)
        exponent = frexp(most)[1] - 5
        return clipped(vector, float(np.ldexp(np.floor(np.ldexp(most, -exponent)), exponent)))

    def params(self) -> bytes:
        """Return no bytes."""
        return b""

    @classmethod
    def from_params(cls, params: bytes) -> Self:
        """Return the codec; its parameters are empty."""
        if params:
            raise MalformedFrameError(f"codec float8 has no parameters, got {len(params)} bytes")
        return cls()

    def bound(self, max_value: float) -> float:
        """Return the receiver's limit, or what the format holds if that is less: `open` checks every value."""
        return min(_LARGEST * 2.0**MOST_TOP, max_value)

    def encode(self, vector: F32, keys: EncodeKeys) -> bytes:
        """Round each element to one of its two neighbours, so that the mean is right; a byte an element, and one.

        Raises:
            EncodeError: a magnitude is above 1.9375 * 2^100.
        """
        check_finite(vector)
        if not self.holds(vector):
            raise EncodeError(f"a value of magnitude {np.abs(vector).max():g} is too large for 8-bit floats")
        top = self._top(vector)
        parts = [int(top).to_bytes(1, "little", signed=True)]
        for start in range(0, vector.size, CHUNK):
            x = np.ldexp(vector[start : start + CHUNK].astype(np.float64), -top)
            size = np.abs(x)
            exponent = np.frexp(np.maximum(size, 2.0**-6))[1] - 1
            units = np.floor(np.ldexp(size, 4 - exponent) + draws(keys, start, start + x.size))
            code = (units + 16 * (exponent + 6)).astype(np.uint8)  # the values of the format stand in their order
            code[(x < 0) & (code > 0)] |= _NEGATIVE_ZERO
            parts.append(code.tobytes())
        return b"".join(parts)

    @staticmethod
    def _top(vector: F32) -> int:
        largest = float(max(vector.max(), -vector.min())) if vector.size else 0.0
        if not largest:
            return LEAST_TOP
        top = frexp(largest)[1] - 1
        return max(top + (largest > _LARGEST * 2.0**top), LEAST_TOP)

    def open(self, body: bytes | memoryview, count: int, noise_key: int, max_value: float) -> OpenedFloat8:
        """Check the length, the exponent and every value.

        Raises:
            MalformedFrameError: the body is not 1 + count bytes, the exponent is not -100 to 100, or a byte is -0.
            BoundError: a magnitude is above max_value.
        """
        view = memoryview(body)
        if len(view) != 1 + count:
            raise MalformedFrameError(f"{count} 8-bit values take {1 + count} bytes, the section has {len(view)}")
        top = int.from_bytes(view[:1], "little", signed=True)
        if not LEAST_TOP <= top <= MOST_TOP:
            raise MalformedFrameError(f"an exponent of 8-bit floats is {LEAST_TOP} to {MOST_TOP}, got {top}")
        codes = np.frombuffer(view[1:], np.uint8).copy()
        if (codes == _NEGATIVE_ZERO).any():
            raise MalformedFrameError("an 8-bit value is -0; zero is written in one way")
        values = np.ldexp(_VALUES, top)
        most = values[: codes.size and int((codes & 0x7F).max()) + 1][-1:]
        if any_above(most, max_value):
            raise BoundError(f"an 8-bit value has magnitude {most[0]:.12g}; at most {max_value:.12g} is accepted")
        return OpenedFloat8(codes, values)
