"""IDX, the format of MNIST and Fashion-MNIST: a big-endian header, then bytes in C order, all of it in gzip.

    0  0  8  n          two zero bytes, type 8 (unsigned byte), number of dimensions
    n * uint32          the dimensions
    product of them     the elements

The reader knows the dimensions that it must find, so it never inflates more than those need.

Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits" (the format's description).
"""

import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedmrn.data.source import Arrays, Source
from fedmrn.errors import DataError

_GZIP = 16 + zlib.MAX_WBITS
_UNSIGNED_BYTE = 8


def parse_idx(blob: bytes, shape: tuple[int, ...], where: str) -> NDArray[np.uint8]:
    """Return the array in the gzipped IDX file `blob`: uint8, of the given shape, writable.

    Args:
        blob: the whole file.
        shape: the dimensions that the file must declare.
        where: the file's name for messages.

    Raises:
        DataError: if the file is not gzip, is not IDX of unsigned bytes, has other dimensions, ends early, or
            goes on after its end.
    """
    inflate = zlib.decompressobj(_GZIP)
    count = math.prod(shape)
    try:
        head = inflate.decompress(blob, 4 + 4 * len(shape))
        _check_head(head, shape, where)
        # One byte more than needed: it makes room for trailing bytes to show, and 0 would mean "no limit" to
        # zlib.
        body = inflate.decompress(inflate.unconsumed_tail, count + 1)
    except zlib.error as error:
        raise DataError(f"{where} is not sound gzip ({error}); delete it and get it anew") from error
    if len(body) > count or inflate.unused_data:
        raise DataError(f"{where} goes on after its {count} elements; delete it and get it anew")
    if len(body) < count or not inflate.eof:
        raise DataError(f"{where} ends after {len(body)} of its {count} elements; delete it and get it anew")
    return np.frombuffer(body, np.uint8).reshape(shape).copy()  # a copy, because torch wants writable memory


def _check_head(head: bytes, shape: tuple[int, ...], where: str) -> None:
    if len(head) < 4 + 4 * len(shape):
        raise DataError(f"{where} ends inside its header; delete it and get it anew")
    magic = bytes([0, 0, _UNSIGNED_BYTE, len(shape)])
    if head[:4] != magic:
        raise DataError(
            f"{where} starts with {head[:4].hex()}, expected {magic.hex()} (IDX bytes, {len(shape)} axes); "
            "put the right file there"
        )
    dims = struct.unpack(f">{len(shape)}I", head[4:])
    if dims != shape:
        raise DataError(f"{where} declares dimensions {dims}, expected {shape}; put the right file there")


def read_idx(source: Source, blobs: Sequence[bytes]) -> Arrays:
    """Read four IDX files: training images, training labels, test images, test labels.

    Raises:
        DataError: as `parse_idx`.
    """
    channels, height, width = source.shape
    arrays = []
    for file, blob, count, is_image in zip(
        source.files,
        blobs,
        (source.train, source.train, source.test, source.test),
        (True, False) * 2,
        strict=True,
    ):
        shape = (count, height, width) if is_image else (count,)
        array = parse_idx(blob, shape, f"{source.name}: {file.name}")
        arrays.append(array.reshape(count, channels, height, width) if is_image else array)
    train_x, train_y, test_x, test_y = arrays
    return Arrays(train_x, train_y.astype(np.int64), test_x, test_y.astype(np.int64))
