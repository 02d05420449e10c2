"""Small whole numbers to bytes and back, without loss: a table of frequencies a tensor, and interleaved rANS.

Numbers inside a tensor's window of at most 255 values are symbols. What lies outside is an escape, one more symbol, and
the number follows after all blocks in 32 bits. A tensor whose numbers are all alike costs its table and nothing more.
docs/wire-format.md, section 10, has the bytes; `fedmrn.numerics.ans` the coder.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import MalformedFrameError
from fedmrn.numerics.ans import LaneReader, SymbolSteps, encode_lanes
from fedmrn.numerics.compiled import compiled
from fedmrn.numerics.threads import cores, in_parallel

BLOCK = 1 << 19
"""Numbers that are coded by themselves."""
_BITS = 12
"""Frequencies of a table add up to 2^12."""
_WINDOW = 255
"""The most values of a table, beside the escape."""
_ONE = 1 << _BITS
_FAR = 1 << 15
_LARGEST = 1 << 30
_HEAD = struct.Struct("<iBB")  # the least value, how many there are, whether escapes follow
_ESCAPE_COST, _ENTRY_COST = 44, 16  # bits: of a number that is an escape; of a value in the table


@compiled()
def _tally(numbers, counts):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Count numbers from -2^15 to 2^15 - 1, and put those beyond at the ends."""
    far = np.int32(_FAR)
    for i in range(numbers.size):
        counts[min(max(numbers[i], -far), far - np.int32(1)) + far] += 1


