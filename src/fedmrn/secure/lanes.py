"""Numbers that are summed: bits in lanes modulo 2^8 or 2^16, of which b bits travel; reals in fixed point.

2^b divides what a lane wraps around at, so that lanes may wrap and be cut to b bits at the end.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import EncodeError, PaddingError
from fedmrn.secure.session import CLIP, Session

Lane = NDArray[np.unsignedinteger[Any]]
_PIECE = 1 << 16  # elements, a multiple of 8


@dataclass(frozen=True, slots=True)
class Lanes:
    """One client's numbers, or a sum of them.

    Attributes:
        bits: uint8 or uint16, shape (session.bits,).
        reals: uint32, shape (session.reals,).
    """

    bits: Lane
    reals: NDArray[np.uint32]

    @classmethod
    def zeros(cls, session: Session) -> "Lanes":
        """Return a sum of nothing."""
        return cls(np.zeros(session.bits, lane_type(session)), np.zeros(session.reals, np.uint32))

    def add(self, other: "Lanes") -> None:
        """Add numbers in place, modulo what lanes wrap around at."""
        np.add(self.bits, other.bits, out=self.bits)
        np.add(self.reals, other.reals, out=self.reals)

    def subtract(self, other: "Lanes") -> None:
        """Subtract numbers in place, modulo what lanes wrap around at."""
        np.subtract(self.bits, other.bits, out=self.bits)
        np.subtract(self.reals, other.reals, out=self.reals)

    def to_bytes(self, session: Session) -> bytes:
        """Return `session.padded_size` bytes: b bits an element, the least significant first, and 4 bytes a real."""
        return _pack(self.bits, session.width) + self.reals.astype("<u4", copy=False).tobytes()

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, session: Session) -> "Lanes":
        """Return the numbers in `session.padded_size` bytes.

        Raises:
            PaddingError: an unused bit is set.
        """
        stop = session.padded_size - 4 * session.reals
        bits = _unpack(np.frombuffer(data, np.uint8, stop), session)
        return cls(bits, np.frombuffer(data, "<u4", session.reals, stop).astype(np.uint32))


def lane_type(session: Session) -> type[np.unsignedinteger[Any]]:
    """Return what an element of the sum of masks is kept in."""
    return np.uint8 if session.width <= 8 else np.uint16


def _pack(values: Lane, width: int) -> bytes:
    """Return the low `width` bits of each value, in a row."""
    parts = []
    for at in range(0, values.size, _PIECE):
        part = values[at : at + _PIECE]
        spread = np.empty((part.size, width), np.uint8)
        for bit in range(width):
            spread[:, bit] = part >> bit & 1
        parts.append(np.packbits(spread.ravel(), bitorder="little").tobytes())
    return b"".join(parts)


def _unpack(packed: NDArray[np.uint8], session: Session) -> Lane:
    """Return the values of packed bits, of the session's type and number.

    Raises:
        PaddingError: an unused bit is set.
    """
    width, kind = session.width, lane_type(session)
    left = packed.size * 8 - session.bits * width
    if left and packed[-1] >> (8 - left):
        raise PaddingError("unused bits of the last byte are not zero")
    values = np.empty(session.bits, kind)
    for at in range(0, session.bits, _PIECE):
        part = values[at : at + _PIECE]
        first = at * width // 8
        count = part.size * width
        row = np.unpackbits(packed[first : first - (-count // 8)], bitorder="little", count=count)
        spread = row.reshape(-1, width)
        part[:] = spread[:, 0]
        for bit in range(1, width):
            part |= np.left_shift(spread[:, bit].astype(kind), bit)
    return values


def fixed(values: NDArray[np.float32], session: Session) -> NDArray[np.uint32]:
    """Return reals as round(v * 2^f) modulo 2^32, of values clipped to +-CLIP.

    Raises:
        EncodeError: one is not finite.
    """
    if not np.isfinite(values).all():
        raise EncodeError("a value to sum is NaN or infinite: training diverged; lower the learning rate")
    scaled = np.rint(np.clip(values.astype(np.float64), -CLIP, CLIP) * 2.0**session.fraction)
    return scaled.astype(np.int64).astype(np.uint32)


def signed(sums: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return sums modulo 2^32 as the whole numbers that they are, -2^31 to 2^31 - 1, int64."""
    return sums.view(np.int32).astype(np.int64)
