"""Sparse: the k elements of largest magnitude, their places as Rice-coded gaps (Top-k; Aji & Heafield 2017).

k = max(1, floor(density * count + 1/2)), in doubles. A gap is the number of elements passed over since the last one
kept. With b the parameter of the Rice code, gap g is written as g >> b one-bits, a zero-bit, and the b low bits of g,
least significant first; for a random pattern this comes within some per cent of its entropy.
"""

import struct
from dataclasses import dataclass
from math import inf
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import Codec, EncodeKeys, Opened, Plane, check_finite
from fedmrn.codecs.float16 import Float16
from fedmrn.codecs.limit import any_above, clipped
from fedmrn.codecs.raw import Raw
from fedmrn.errors import BoundError, ConfigError, EncodeError, MalformedFrameError, NonFiniteError, PaddingError
from fedmrn.numerics.compiled import compiled
from fedmrn.numerics.sparsity import kept, largest
from fedmrn.whole import shown

_PARAMS = struct.Struct("<fBB")
_TYPES: dict[int, np.dtype[np.floating]] = {16: np.dtype("<f2"), 32: np.dtype("<f4")}
_LARGEST = {16: 65504.0, 32: inf}


def _mean_length(b: int, skip: float) -> float:
    """Bits of a geometric gap's code, where each element is passed over with probability `skip`."""
    run = skip ** (1 << b)
    return 1 + b + (run / (1 - run) if run < 1 else inf)


