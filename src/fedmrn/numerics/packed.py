"""Whole numbers of 64 bits in as few bits as they need, a block at a time: exact, and written in one way only.

Of each block of 1,024 numbers two bytes say how many low bits all its numbers have zero (the shift), and how many bits
are left of the widest, sign included (the width). The numbers follow in two's complement, least significant bit first.
docs/wire-format.md, section 11, has the bytes.
"""

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import MalformedFrameError, PaddingError
from fedmrn.numerics.compiled import compiled

BLOCK = 1 << 10
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
def _write(numbers, shift, width, words):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write a block's numbers to zeros, uint64, shape ((numbers.size * width + 63) // 64,)."""
    mask = ~np.uint64(0) >> np.uint64(64 - width)
    at = 0
    for i in range(numbers.size):
        x = np.uint64(numbers[i] >> np.int64(shift)) & mask
        word, off = at >> 6, at & 63
        words[word] |= x << np.uint64(off)
        if off + width > 64:
            words[word + 1] |= x >> np.uint64(64 - off)
        at += width


@compiled()
def _read(words, shift, width, numbers):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Read a block's numbers from as many words as `_write` fills."""
    up = np.uint64(64 - width)
    at = 0
    for i in range(numbers.size):
        word, off = at >> 6, at & 63
        x = words[word] >> np.uint64(off)
        if off + width > 64:
            x |= words[word + 1] << np.uint64(64 - off)
        numbers[i] = (np.int64(x << up) >> np.int64(64 - width)) << np.int64(shift)
        at += width


def pack_numbers(numbers: I64) -> bytes:
    """Return whole numbers as bytes: two of each block's, then its numbers, each block to a whole byte.

    Args:
        numbers: int64, shape (n,).
    """
    heads = np.zeros((-(-numbers.size // BLOCK), 2), np.uint8)
    _measure(numbers, heads)
    parts = [heads.tobytes()]
    for block, (shift, width) in enumerate(heads.tolist()):
        if width:
            part = numbers[block * BLOCK : (block + 1) * BLOCK]
            bits = part.size * width
            words = np.zeros((bits + 63) // 64, np.uint64)
            _write(part, shift, width, words)
            parts.append(words.astype("<u8", copy=False).tobytes()[: (bits + 7) // 8])
    return b"".join(parts)


def unpack_numbers(view: memoryview, out: I64) -> int:
    """Read the numbers that stand at the start of some bytes, and return how many bytes they take.

    Args:
        view: the bytes; others may follow.
        out: int64, shape (n,); every element is written.

    Raises:
        MalformedFrameError: they end too early, or a block has another shift or width than its numbers need.
        PaddingError: unused bits of a block's last byte are not zero.
    """
    blocks = -(-out.size // BLOCK)
    at = 2 * blocks
    if len(view) < at:
        raise MalformedFrameError(f"{blocks} blocks of whole numbers need {at} bytes at least, {len(view)} are left")
    heads = np.frombuffer(view, np.uint8, at).reshape(blocks, 2)
    sizes = [min(BLOCK, out.size - start) for start in range(0, out.size, BLOCK)]
    bits = np.array(sizes, np.int64) * heads[:, 1]
    end = at + int(((bits + 7) // 8).sum())
    if len(view) < end or (heads.sum(axis=1, dtype=np.int64) > 64).any():
        raise MalformedFrameError("whole numbers end too early, or one has more than 64 bits")
    for block, ((shift, width), size) in enumerate(zip(heads.tolist(), sizes, strict=True)):
        part, length = out[block * BLOCK :][:size], (size * width + 7) // 8
        part[:] = 0
        if width:
            data = view[at : at + length]
            if size * width % 8 and data[-1] >> (size * width % 8):
                raise PaddingError("unused bits after a block of whole numbers are set")
            words = np.zeros((length + 7) // 8, "<u8")
            words.view(np.uint8)[:length] = np.frombuffer(data, np.uint8)
            _read(words.astype(np.uint64, copy=False), shift, width, part)
            at += length
    needed = np.zeros((blocks, 2), np.uint8)
    _measure(out, needed)
    if not np.array_equal(needed, heads):
        raise MalformedFrameError("a block of whole numbers has another shift or width than its numbers need")
    return at
