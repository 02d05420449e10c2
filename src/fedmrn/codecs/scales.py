"""What codecs with a scale a tensor share: the table of scales at the start of a body, and the client's own draws."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import CHUNK, EncodeKeys
from fedmrn.codecs.limit import any_above
from fedmrn.errors import BoundError, EncodeError, MalformedFrameError, NonFiniteError
from fedmrn.numerics.rng import Purpose, Stream, domain

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_COUNT = struct.Struct("<I")
_ROW = np.dtype([("size", "<u8"), ("scale", "<f4")])
_UNMOVED = -(1 << 15)
"""The exponent of a scale of zero: what has not moved."""


def draws(keys: EncodeKeys, start: int, stop: int) -> F64:
    """Return the client's own uniform numbers of elements start..stop-1: odd multiples of 2^-33 in (0, 1)."""
    words = Stream(keys.sampling, domain(Purpose.QUANTISE)).words(start, stop)
    return (words.astype(np.float64) + 0.5) * 2.0**-32


def check_scales(scales: F32, max_value: float) -> None:
    """Refuse scales that came from outside and are not numbers in +0..max_value.

    Raises:
        NonFiniteError: one is NaN or infinite.
        BoundError: one is negative (-0 too, so that zero is written in one way) or above max_value.
    """
    if not np.isfinite(scales).all():
        raise NonFiniteError("a scale is NaN or infinite")
    if np.signbit(scales).any() or any_above(scales, max_value):
        raise BoundError(f"scales are {scales.min():.12g} to {scales.max():.12g}; 0 to {max_value:.12g} is accepted")


def exponents_of(magnitudes: F32 | F64) -> NDArray[np.int16]:
    """Return the least e with |x| <= 2^e for each finite magnitude, int16, of the same shape; `_UNMOVED` for zero."""
    fraction, exponent = np.frexp(magnitudes)
    return np.where(magnitudes > 0, exponent - (fraction == 0.5), _UNMOVED).astype(np.int16)


@dataclass(frozen=True, slots=True)
class TensorScales:
    """A float32 scale for each run of elements.

    Attributes:
        ends: where each run ends, increasing, int64.
        values: the scales, float32.
    """

    ends: NDArray[np.int64]
    values: F32

    @classmethod
    def measure(cls, vector: F32, keys: EncodeKeys, scale: Callable[[F32], float]) -> Self:
        """Return one scale for each tensor that is not empty, rounded to float32, and no more than its cap.

        Raises:
            EncodeError: there are caps for another number of tensors.
        """
        sizes = [size for size in keys.segments(vector.size) if size]
        ends = np.cumsum(sizes, dtype=np.int64)
        runs = zip(ends, sizes, strict=True)
        return cls(ends, np.array([scale(vector[end - size : end]) for end, size in runs], np.float32)).under(keys)

    @classmethod
    def given(cls, scales: Sequence[float], vector: F32, keys: EncodeKeys) -> Self:
        """Return these scales, one for each tensor that is not empty, and no more than its cap.

        Raises:
            EncodeError: their number or that of the caps is wrong, or one is not a finite number of at least 0.
        """
        sizes = [size for size in keys.segments(vector.size) if size]
        with np.errstate(over="ignore"):
            values = np.array(scales, np.float32)
        if values.size != len(sizes) or not np.isfinite(values).all() or (values < 0).any():
            raise EncodeError(f"{len(sizes)} tensors need as many finite scales of at least 0, got {list(scales)}")
        return cls(np.cumsum(sizes, dtype=np.int64), np.abs(values)).under(keys)

    def to_bytes(self) -> bytes:
        """Return u32 number of runs, then for each u64 size and f32 scale."""
        rows = np.empty(self.ends.size, _ROW)
        rows["size"] = np.diff(self.ends, prepend=0)
        rows["scale"] = self.values
        return _COUNT.pack(rows.size) + rows.tobytes()

    @classmethod
    def split(
        cls, body: bytes | memoryview, count: int, packed: int | None, max_value: float
    ) -> tuple[Self, memoryview]:
        """Check a body of this table and `packed` bytes of symbols (None: any); return the table and the symbols.

        Raises:
            MalformedFrameError: the length is wrong, a size is zero, or the sizes do not add up to `count`.
            NonFiniteError: a scale is NaN or infinite.
            BoundError: a scale is negative or above max_value.
        """
        view = memoryview(body)
        if len(view) < _COUNT.size:
            raise MalformedFrameError(f"a table of scales starts with 4 bytes, the section has {len(view)}")
        (runs,) = _COUNT.unpack_from(view)
        start = _COUNT.size + runs * _ROW.itemsize
        least = start + (packed or 0)
        if len(view) < least or (packed is not None and len(view) != least):
            what = f"{runs} scales" if packed is None else f"{runs} scales and {count} elements"
            raise MalformedFrameError(f"{what} take {least} bytes, the section has {len(view)}")
        rows = np.frombuffer(view, _ROW, runs, _COUNT.size)
        high, low = rows["size"] >> np.uint64(32), rows["size"] & np.uint64(0xFFFFFFFF)  # halves: no sum can wrap
        total = (int(high.sum()) << 32) + int(low.sum())
        if total != count or not rows["size"].all():
            raise MalformedFrameError(f"{runs} tensors of {total} elements, or empty ones, in a section of {count}")
        values = rows["scale"].astype(np.float32)
        check_scales(values, max_value)
        return cls(np.cumsum(rows["size"], dtype=np.int64), values), view[start:]

    @property
    def exponents(self) -> NDArray[np.int16]:
        """For each scale the least e with scale <= 2^e; `_UNMOVED` for zero."""
        return exponents_of(self.values)

    def capped(self, caps: Sequence[int]) -> Self:
        """Return the same with no scale above 2^cap."""
        return replace(self, values=np.minimum(self.values, np.ldexp(np.float32(1), np.array(caps, np.int32))))

    def under(self, keys: EncodeKeys) -> Self:
        """Return the same under the caps that the client was told, if it was told any."""
        if len(keys.caps) not in {0, self.values.size}:
            raise EncodeError(f"{len(keys.caps)} caps for the scales of {self.values.size} tensors")
        return self.capped(keys.caps) if keys.caps else self

    def at(self, index: int) -> float:
        """Return the scale of an element."""
        return float(self.values[np.searchsorted(self.ends, index, "right")])

    def spread(self, start: int, out: F32) -> None:
        """Write the scale of elements start, start+1, ... into `out`."""
        stop = start + out.size
        first = int(np.searchsorted(self.ends, start, "right"))
        last = int(np.searchsorted(self.ends, stop, "left")) + 1
        lengths = np.diff(np.minimum(self.ends[first:last], stop), prepend=start)
        out[:] = np.repeat(self.values[first:last], lengths)


def largest_magnitude(x: F32) -> float:
    """Return the largest magnitude of a vector that is not empty."""
    return abs(float(max(x.max(), -x.min())))  # -0 has magnitude +0


def mean_magnitude(x: F32) -> float:
    """Return the mean magnitude of a vector that is not empty, summed in float64."""
    total = sum(float(np.abs(x[at : at + CHUNK]).sum(dtype=np.float64)) for at in range(0, x.size, CHUNK))
    return total / x.size
