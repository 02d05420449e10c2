"""Pack bits and trits into bytes, least significant first; unused bits of the last byte are zero.

A mask is one bit an element. Trits (digits 0, 1, 2) go five to a byte: the sum of trit k times 3^k, at most 242.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from fedmrn.errors import MalformedFrameError, PaddingError
from fedmrn.numerics.compiled import compiled, intrinsic, types

_POWERS = np.array([1, 3, 9, 27, 81], np.uint8)
_TRITS = (np.arange(243, dtype=np.uint8)[:, None] // _POWERS) % np.uint8(3)


def packed_size(count: int) -> int:
    """Return how many bytes `count` packed bits take."""
    return (count + 7) // 8


def pack_bits(mask: NDArray[np.bool_]) -> bytes:
    """Pack a bool vector: element i is bit i % 8 of byte i // 8."""
    return np.packbits(mask, bitorder="little").tobytes()


def unpack_bits(data: bytes | memoryview, count: int) -> NDArray[np.bool_]:
    """Unpack `count` bits to bool, shape (count,).

    Raises:
        ValueError: if `data` is not exactly packed_size(count) bytes.
        PaddingError: if an unused bit is set.
    """
    check_padding(data, count)
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count, bitorder="little").view(np.bool_)


@intrinsic
def _ones_of(context, word):  # type: ignore[no-untyped-def]
    def generate(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return b.ctpop(args[0])

    return types.uint64(types.uint64), generate


@compiled()
def _ones(words, rest):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    ones = np.uint64(0)
    for word in words:
        ones += _ones_of(word)  # type: ignore[call-arg]
    for byte in rest:
        ones += _ones_of(np.uint64(byte))  # type: ignore[call-arg]
    return ones


def count_ones(packed: NDArray[np.uint8], start: int, stop: int) -> int:
    """Return how many of the bits start..stop-1 are set; the bytes must reach that far."""
    if stop <= start:
        return 0
    part = packed[start >> 3 : packed_size(stop)]
    whole = part.size - part.size % 8
    ones = int(_ones(part[:whole].view(np.uint64), part[whole:]))
    before = int(packed[start >> 3]) & ((1 << start % 8) - 1)
    after = int(packed[stop >> 3]) >> stop % 8 if stop % 8 else 0
    return ones - before.bit_count() - after.bit_count()


def check_padding(data: bytes | memoryview, count: int) -> None:
    """Check that packed bits are canonical: of the right length, with unused bits zero.

    Raises:
        ValueError: if `data` is not exactly packed_size(count) bytes.
        PaddingError: if an unused bit is set.
    """
    if len(data) != packed_size(count):
        raise ValueError(f"{count} bits take {packed_size(count)} bytes, got {len(data)}")
    if count % 8 and data[-1] >> (count % 8):
        raise PaddingError("unused bits of the last mask byte are set")


def check_mask(data: bytes | memoryview, count: int) -> None:
    """Check that bytes from outside are the packed bits of `count` elements.

    Raises:
        MalformedFrameError: they are not packed_size(count) bytes.
        PaddingError: an unused bit is set.
    """
    if len(data) != packed_size(count):
        raise MalformedFrameError(
            f"a mask of {count} elements takes {packed_size(count)} bytes, the section has {len(data)}"
        )
    check_padding(data, count)


def trits_size(count: int) -> int:
    """Return how many bytes `count` packed trits take."""
    return (count + 4) // 5


def pack_trits(trits: NDArray[np.uint8]) -> bytes:
    """Pack trits 0, 1, 2 (not checked): element i is digit i % 5, base 3, of byte i // 5."""
    columns = np.zeros((trits_size(trits.size), 5), np.uint8)
    columns.reshape(-1)[: trits.size] = trits
    packed = columns[:, 0].copy()
    for k in range(1, 5):
        packed += columns[:, k] * _POWERS[k]
    return packed.tobytes()


def unpack_trits(data: NDArray[np.uint8], start: int, stop: int) -> NDArray[np.uint8]:
    """Return trits start..stop-1 of bytes that passed `check_trits`, uint8, shape (stop - start,)."""
    first = start // 5
    digits: NDArray[np.uint8] = np.take(_TRITS, data[first : trits_size(stop)], axis=0).reshape(-1)
    return digits[start - 5 * first : stop - 5 * first]


def check_trits(data: bytes | memoryview, count: int) -> None:
    """Check that packed trits are canonical: of the right length, with possible bytes and unused trits zero.

    Raises:
        ValueError: if `data` is not exactly trits_size(count) bytes.
        MalformedFrameError: if a byte is above 242, which no five trits make.
        PaddingError: if an unused trit is not zero.
    """
    if len(data) != trits_size(count):
        raise ValueError(f"{count} trits take {trits_size(count)} bytes, got {len(data)}")
    largest = int(np.frombuffer(data, np.uint8).max(initial=0))
    if largest > 242:
        raise MalformedFrameError(f"a byte of five trits is at most 242, got {largest}")
    if count % 5 and data[-1] >= 3 ** (count % 5):
        raise PaddingError("unused trits of the last byte are not zero")
