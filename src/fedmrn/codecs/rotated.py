"""Rotated: a random rotation, then 1 to 4 bits an element and a scale a block. DRIVE is the one of 1 bit, EDEN all.

After the rotation of a block of b elements the coordinates of y = H D x / sqrt(b) are nearly normal, whatever x was, so
the best codebook is known: the Lloyd-Max centroids c of the normal law, taken at z = sqrt(b) y / |y|. The scale is
|y|^2 / <c, y> (unbiased) or <c, y> / <c, c> (least squared error, biased towards zero); at 1 bit these are DRIVE's
|y|^2 / |y|_1 and |y|_1 / b over 0.798. Below one bit, a fraction `keep` of the elements is coded and divided by it.

Sources: DRIVE, Vargaftik et al., NeurIPS 2021; EDEN, Vargaftik et al., ICML 2022 (sections 3 and 4.2).
"""

import struct
import threading
from bisect import bisect_right
from dataclasses import dataclass, field
from enum import IntEnum
from math import sqrt
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import CHUNK, Codec, EncodeKeys, Opened, check_finite
from fedmrn.codecs.limit import any_above
from fedmrn.errors import BoundError, ConfigError, EncodeError, MalformedFrameError, NonFiniteError
from fedmrn.numerics.rng import Purpose, Stream, domain
from fedmrn.numerics.rotation import LARGEST, SMALLEST, blocks, decode_block, encode_block
from fedmrn.whole import shown

CENTROIDS = {
    1: (0.797884560802865356,),
    2: (0.452780034636492009, 1.5104176084990954),
    3: (0.245094178944221668, 0.756005281205877275, 1.34390927850499988, 2.15194570453698729),
    4: (
        0.12839502985114701,
        0.388048299490290197,
        0.656759118532463381,
        0.942340456486961371,
        1.25623119734717715,
        1.61804638602188263,
        2.06901722653138658,
        2.73258957099516307,
    ),
}
"""The positive half of the Lloyd-Max codebook of N(0, 1) at each number of bits, found with 40 digits."""

_SMALLEST_KEEP = 2.0**-8
_PARAMS = struct.Struct("<BBf")
_HIGHEST_LEVEL = 2.0**119  # so that no sum in the transform of 2^16 elements leaves float32
_SURELY_FITS = 2.0**96  # a scale is at most 2^11 times it, and a level 2^10 times that: below half of 2^119
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_STEP = CHUNK // 4


class ScaleRule(IntEnum):
    """The rule for a block's scale; the number is its code on the wire. A decoder does not use it."""

    UNBIASED = 0
    MSE = 1


def _kept(stream: Stream, start: int, stop: int, keep: float) -> NDArray[np.bool_]:
    return stream.words(start, stop) < np.uint32(keep * 2.0**32)  # exact: keep has 24 bits and is at least 2^-8


def _body_size(kept: int, bits: int) -> int:
    dense = kept % SMALLEST
    scales = kept // LARGEST + (kept % LARGEST // SMALLEST).bit_count()
    return 4 * scales + (kept - dense) * bits // 8 + 4 * dense