@compiled()
def _write_gaps(places, b, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Set the one-bits of all gaps in `out` (zeros before)."""
    at, last = 0, -1
    for place in places:
        gap = place - last - 1
        last = place
        for _ in range(gap >> b):
            out[at >> 3] |= np.uint8(1 << (at & 7))
            at += 1
        at += 1
        for k in range(b):
            if (gap >> k) & 1:
                out[at >> 3] |= np.uint8(1 << (at & 7))
            at += 1


@compiled()
def _read_gaps(data, b, count, places):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Fill `places`; return the bits read, -1 if the bits end too early, -2 if a place is outside the vector."""
    at, last, end = 0, -1, 8 * data.size
    for i in range(places.size):
        gap = 0
        while at < end and (data[at >> 3] >> (at & 7)) & 1:
            gap += 1
            at += 1
        at += 1
        if at + b > end:
            return -1
        if gap > count >> b:
            return -2
        gap <<= b
        for k in range(b):
            gap |= ((data[at >> 3] >> (at & 7)) & 1) << k
            at += 1
        last += gap + 1
        if last >= count:
            return -2
        places[i] = last
    return at


@dataclass(frozen=True, slots=True)
class _KeptPlane(Opened):
    """1 at increasing places, 0 at the others."""

    places: NDArray[np.int64]

    def read(self, start: int, out: NDArray[np.float32]) -> None:
        """Write the elements of a chunk."""
        first, last = np.searchsorted(self.places, (start, start + out.size))
        out[:] = 0.0
        out[self.places[first:last] - start] = 1.0


@dataclass(frozen=True)
class OpenedPlaces(Opened):
    """Some elements, at increasing places; the others are zero."""

    places: NDArray[np.int64]
    values: NDArray[np.float32]

    def read(self, start: int, out: NDArray[np.float32]) -> None:
        """Write the elements of a chunk."""
        first, last = np.searchsorted(self.places, (start, start + out.size))
        out[:] = 0.0
        out[self.places[first:last] - start] = self.values[first:last]


class OpenedSparse(OpenedPlaces):
    """The elements that a client kept; their places can be folded too, as a plane."""

    def plane(self, plane: Plane) -> Opened:
        """Return the values, or what was kept."""
        return _KeptPlane(self.places) if plane is Plane.KEPT else super().plane(plane)


@dataclass(frozen=True)
class Sparse(Codec):
    """The largest elements as they are, all others zero; biased, without randomness.

    Attributes:
        density: the share of elements kept, 2^-20 to 1, as a float32.
        bits: of a value, 32 or 16.
        rice: b of the Rice code, 0 to 30; by default the best one for a random pattern of this density. It travels, so
            that nobody has to compute it alike.

    Raises:
        ConfigError: a value is out of its range.
    """

    id: ClassVar[int] = 3
    name: ClassVar[str] = "sparse"
    planes: ClassVar[frozenset[Plane]] = frozenset({Plane.VALUE, Plane.KEPT})
    density: float = 0.03
    bits: int = 32
    rice: int = -1

    def __post_init__(self) -> None:
        if not 2.0**-20 <= self.density <= 1 or self.bits not in _TYPES:
            raise ConfigError(
                f"sparse needs a density in (0, 1] and 16 or 32 bits, got {shown(self.density)}, {shown(self.bits)}"
            )
        if not -1 <= self.rice <= 30:
            raise ConfigError(f"the parameter of a Rice code is 0 to 30, got {shown(self.rice)}")
        object.__setattr__(self, "density", float(np.float32(self.density)))
        if self.rice < 0:
            object.__setattr__(self, "rice", min(range(31), key=lambda b: _mean_length(b, 1 - self.density)))

    def kept(self, count: int) -> int:
        """Return k for a vector of `count` elements."""
        return kept(self.density, count)

    @property
    def unbiased(self) -> bool:
        """Only if nothing is left out or rounded."""
        return self.density == 1 and self.bits == 32

    def params(self) -> bytes:
        """Return 6 bytes: density as float32, bits of a value, b."""
        return _PARAMS.pack(self.density, self.bits, self.rice)

    @classmethod
    def from_params(cls, params: bytes) -> Self:
        """Return the codec with these 6 bytes of parameters."""
        try:
            return cls(*_PARAMS.unpack(params))
        except (struct.error, ConfigError) as error:
            raise MalformedFrameError(f"codec sparse cannot have parameters {params.hex()}") from error

    def bound(self, max_value: float) -> float:
        """Return the receiver's limit: `open` checks every value against it."""
        return max_value

    def holds(self, vector: NDArray[np.float32]) -> bool:
        """Whether no magnitude is above the largest float of so many bits."""
        return clipped(vector, _LARGEST[self.bits]) is vector

    def fitted(self, vector: NDArray[np.float32], max_value: float) -> NDArray[np.float32]:
        """Return the vector clipped to what a value's bits and the limit hold."""
        return (Float16() if self.bits == 16 else Raw()).fitted(vector, max_value)

    def encode(self, vector: NDArray[np.float32], keys: EncodeKeys) -> bytes:
        """Return the k largest values, then their gaps; of equal magnitudes the first are taken."""
        check_finite(vector)
        if not vector.size:
            return b""
        k = self.kept(vector.size)
        places = np.flatnonzero(largest(vector, k))
        values = vector[places]
        if np.abs(values).max() > _LARGEST[self.bits]:
            raise EncodeError(f"a value is too large for {self.bits} bits: training diverged; lower the learning rate")
        gaps = np.diff(places, prepend=-1) - 1
        length = int((gaps >> self.rice).sum()) + k * (1 + self.rice)
        out = np.zeros((length + 7) // 8, np.uint8)
        _write_gaps(places, self.rice, out)
        return values.astype(_TYPES[self.bits]).tobytes() + out.tobytes()

    def open(self, body: bytes | memoryview, count: int, noise_key: int, max_value: float) -> OpenedSparse:
        """Check values and places; takes memory for k of each, never more than the body is long.

        Raises:
            MalformedFrameError: the length, or a place outside the vector.
            PaddingError: an unused bit is set.
            NonFiniteError, BoundError: a value.
        """
        view = memoryview(body)
        k, kind = self.kept(count), _TYPES[self.bits]
        if k * kind.itemsize > len(view):
            raise MalformedFrameError(f"{k} kept values take more than the section's {len(view)} bytes")
        values = np.frombuffer(view, kind, k).astype(np.float32)
        if not np.isfinite(values).all():
            raise NonFiniteError("a sparse section holds NaN or infinity")
        sizes = np.abs(values)
        if any_above(sizes, max_value):
            raise BoundError(f"a sparse value has magnitude {sizes.max():.12g}; at most {max_value:.12g} is accepted")
        data = np.frombuffer(view, np.uint8, offset=k * kind.itemsize)
        places = np.empty(k, np.int64)
        used = _read_gaps(data, self.rice, count, places)
        if used < 0 or (used + 7) // 8 != data.size:
            raise MalformedFrameError("the places of a sparse section do not fit its elements or its length")
        if used % 8 and data[-1] >> (used % 8):
            raise PaddingError("unused bits after the last gap are set")
        return OpenedSparse(places, values)