@compiled()
def _symbols(numbers, first, count, escape, offset, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    for i in range(numbers.size):
        place = np.int64(numbers[i]) - first
        out[i] = offset + (place if 0 <= place < count else escape)


@dataclass(frozen=True)
class _Table:
    """The values of a tensor.

    Attributes:
        first: the least of them.
        count: how many there are.
        frequencies: uint32, of each, and then of escapes if there are any; together 2^12.
    """

    first: int
    count: int
    frequencies: NDArray[np.uint32]

    @property
    def escapes(self) -> bool:
        """Whether there are numbers that are no value of the table."""
        return self.frequencies.size > self.count

    def to_bytes(self) -> bytes:
        return _HEAD.pack(self.first, self.count, self.escapes) + self.frequencies.astype("<u2").tobytes()

    @classmethod
    def of(cls, numbers: NDArray[np.int32]) -> "_Table":
        """Fit a table to numbers, at least one."""
        counts = np.zeros(2 * _FAR, np.int64)
        _tally(numbers, counts)
        counts[0] = counts[-1] = 0  # these, and all beyond: escapes
        places = np.flatnonzero(counts)
        if not places.size:
            return cls(0, 0, np.array([_ONE], np.uint32))
        low, high = _window(places, counts[places])
        inside = counts[low : high + 1]
        outside = numbers.size - int(inside.sum())
        shares = np.append(inside, outside) if outside else inside
        return cls(low - _FAR, high - low + 1, _frequencies(shares))


def _window(places: NDArray[np.intp], counts: NDArray[np.int64]) -> tuple[int, int]:
    """Return the least and the largest place that a table should have, at most _WINDOW apart."""
    before = np.cumsum(counts) - counts
    low = int(np.argmin(_ESCAPE_COST * before - _ENTRY_COST * (places - places[0])))
    after = np.cumsum(counts[::-1])[::-1] - counts
    high = int(np.argmin((_ESCAPE_COST * after - _ENTRY_COST * (places[-1] - places))[low:])) + low
    if places[high] - places[low] < _WINDOW:
        return int(places[low]), int(places[high])
    ends = np.searchsorted(places, places + _WINDOW)
    held = np.append(0, np.cumsum(counts))[ends] - before
    best = int(np.argmax(held))
    return int(places[best]), int(places[ends[best] - 1])


def _frequencies(counts: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return shares of 2^12, at least one where a count is; the largest takes what rounding leaves."""
    found = np.where(counts > 0, np.maximum(counts * _ONE // int(counts.sum()), 1), 0)
    while (over := int(found.sum()) - _ONE) > 0:  # many rare values: take from the largest what it can give
        largest = int(np.argmax(found))
        found[largest] -= min(over, max(1, int(found[largest]) // 2))
    found[np.argmax(found)] -= over
    return found.astype(np.uint32)


def encode_integers(numbers: NDArray[np.int32], sizes: Sequence[int]) -> bytes:
    """Code whole numbers without loss.

    Args:
        numbers: int32, shape (n,).
        sizes: of the tensors that they make up, adding up to n; each gets a table of its own.
    """
    parts = [numbers[end - size : end] for size, end in zip(sizes, np.cumsum(sizes).tolist(), strict=True) if size]
    tables = [_Table.of(part) for part in parts]
    offsets = np.cumsum([0, *(table.frequencies.size for table in tables)])
    symbols, at = np.empty(numbers.size, np.uint32), 0
    for part, table, offset in zip(parts, tables, offsets.tolist(), strict=False):
        _symbols(part, table.first, table.count, table.count, offset, symbols[at : at + part.size])
        at += part.size
    frequencies = np.concatenate([table.frequencies for table in tables]) if tables else np.zeros(0, np.uint32)
    starts = np.concatenate([_starts(table.frequencies) for table in tables]) if tables else frequencies
    steps, blocks = SymbolSteps.of(frequencies, starts, _BITS), [b""] * -(-numbers.size // BLOCK)

    def work(first: int, last: int) -> None:
        for at in range(first, last, BLOCK):
            blocks[at // BLOCK] = encode_lanes(symbols[at : min(last, at + BLOCK)], steps)

    in_parallel(work, numbers.size, cores(), BLOCK)
    escapes = [part[_is_outside(part, table)] for part, table in zip(parts, tables, strict=True) if table.escapes]
    return b"".join(
        [
            *(table.to_bytes() for table in tables),
            np.array([len(block) for block in blocks], "<u4").tobytes(),
            *blocks,
            *(found.astype("<i4").tobytes() for found in escapes),
        ]
    )


def _starts(frequencies: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return (np.cumsum(frequencies) - frequencies).astype(np.uint32)


def _is_outside(numbers: NDArray[np.int32], table: _Table) -> NDArray[np.bool_]:
    place = numbers.astype(np.int64) - table.first
    outside: NDArray[np.bool_] = (place < 0) | (place >= table.count)
    return outside


def decode_integers(data: bytes | memoryview, sizes: Sequence[int]) -> NDArray[np.int32]:
    """Return the numbers that `encode_integers` wrote, int32, shape (sum of sizes,).

    Args:
        data: all bytes of it, and no others.
        sizes: as they were; they bound the memory that is taken.

    Raises:
        MalformedFrameError: a table or an index does not fit, a block does not decode, or something is left over.
    """
    view, there = memoryview(data), [size for size in sizes if size]
    total = sum(there)
    if len(view) < _HEAD.size * len(there) + 4 * -(-total // BLOCK):
        raise MalformedFrameError(f"{len(view)} bytes hold no tables of {len(there)} tensors and no index")
    tables, at = _read_tables(view, len(there))
    many = -(-total // BLOCK)
    if len(view) < at + 4 * many:
        raise MalformedFrameError(f"an index of {many} blocks does not fit {len(view)} bytes")
    stops = at + 4 * many + np.cumsum(np.frombuffer(view, "<u4", many, at).astype(np.int64))
    end = int(stops[-1]) if many else at
    if len(view) < end or (len(view) - end) % 4:
        raise MalformedFrameError("the blocks of whole numbers do not fit, or their escapes are not of 32 bits each")
    starts = [at + 4 * many, *stops.tolist()]
    out, ends = np.empty(total, np.int32), np.cumsum(there).tolist()
    slots = [np.repeat(np.arange(t.frequencies.size, dtype=np.uint16), t.frequencies) for t in tables]

    def work(first: int, last: int) -> None:
        for start in range(first, last, BLOCK):
            block, stop = start // BLOCK, min(last, start + BLOCK)
            reader = LaneReader(view[starts[block] : starts[block + 1]], stop - start)
            tensor, here = int(np.searchsorted(ends, start, side="right")), start
            while here < stop:
                table, part = tables[tensor], out[here : min(stop, ends[tensor])]
                reader.symbols(slots[tensor], table.frequencies, _starts(table.frequencies), _BITS, part)
                part += np.int32(table.first)
                here, tensor = here + part.size, tensor + 1
            reader.close()

    in_parallel(work, total, cores(), BLOCK)
    _put_escapes(view[end:], [out[e - s : e] for e, s in zip(ends, there, strict=True)], tables)
    return out


def _read_tables(view: memoryview, count: int) -> tuple[list[_Table], int]:
    """Return the tables at the start, and where they end."""
    tables, at = [], 0
    for _ in range(count):
        if len(view) < at + _HEAD.size:
            raise MalformedFrameError("a table of whole numbers ends too early")
        first, values, escapes = _HEAD.unpack_from(view, at)
        at += _HEAD.size
        entries = values + escapes
        if escapes > 1 or abs(first) > _LARGEST or not entries or len(view) < at + 2 * entries:
            raise MalformedFrameError("a table of whole numbers cannot be, or ends too early")
        frequencies = np.frombuffer(view, "<u2", entries, at).astype(np.uint32)
        if frequencies.sum() != _ONE or (escapes and not frequencies[-1]):
            raise MalformedFrameError(f"the frequencies of a table do not add up to {_ONE}, or escapes have none")
        tables.append(_Table(first, values, frequencies))
        at += 2 * entries
    return tables, at


def _put_escapes(data: memoryview, parts: Sequence[NDArray[np.int32]], tables: Sequence[_Table]) -> None:
    """Write the numbers that are no values of their tables where an escape stands: the value after the last one."""
    numbers, used = np.frombuffer(data, "<i4"), 0
    for part, table in zip(parts, tables, strict=True):
        if table.escapes:
            places = np.flatnonzero(part == table.first + table.count)
            found = numbers[used : used + places.size]
            if found.size != places.size or not _is_outside(found, table).all():
                raise MalformedFrameError("escapes of whole numbers are missing, or are values of their table")
            part[places] = found
            used += places.size
    if used != numbers.size:
        raise MalformedFrameError(f"{numbers.size - used} escapes of whole numbers are left over")
