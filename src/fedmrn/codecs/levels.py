"""Levels: a sign and one of s levels an element, in 2 to 8 bits, and one norm a block.

QSGD (Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding", NeurIPS 2017), with
packing of fixed width in place of Elias coding: with N the l2 norm of x's block, s |x| / N is rounded to one of its two
neighbouring integers so that the mean is right. Unbiased; the squared error of a block of d elements is at most
min(d / s^2, sqrt(d) / s) N^2 in the mean.
"""

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import CHUNK, Codec, EncodeKeys, Opened, check_finite
from fedmrn.codecs.limit import clipped
from fedmrn.codecs.scales import F32, F64, check_scales, draws
from fedmrn.errors import ConfigError, EncodeError, MalformedFrameError, PaddingError
from fedmrn.whole import shown

_PARAMS = struct.Struct("<IB")


def _pack(symbols: NDArray[np.uint8], width: int) -> bytes:
    """Pack `width` bits a symbol, least significant first: eight symbols are `width` bytes of one 64-bit word."""
    lanes = np.zeros((-(-symbols.size // 8), 8), np.uint64)
    lanes.reshape(-1)[: symbols.size] = symbols
    lanes <<= np.arange(0, 8 * width, width, dtype=np.uint64)
    words: NDArray[np.uint64] = np.bitwise_or.reduce(lanes, axis=1).astype("<u8")
    return words.view(np.uint8).reshape(-1, 8)[:, :width].tobytes()[: _packed_size(symbols.size, width)]


def _unpack(data: NDArray[np.uint8], count: int, width: int) -> NDArray[np.uint8]:
    """Return the first `count` symbols."""
    data = data[: _packed_size(count, width)]
    padded = np.zeros(-(-count // 8) * width, np.uint8)
    padded[: data.size] = data
    lanes = np.zeros((padded.size // width, 8), np.uint8)
    lanes[:, :width] = padded.reshape(-1, width)
    symbols = lanes.view("<u8") >> np.arange(0, 8 * width, width, dtype=np.uint64)
    return (symbols.astype(np.uint8) & np.uint8((1 << width) - 1)).reshape(-1)[:count]


def _packed_size(count: int, width: int) -> int:
    return (count * width + 7) // 8


def _spread(norms: F32, block: int, start: int, stop: int) -> F64:
    """Return the norm of elements start..stop-1."""
    first, last = start // block, -(-stop // block)
    edges = np.clip(np.arange(first, last + 1, dtype=np.int64) * block, start, stop)
    return np.repeat(norms[first:last].astype(np.float64), np.diff(edges))


def _with_norm(x: F32, norm: float) -> F32:
    """Return a block of a larger l2 norm with its largest magnitudes cut to one value, such that its norm is this."""
    sizes = np.sort(np.abs(x.astype(np.float64)))
    left = norm**2 - np.append(0.0, np.cumsum(np.square(sizes[:-1])))  # for an element and all above it
    cut = np.sqrt(np.maximum(left, 0) / np.arange(x.size, 0, -1))
    return clipped(x, float(cut[np.argmax(cut <= sizes)]))


@dataclass(frozen=True, slots=True)
class OpenedLevels(Opened):
    """Levels times the norms of their blocks."""

    codec: "Levels"
    norms: F32
    symbols: NDArray[np.uint8]

    def read(self, start: int, out: F32) -> None:
        """Write the elements of a chunk."""
        width, levels = self.codec.width, self.codec.levels
        values = _unpack(self.symbols[start // 8 * width :], out.size, width).astype(np.float64)
        values -= levels
        values *= _spread(self.norms, self.codec.block, start, start + out.size)
        values /= levels  # 31 bits over 7 bits: rounding to float32 gives the nearest to the true quotient
        out[:] = values


@dataclass(frozen=True)
class Levels(Codec):
    """2 to 8 bits an element and one norm a block.

    Attributes:
        levels: the number s of positive levels, 1..127. 1, 3 and 7 use their 2, 3 and 4 bits best.
        block: elements that share a norm, 1..2^32-1; the last block may be shorter. Blocks do not heed tensors.
    """

    id: ClassVar[int] = 5
    name: ClassVar[str] = "levels"
    levels: int = 7
    block: int = 4096

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= 127 or not 1 <= self.block < 1 << 32:
            raise ConfigError(
                f"levels are 1..127 and a block 1..2^32-1, got {shown(self.levels)} and {shown(self.block)}"
            )

    @property
    def width(self) -> int:
        """Bits of a symbol 0..2s."""
        return (2 * self.levels).bit_length()

    @property
    def unbiased(self) -> bool:
        """Yes: rounding is random."""
        return True

    def params(self) -> bytes:
        """Return 5 bytes: block, levels."""
        return _PARAMS.pack(self.block, self.levels)

    @classmethod
    def from_params(cls, params: bytes) -> Self:
        """Return the codec with these 5 bytes of parameters."""
        try:
            block, levels = _PARAMS.unpack(params)
            return cls(levels, block)
        except (struct.error, ConfigError) as error:
            raise MalformedFrameError(f"codec levels cannot have parameters {params.hex()}") from error

    def bound(self, max_value: float) -> float:
        """Return the receiver's limit: `open` checks every norm, and no value exceeds its norm."""
        return max_value

    def holds(self, vector: F32) -> bool:
        """Whether the norm of every block is a float32."""
        return bool(self._exact_norms(vector).max(initial=0) <= np.finfo(np.float32).max)

    def fitted(self, vector: F32, max_value: float) -> F32:
        """Return the vector; in a block whose norm is above the limit, the largest magnitudes are cut to one value."""
        most = min(max_value, float(np.finfo(np.float32).max)) * (1 - 2.0**-20)
        loud = np.flatnonzero(self._exact_norms(vector) > most)
        out = vector.copy() if loud.size else vector
        for start in (loud * self.block).tolist():
            block = out[start : start + self.block]
            block[:] = _with_norm(block, most)
        return out

    def _exact_norms(self, vector: F32) -> F64:
        squares = np.zeros(-(-vector.size // self.block))
        for start in range(0, vector.size, CHUNK):
            x = np.square(vector[start : start + CHUNK], dtype=np.float64)
            first, last = start // self.block, -(-(start + x.size) // self.block)
            edges = np.maximum(np.arange(first, last, dtype=np.int64) * self.block - start, 0)
            squares[first:last] += np.add.reduceat(x, edges)
        return np.sqrt(squares)

    def _norms(self, vector: F32) -> F32:
        norms = self._exact_norms(vector)
        if norms.max(initial=0) > np.finfo(np.float32).max:
            raise EncodeError("the norm of a block is beyond float32: training diverged; lower the learning rate")
        return norms.astype(np.float32)

    def encode(self, vector: F32, keys: EncodeKeys) -> bytes:
        """Measure each block's norm and round each element to a level k of -s..s, written as k + s.

        Raises:
            EncodeError: if the vector is not finite, or the norm of a block is not as float32.
        """
        check_finite(vector)
        norms = self._norms(vector)
        parts = [norms.astype("<f4").tobytes()]
        for start in range(0, vector.size, CHUNK):
            x = vector[start : start + CHUNK]
            norm = _spread(norms, self.block, start, start + x.size)
            norm[norm == 0] = 1
            level = np.floor(np.abs(x) * np.float64(self.levels) / norm + draws(keys, start, start + x.size))
            parts.append(_pack((np.copysign(level, x) + self.levels).astype(np.uint8), self.width))
        return b"".join(parts)

    def open(self, body: bytes | memoryview, count: int, noise_key: int, max_value: float) -> OpenedLevels:
        """Check the length, every norm, every symbol and the padding.

        Raises:
            MalformedFrameError: the length is wrong, or a symbol is above 2s.
            NonFiniteError: a norm is NaN or infinite.
            BoundError: a norm is negative or above max_value.
            PaddingError: an unused bit is set.
        """
        view = memoryview(body)
        blocks, size = -(-count // self.block), _packed_size(count, self.width)
        if len(view) != 4 * blocks + size:
            raise MalformedFrameError(
                f"{blocks} norms and {count} levels take {4 * blocks + size} bytes, the section has {len(view)}"
            )
        norms = np.frombuffer(view, "<f4", blocks).astype(np.float32)
        check_scales(norms, max_value)
        symbols = np.frombuffer(view[4 * blocks :], np.uint8)
        unused = -count * self.width % 8
        if unused and view[-1] >> (8 - unused):
            raise PaddingError("unused bits of the last byte of levels are set")
        for start in range(0, count, CHUNK):
            found = _unpack(symbols[start // 8 * self.width :], min(CHUNK, count - start), self.width)
            if (found > 2 * self.levels).any():
                raise MalformedFrameError(f"a level is written as {found.max()}, at most {2 * self.levels} is possible")
        return OpenedLevels(self, norms, symbols)
