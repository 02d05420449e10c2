"""Small whole numbers to bytes and back, without loss: a table of frequencies a tensor, and interleaved rANS.

Numbers inside a tensor's window of at most 255 values are symbols. What lies outside is an escape, one more symbol, and
the number follows after all blocks in 32 bits. A tensor whose numbers are all alike costs its table and nothing more.
docs/wire-format.md, section 10, has the bytes; `fedmrn.numerics.ans` the coder.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import MalformedFrameError
from fedmrn.numerics.ans import LaneReader, Symbols, SymbolSteps
from fedmrn.numerics.blocks import count_blocks, edges_of, encode_blocks, read_blocks
from fedmrn.numerics.compiled import compiled
from fedmrn.numerics.tables import BITS, HEAD, Tables


@compiled()
def _symbols(numbers, ends, firsts, counts, offsets, out, escapes):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write the symbol of each number, counted through all tables, and the numbers that escape; return how many do."""
    start, found = 0, 0
    for run in range(ends.size):
        part, o = numbers[start : ends[run]], out[start : ends[run]]
        first, count, offset = firsts[run], np.uint64(counts[run]), np.uint64(offsets[run])
        for i in range(part.size):
            place = np.uint64(np.int64(part[i]) - first)  # huge where it is below the first
            o[i] = offset + min(place, count)
            if place >= count:
                escapes[found] = part[i]
                found += 1
        start = ends[run]
    return found


@compiled()
def _put_escapes(out, ends, firsts, counts, escaping, escapes):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write the numbers that escape to where the value after a table's last stands; return how many there are.

    Too many, or a value of the table among them: -1.
    """
    start, found = 0, 0
    for run in range(ends.size):
        if escaping[run]:
            first, count = firsts[run], np.uint64(counts[run])
            escape = np.int32(first + counts[run])
            part = out[start : ends[run]]
            for i in range(part.size):
                if part[i] == escape:
                    if found == escapes.size or np.uint64(np.int64(escapes[found]) - first) < count:
                        return -1
                    part[i] = escapes[found]
                    found += 1
        start = ends[run]
    return found


def encode_integers(numbers: NDArray[np.int32], sizes: Sequence[int]) -> bytes:
    """Code whole numbers without loss.

    Args:
        numbers: int32, shape (n,).
        sizes: of the tensors that they make up, adding up to n; each gets a table of its own.

    Raises:
        ValueError: the numbers are of another kind, or the sizes do not add up to n.
    """
    if numbers.dtype != np.int32 or numbers.ndim != 1:
        raise ValueError(f"a vector of int32 is coded, got {numbers.dtype} of shape {numbers.shape}")
    if min(sizes, default=0) < 0 or sum(sizes) != numbers.size:
        raise ValueError(f"tensors of {sum(sizes)} elements in a vector of {numbers.size}")
    ends = np.cumsum([size for size in sizes if size], dtype=np.int64)
    numbers = np.ascontiguousarray(numbers)
    tables = Tables.of(numbers, ends)
    steps = SymbolSteps.of(tables.frequencies, tables.starts, BITS)
    wide = tables.frequencies.size > 1 << 16
    symbols: Symbols = np.empty(numbers.size, np.uint32) if wide else np.empty(numbers.size, np.uint16)
    escapes = np.empty(tables.escaped, np.int32)
    _symbols(numbers, ends, tables.firsts, tables.counts, tables.offsets, symbols, escapes)
    blocks = encode_blocks(symbols, steps)
    index = np.array([len(block) for block in blocks], "<u4")
    return b"".join([tables.to_bytes(), index.tobytes(), *blocks, escapes.astype("<i4").tobytes()])


def decode_integers(data: bytes | memoryview, sizes: Sequence[int]) -> NDArray[np.int32]:
    """Return the numbers that `encode_integers` wrote, int32, shape (sum of sizes,).

    Args:
        data: all bytes of it, and no others.
        sizes: as they were. They bound the memory that is taken, whatever the length of `data`, since a tensor of one
            number takes eight bytes: who takes them from outside bounds them first.

    Raises:
        MalformedFrameError: a table or an index does not fit, a block does not decode, or something is left over.
    """
    view, there = memoryview(data), [size for size in sizes if size]
    total = sum(there)
    many = count_blocks(total)
    if len(view) < HEAD.size * len(there) + 4 * many:
        raise MalformedFrameError(f"{len(view)} bytes hold no tables of {len(there)} tensors and no index")
    tables, at = Tables.read(view, len(there))
    if len(view) < at + 4 * many:
        raise MalformedFrameError(f"an index of {many} blocks does not fit {len(view)} bytes")
    edges = edges_of(at + 4 * many, np.frombuffer(view, "<u4", many, at))
    end = edges[-1]
    if len(view) < end or (len(view) - end) % 4:
        raise MalformedFrameError("the blocks of whole numbers do not fit, or their escapes are not of 32 bits each")
    out, ends = np.empty(total, np.int32), np.cumsum(there, dtype=np.int64)

    def read(reader: LaneReader, start: int, stop: int) -> None:
        reader.numbers(start, stop, ends, tables.offsets, tables.frequencies, tables.firsts, out)

    read_blocks(view, edges, total, read)
    escapes = np.frombuffer(view, "<i4", offset=end).astype(np.int32)
    used = _put_escapes(out, ends, tables.firsts, tables.counts, tables.escaping, escapes)
    if used != escapes.size:
        raise MalformedFrameError("escapes of whole numbers are missing, left over, or values of their table")
    return out