@dataclass(frozen=True, slots=True)
class OpenedBlocks(Opened):
    """Rotated blocks, rotated back when they are read, and a dense tail."""

    codec: "Rotated"
    key: int
    limit: np.float32
    ranks: list[int]  # kept elements before each piece of CHUNK; empty if all are kept
    starts: list[int]
    sizes: list[int]
    scales: NDArray[np.float32]
    packed: NDArray[np.uint8]
    dense: NDArray[np.float32]
    last: threading.local = field(default_factory=threading.local)  # each thread's last block: its number and values

    def read(self, start: int, out: NDArray[np.float32]) -> None:
        """Write the elements of a chunk."""
        if not self.ranks:
            self._read_kept(start, out)
            return
        stream = Stream(self.key, domain(Purpose.QUANTISE))
        for at in range(0, out.size, CHUNK):
            part = out[at : at + CHUNK]
            kept = _kept(stream, start + at, start + at + part.size, self.codec.keep)
            values = np.empty(np.count_nonzero(kept), np.float32)
            self._read_kept(self.ranks[(start + at) // CHUNK], values)
            part[:] = 0.0
            part[kept] = values

    def _read_kept(self, start: int, out: NDArray[np.float32]) -> None:
        done = 0
        while done < out.size:
            number = bisect_right(self.starts, start + done) - 1
            skip = start + done - (self.starts[number] if self.starts else 0)
            if number < 0 or skip >= self.sizes[number]:  # behind the last block
                values, skip = self.dense, start + done - (self.starts[-1] + self.sizes[-1] if self.starts else 0)
            else:
                values = self._block(number)
            take = min(values.size - skip, out.size - done)
            out[done : done + take] = values[skip : skip + take]
            done += take

    def _block(self, number: int) -> NDArray[np.float32]:
        last: tuple[int, NDArray[np.float32]] | None = getattr(self.last, "block", None)
        if last is not None and last[0] == number:
            return last[1]
        start, size, bits = self.starts[number], self.sizes[number], self.codec.bits
        values = last[1][:size] if last is not None and last[1].size >= size else np.empty(size, np.float32)
        self.last.block = None
        unit = np.float32(float(self.scales[number]) / (sqrt(size) * self.codec.keep))
        if unit > 0:
            half = np.array(CENTROIDS[bits], np.float32) * unit
            packed = self.packed[start * bits // 8 : (start + size) * bits // 8]
            levels = np.concatenate((-half[::-1], half))
            decode_block(packed, bits, levels, np.uint64(self.key), start, self.limit, values)
        else:
            values[:] = 0.0
        self.last.block = (number, values)
        return values


@dataclass(frozen=True)
class Rotated(Codec):
    """Randomly rotated blocks of 1 to 4 bits an element and a scale a block (DRIVE with 1 bit, EDEN).

    Attributes:
        bits: of a kept element, 1 to 4.
        scale: unbiased, or of least squared error.
        keep: fraction of the elements that are coded, 2^-8..1, rounded to float32; which ones, the noise key says.
    """

    id: ClassVar[int] = 6
    name: ClassVar[str] = "rotated"
    bits: int = 1
    scale: ScaleRule = ScaleRule.UNBIASED
    keep: float = 1.0

    def __post_init__(self) -> None:
        if self.bits not in CENTROIDS or not _SMALLEST_KEEP <= self.keep <= 1:
            raise ConfigError(
                f"rotated codes {', '.join(map(str, CENTROIDS))} bits and keeps {_SMALLEST_KEEP:g} to 1 of all; "
                f"got {shown(self.bits)} bits and {shown(self.keep)}"
            )
        object.__setattr__(self, "keep", float(np.float32(self.keep)))
        object.__setattr__(self, "scale", ScaleRule(self.scale))

    @property
    def family(self) -> tuple[object, ...]:
        """The class, the bits of an element, and the rule of the scales."""
        return (type(self), self.bits, self.scale)

    @property
    def unbiased(self) -> bool:
        """With the unbiased scale, in large blocks."""
        return self.scale is ScaleRule.UNBIASED

    def params(self) -> bytes:
        """Return 6 bytes: bits, scale rule, keep as float32."""
        return _PARAMS.pack(self.bits, self.scale, self.keep)

    @classmethod
    def from_params(cls, params: bytes) -> Self:
        """Return the codec with these 6 bytes of parameters."""
        try:
            bits, scale, keep = _PARAMS.unpack(params)
            return cls(bits, ScaleRule(scale), keep)
        except (struct.error, ValueError, ConfigError) as error:
            raise MalformedFrameError(f"codec rotated cannot have parameters {params.hex()}") from error

    def bound(self, max_value: float) -> float:
        """Return the receiver's limit: decoded values are clipped to it."""
        return max_value

    def holds(self, vector: NDArray[np.float32]) -> bool:
        """Whether no sum in the rotation can leave float32, whatever the other values are: magnitudes up to 2^96."""
        return not vector.size or bool(max(vector.max(), -vector.min()) <= _SURELY_FITS)

    def encode(self, vector: NDArray[np.float32], keys: EncodeKeys) -> bytes:
        """Rotate with the noise key's rotation and take the nearest centroids; nothing is drawn.

        Raises:
            EncodeError: also if a sum of the transform, a scale or a value over `keep` is too large for float32.
        """
        check_finite(vector)
        kept = vector
        if self.keep < 1:
            stream = Stream(keys.noise, domain(Purpose.QUANTISE))
            ends = ((at, min(at + CHUNK, vector.size)) for at in range(0, vector.size, CHUNK))
            kept = np.concatenate([kept[:0], *(vector[a:b][_kept(stream, a, b, self.keep)] for a, b in ends)])
        rotated = kept.size - kept.size % SMALLEST
        centroids = np.array(CENTROIDS[self.bits])
        scales, packed = [], np.zeros(rotated * self.bits // 8, np.uint8)
        for start, size in blocks(kept.size):
            part = packed[start * self.bits // 8 : (start + size) * self.bits // 8]
            block = kept[start : start + size].copy()
            sums = encode_block(block, np.uint64(keys.noise), start, self.bits, centroids, part)
            scales.append(self._scale(size, *sums))
        dense = kept[rotated:]
        if (np.abs(dense.astype(np.float64)) > self.keep * _LARGEST_FLOAT).any():
            raise EncodeError(f"a value over {self.keep:g}, the fraction kept, is too large for float32")
        return np.array(scales, "<f4").tobytes() + packed.tobytes() + dense.astype("<f4").tobytes()

    def _scale(self, size: int, square: float, inner: float, energy: float) -> float:
        if square == 0:
            return 0.0
        scale = (square / inner if self.scale is ScaleRule.UNBIASED else inner / energy) / sqrt(size)
        if not scale * CENTROIDS[self.bits][-1] / self.keep <= _HIGHEST_LEVEL / 2:
            raise EncodeError(f"the values are too large to rotate in float32: the scale of a block would be {scale:g}")
        return scale

    def open(self, body: bytes | memoryview, count: int, noise_key: int, max_value: float) -> OpenedBlocks:
        """Check the length, the scales and the dense tail.

        Raises:
            MalformedFrameError: the body has another length than that of the kept elements.
            NonFiniteError: a scale or a dense value is NaN or infinite.
            BoundError: a scale is negative, or a centroid's or dense value's magnitude is above max_value.
        """
        most = 8 * len(body) // self.bits + SMALLEST  # no body of this length holds more
        kept, ranks = (count, []) if self.keep == 1 else self._count(count, noise_key, most)
        if kept > most or len(body) != _body_size(kept, self.bits):
            raise MalformedFrameError(f"the section's {len(body)} bytes are not those of {count} rotated elements")
        limit = min(max_value, _LARGEST_FLOAT)
        cut = blocks(kept)
        view = memoryview(body)
        scales = np.frombuffer(view[: 4 * len(cut)], "<f4")
        sent = np.frombuffer(view[len(view) - 4 * (kept % SMALLEST) :], "<f4")
        if not (np.isfinite(scales).all() and np.isfinite(sent).all()):
            raise NonFiniteError("a rotated section holds a scale or a dense value that is NaN or infinite")
        tail = sent.astype(np.float64) / self.keep  # a signalling NaN would warn
        highest = float(scales.max(initial=0)) * CENTROIDS[self.bits][-1] / self.keep
        if np.signbit(scales).any() or highest > min(limit, _HIGHEST_LEVEL) or any_above(np.abs(tail), limit):
            raise BoundError(f"a rotated section has a negative scale or a magnitude above {max_value:.12g}")
        clip = np.float32(limit)
        if float(clip) > limit:
            clip = np.nextafter(clip, np.float32(0))
        packed = np.frombuffer(view[4 * len(cut) : len(view) - 4 * tail.size], np.uint8)
        dense = tail.astype(np.float32).clip(-clip, clip)
        starts, sizes = [s for s, _ in cut], [n for _, n in cut]
        return OpenedBlocks(self, noise_key, clip, ranks, starts, sizes, scales, packed, dense)

    def _count(self, count: int, noise_key: int, most: int) -> tuple[int, list[int]]:
        """Return how many of `count` elements are kept, and how many before each piece; stop once above `most`."""
        stream, kept, ranks = Stream(noise_key, domain(Purpose.QUANTISE)), 0, []
        for start in range(0, count, _STEP):
            if start % CHUNK == 0:
                ranks.append(kept)
            kept += int(np.count_nonzero(_kept(stream, start, min(start + _STEP, count), self.keep)))
            if kept > most:
                break
        return kept, ranks
