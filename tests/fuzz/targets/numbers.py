"""Small whole numbers of several tensors, coded: what a receiver reads who knows the sizes.

An input is the number of tensors (u8), the size of each (u16), and the data.
"""

import struct

import numpy as np

from fedmrn.errors import MalformedFrameError
from fedmrn.numerics import ans, integers, tables
from fedmrn.numerics.integers import decode_integers, encode_integers

from .base import Target, require

_MOST = 1 << 12
"""A tensor's elements are taken modulo this: sizes are the receiver's own."""


def _check(data: bytes) -> None:
    many = data[0] % 8 if data else 0
    if len(data) < 1 + 2 * many:
        return
    sizes = [size % _MOST for size in struct.unpack_from(f"<{many}H", data, 1)]
    try:
        found = decode_integers(data[1 + 2 * many :], sizes)
    except MalformedFrameError:
        return
    require(found.dtype == np.int32 and found.shape == (sum(sizes),), "numbers of another type or shape")
    again = decode_integers(encode_integers(found, sizes), sizes)
    require(np.array_equal(found, again), "numbers that were read are not written as the same ones")


def _seeds() -> list[bytes]:
    inputs = []
    random = np.random.Generator(np.random.Philox(1))
    for sizes in ([], [1], [700], [0, 40, 3], [300, 1, 500, 77], [4000] * 7):
        for spread in (0.3, 2.0, 90.0):
            whole = np.rint(spread * random.standard_normal(sum(sizes))).astype(np.int32)
            whole[5::150] *= 100_000
            inputs.append(bytes([len(sizes)]) + struct.pack(f"<{len(sizes)}H", *sizes) + encode_integers(whole, sizes))
    inputs.append(b"\2" + struct.pack("<2H", 50, 60) + encode_integers(np.full(110, -3, np.int32), [50, 60]))
    return list(dict.fromkeys(inputs))


# Seven tensors of 4,095 numbers, read, coded and read again; and the room in which numbers are counted.
NUMBERS = Target("numbers", _check, _seeds, (ans, integers, tables), memory=4 << 20)
