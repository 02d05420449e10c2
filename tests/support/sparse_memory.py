"""Zeros of any length that take memory only where they are written."""

import mmap

import numpy as np
from numpy.typing import NDArray

_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux's; Python names it from 3.13 on


def zeros(size: int) -> NDArray[np.uint8]:
    """Return so many zero bytes of an anonymous mapping, however little memory there is."""
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE), np.uint8)
