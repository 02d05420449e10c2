"""Tables of frequencies: which small whole numbers have symbols, tensor by tensor, and how often each occurs."""

import struct
from dataclasses import dataclass
from math import log2
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import MalformedFrameError
from fedmrn.numerics.compiled import compiled

BITS = 12
"""Frequencies of a table add up to 2^12."""
HEAD = struct.Struct("<iBB")
"""The least value, how many there are, whether escapes follow."""
_ONE = 1 << BITS
_VALUES = 255
"""The most values of a table, beside the escape."""
_COUNTED = 1 << 12
"""How many numbers in a row are counted, to find the values."""
_LARGEST = 1 << 30
_ESCAPE_COST, _ENTRY_COST = 44, 16  # bits: of a number that is an escape; of a value in the table


@compiled()
def _tally(numbers, low, shift, counts):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Count numbers by (number - low) >> shift: in four rows, since the next one often is the same number."""
    counts[:, :] = 0
    for i in range(numbers.size):
        place = np.uint64(np.int64(numbers[i]) - low) >> np.uint64(shift)
        if place < np.uint64(counts.shape[1]):
            counts[np.uint64(i & 3), place] += 1
    for k in range(counts.shape[1]):
        counts[0, k] += counts[1, k] + counts[2, k] + counts[3, k]
    return counts[0]


@compiled()
def _narrowed(numbers, low, most, room):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Return the ends of at most _COUNTED numbers in a row where most of them are, roughly: by the heaviest part."""
    while most - low >= _COUNTED:
        shift = 0
        while (most - low) >> shift >= _COUNTED:
            shift += 1
        middle = low + ((2 * np.argmax(_tally(numbers, low, shift, room)) + 1) << shift >> 1)
        half = max(_COUNTED // 2, 3 << shift >> 1)
        low, most = max(low, middle - half), min(most, middle + half - 1)
    return low, most


@compiled()
def _cost(count, total):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Return the bits of a number that has a symbol; one rarer than 1 / 4096 takes from all others."""
    rare = total / _ONE
    coded = count * log2(total / count) if count >= rare else BITS * count + 1.443 * (rare - count)
    return coded - _ESCAPE_COST * count


@compiled()
def _trimmed(counts, total):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Return the first and the last place that pay for their entries; some count is positive."""
    first, last = 0, counts.size - 1
    while counts[first] == 0:
        first += 1
    while counts[last] == 0:
        last -= 1
    while first < last:
        second, other = first + 1, last - 1
        while counts[second] == 0:
            second += 1
        while counts[other] == 0:
            other -= 1
        below = _cost(counts[first], total) + _ENTRY_COST * (second - first)
        above = _cost(counts[last], total) + _ENTRY_COST * (last - other)
        if max(below, above) <= 0 and last - first < _VALUES:
            break
        if below > above:
            first = second
        else:
            last = other
    return first, last


@compiled()
def _share(counts, total, escaped, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write counts as frequencies: to nearest, at least 1 where a number is; the largest take or give what is left."""
    left = _ONE
    for i in range(out.size):
        count = counts[i] if i < counts.size else escaped
        f = max(1, (2 * _ONE * count + total) // (2 * total)) if count else 0
        out[i] = f
        left -= f
    while left:
        step = left if left > 0 else -1
        out[np.argmax(out)] += np.int32(step)
        left -= step


@compiled()
def _fit(numbers, ends, firsts, counts, offsets, frequencies):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write the tables of all tensors; return how many numbers escape."""
    room, start, escaped = np.empty((4, _COUNTED), np.int64), 0, 0
    for run in range(ends.size):
        part = numbers[start : ends[run]]
        start = ends[run]
        low, most = np.int64(part[0]), np.int64(part[0])
        for i in range(part.size):
            low, most = min(low, np.int64(part[i])), max(most, np.int64(part[i]))
        low, most = _narrowed(part, low, most, room)
        tally = _tally(part, low, 0, room[:, : most - low + 1])
        first, last = _trimmed(tally, part.size)
        kept = tally[first : last + 1]
        low, outside = low + first, part.size - kept.sum()
        if abs(low) > _LARGEST:  # too far for a table: all escape
            low, kept, outside = np.int64(0), kept[:0], np.int64(part.size)
        firsts[run], counts[run] = low, kept.size
        offsets[run + 1] = offsets[run] + kept.size + (outside > 0)
        _share(kept, part.size, outside, frequencies[offsets[run] : offsets[run + 1]])
        escaped += outside
    return escaped


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables of all tensors that are not empty.

    Attributes:
        firsts: the least value of each table, int64.
        counts: how many values it has, int64: that one and those that follow.
        offsets: where its frequencies start, int64, and where the last ones end.
        frequencies: uint32, of the values of each table, and then of escapes if there are any; together 2^12.
        escaped: how many numbers are no values of their tables; 0 in tables that were read, which do not say it.
    """

    firsts: NDArray[np.int64]
    counts: NDArray[np.int64]
    offsets: NDArray[np.int64]
    frequencies: NDArray[np.uint32]
    escaped: int = 0

    @classmethod
    def of(cls, numbers: NDArray[np.int32], ends: NDArray[np.int64]) -> Self:
        """Fit tables to the numbers of tensors that end there, none empty."""
        firsts, counts, offsets = np.empty_like(ends), np.empty_like(ends), np.zeros(ends.size + 1, np.int64)
        frequencies = np.empty((_VALUES + 1) * ends.size, np.uint32)
        escaped = int(_fit(numbers, ends, firsts, counts, offsets, frequencies))
        found = frequencies[: offsets[-1]].copy()
        return cls(firsts=firsts, counts=counts, offsets=offsets, frequencies=found, escaped=escaped)

    @property
    def escaping(self) -> NDArray[np.bool_]:
        """Which tables have escapes."""
        found: NDArray[np.bool_] = np.diff(self.offsets) > self.counts
        return found

    @property
    def starts(self) -> NDArray[np.uint32]:
        """The sum of the frequencies before each one in its table."""
        before = np.cumsum(self.frequencies, dtype=np.int64) - self.frequencies
        return (before % _ONE).astype(np.uint32)  # a whole table adds up to 2^12

    def to_bytes(self) -> bytes:
        """Return the tables as the wire format has them."""
        packed, edges = self.frequencies.astype("<u2").tobytes(), (2 * self.offsets).tolist()
        rows = zip(self.firsts.tolist(), self.counts.tolist(), self.escaping.tolist(), strict=True)
        return b"".join(
            HEAD.pack(first, count, escapes) + packed[edges[k] : edges[k + 1]]
            for k, (first, count, escapes) in enumerate(rows)
        )

    @classmethod
    def read(cls, view: memoryview, count: int) -> tuple[Self, int]:
        """Return the tables at the start of bytes from outside, and where they end.

        Raises:
            MalformedFrameError: they do not fit, or a table cannot be.
        """
        heads, offsets, parts, at = [], [0], [], 0
        for _ in range(count):
            if len(view) < at + HEAD.size:
                raise MalformedFrameError("a table of whole numbers ends too early")
            first, values, escapes = HEAD.unpack_from(view, at)
            at += HEAD.size
            entries = values + escapes
            if escapes > 1 or abs(first) > _LARGEST or not entries or len(view) < at + 2 * entries:
                raise MalformedFrameError("a table of whole numbers cannot be, or ends too early")
            parts.append(view[at : at + 2 * entries])
            heads.append((first, values, escapes))
            offsets.append(offsets[-1] + entries)
            at += 2 * entries
        firsts, counts, escaping = np.array(heads, np.int64).reshape(-1, 3).T.copy()
        edges = np.array(offsets, np.int64)
        frequencies = np.frombuffer(b"".join(parts), "<u2").astype(np.uint32)
        sums = np.add.reduceat(frequencies, edges[:-1], dtype=np.int64) if count else np.zeros(0, np.int64)
        if (sums != _ONE).any() or (frequencies[edges[1:] - 1][escaping > 0] == 0).any():
            raise MalformedFrameError(f"the frequencies of a table do not add up to {_ONE}, or escapes have none")
        return cls(firsts=firsts, counts=counts, offsets=edges, frequencies=frequencies), at
