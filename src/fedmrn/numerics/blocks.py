"""Long vectors of symbols in blocks that stand for themselves, so that threads can share them."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedmrn.numerics.ans import LaneReader, Symbols, SymbolSteps, encode_lanes
from fedmrn.numerics.threads import cores, in_parallel

BLOCK = 1 << 19
"""Symbols that are coded by themselves."""


def count_blocks(count: int) -> int:
    """Return how many blocks this many symbols make."""
    return -(-count // BLOCK)


def encode_blocks(symbols: Symbols, steps: SymbolSteps) -> list[bytes]:
    """Code symbols, each block by `fedmrn.numerics.ans.encode_lanes`."""
    blocks = [b""] * count_blocks(symbols.size)

    def work(first: int, last: int) -> None:
        for at in range(first, last, BLOCK):
            blocks[at // BLOCK] = encode_lanes(symbols[at : min(last, at + BLOCK)], steps)

    in_parallel(work, symbols.size, cores(), BLOCK)
    return blocks


def edges_of(start: int, lengths: NDArray[np.uint32]) -> list[int]:
    """Return where blocks of these lengths begin, and where the last one ends, if the first begins at `start`."""
    return [start, *(start + np.cumsum(lengths.astype(np.int64))).tolist()]


def read_blocks(
    view: memoryview, edges: Sequence[int], count: int, read: Callable[[LaneReader, int, int], None]
) -> None:
    """Read all blocks, several at a time.

    Args:
        view: what holds them, as far as the last edge.
        edges: where each block begins, and where the last one ends.
        count: symbols of all blocks.
        read: given the reader of a block and the symbols first..last-1 that it has, reads them all.

    Raises:
        MalformedFrameError: a block is none, or does not end where its symbols do.
    """

    def work(first: int, last: int) -> None:
        for start in range(first, last, BLOCK):
            block, stop = start // BLOCK, min(last, start + BLOCK)
            reader = LaneReader(view[edges[block] : edges[block + 1]], stop - start)
            read(reader, start, stop)
            reader.close()

    in_parallel(work, count, cores(), BLOCK)
