"""Whole numbers of 64 bits in as few bits as they need, a block at a time: exact, and written in one way only.

Of each block of 128 numbers two bytes say how many low bits all its numbers have zero (the shift), and how many bits
are left of the widest, sign included (the width). The numbers follow in two's complement, least significant bit first.
docs/wire-format.md, section 11, has the bytes.
"""

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import MalformedFrameError, PaddingError
from fedmrn.numerics.compiled import compiled

BLOCK = 1 << 7
"""Numbers that share a shift and a width."""

I64 = NDArray[np.int64]


@compiled()
def _measure(numbers, heads):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write the shift and the width of each block to `heads`, uint8, shape (blocks, 2)."""
    for block in range(heads.shape[0]):
        part = numbers[block * BLOCK : (block + 1) * BLOCK]
        used, magnitude = np.uint64(0), np.uint64(0)
        for i in range(part.size):
            used |= np.uint64(part[i])
            magnitude |= np.uint64(part[i] ^ (part[i] >> np.int64(63)))
        shift, bits = 0, 0
        if used:
            while not (used >> np.uint64(shift)) & np.uint64(1):
                shift += 1
            magnitude >>= np.uint64(shift)
            while magnitude:
                magnitude >>= np.uint64(1)
                bits += 1
            bits += 1
        heads[block, 0], heads[block, 1] = shift, bits


@compiled()
def _write(numbers, heads, words):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write all blocks to zeros, uint64: a whole block fills whole words."""
    at = np.int64(0)
    for block in range(heads.shape[0]):
        part = numbers[block * BLOCK : (block + 1) * BLOCK]
        shift, width = np.int64(heads[block, 0]), np.int64(heads[block, 1])
        if width:
            mask = ~np.uint64(0) >> np.uint64(64 - width)
            for i in range(part.size):
                x = np.uint64(part[i] >> shift) & mask
                word, off = at >> 6, at & 63
                words[word] |= x << np.uint64(off)
                if off + width > 64:
                    words[word + 1] |= x >> np.uint64(64 - off)
                at += width


@compiled()
def _read(words, heads, numbers):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Read all blocks from as many words as `_write` fills."""
    at = np.int64(0)
    for block in range(heads.shape[0]):
        part = numbers[block * BLOCK : (block + 1) * BLOCK]
        shift, width = np.int64(heads[block, 0]), np.int64(heads[block, 1])
        if not width:
            part[:] = 0
            continue
        up = np.int64(64) - width
        for i in range(part.size):
            word, off = at >> 6, at & 63
            x = words[word] >> np.uint64(off)
            if off + width > 64:
                x |= words[word + 1] << np.uint64(64 - off)
            part[i] = (np.int64(x << np.uint64(up)) >> up) << shift
            at += width


def _bits(count: int, heads: NDArray[np.uint8]) -> int:
    """Return how many bits the numbers of all blocks take."""
    whole = BLOCK * int(heads[:, 1].sum(dtype=np.int64))
    return whole - (-count % BLOCK) * int(heads[-1, 1]) if count else 0


def least_bytes(count: int) -> int:
    """Return how many bytes so many numbers take at least: those of their blocks."""
    return 2 * -(-count // BLOCK)


def pack_numbers(numbers: I64) -> bytes:
    """Return whole numbers as bytes: two of each block, then all numbers, to a whole byte.

    Args:
        numbers: int64, shape (n,).
    """
    heads = np.zeros((-(-numbers.size // BLOCK), 2), np.uint8)
    _measure(numbers, heads)
    bits = _bits(numbers.size, heads)
    words = np.zeros((bits + 63) // 64, np.uint64)
    _write(numbers, heads, words)
    body = words.astype("<u8", copy=False).view(np.uint8)[: (bits + 7) // 8]
    return b"".join((heads.tobytes(), body.data))


def unpack_numbers(view: memoryview, out: I64) -> int:
    """Read the numbers that stand at the start of some bytes, and return how many bytes they take.

    Args:
        view: the bytes; others may follow.
        out: int64, shape (n,), contiguous; every element is written.

    Raises:
        MalformedFrameError: they end too early, or a block has another shift or width than its numbers need.
        PaddingError: unused bits of the last byte are not zero.
    """
    at = least_bytes(out.size)
    blocks = at // 2
    if len(view) < at:
        raise MalformedFrameError(f"{blocks} blocks of whole numbers need {at} bytes at least, {len(view)} are left")
    heads = np.frombuffer(view, np.uint8, at).reshape(blocks, 2)
    bits = _bits(out.size, heads)
    end = at + (bits + 7) // 8
    if len(view) < end or (heads.sum(axis=1, dtype=np.int64) > 64).any():
        raise MalformedFrameError("whole numbers end too early, or one has more than 64 bits")
    if bits % 8 and view[end - 1] >> (bits % 8):
        raise PaddingError("unused bits after whole numbers are set")
    words = np.zeros((bits + 63) // 64, "<u8")
    words.view(np.uint8)[: end - at] = np.frombuffer(view[at:end], np.uint8)
    _read(words.astype(np.uint64, copy=False), heads, out)
    needed = np.zeros((blocks, 2), np.uint8)
    _measure(out, needed)
    if not np.array_equal(needed, heads):
        raise MalformedFrameError("a block of whole numbers has another shift or width than its numbers need")
    return end
