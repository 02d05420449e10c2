"""Packing of masks: one bit an element, least significant bit first, unused bits of the last byte zero."""

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import PaddingError


def packed_size(count: int) -> int:
    """Return the bytes that `count` bits take."""
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


def check_padding(data: bytes | memoryview, count: int) -> None:
    """Refuse packed bits that are not canonical.

    Raises:
        ValueError: if `data` is not exactly packed_size(count) bytes.
        PaddingError: if an unused bit is set.
    """
    if len(data) != packed_size(count):
        raise ValueError(f"{count} bits take {packed_size(count)} bytes, got {len(data)}")
    if count % 8 and data[-1] >> (count % 8):
        raise PaddingError("unused bits of the last mask byte are set")
