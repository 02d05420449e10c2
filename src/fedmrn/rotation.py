"""Random rotations: a fast Walsh-Hadamard transform over power-of-two blocks, after random signs.

A flat vector of d elements is cut into blocks of at most 2^16, greedily by the binary digits of what is left, so that
nothing is padded; what is left below `SMALLEST` elements at the end is not rotated. The rotation of a block of b elements
is x -> H D x / sqrt(b), with H the Hadamard matrix in natural order and D the signs from bit 31 of the words of the
stream (noise key, ROTATION), one word an element: independent for each client and round.

Source: DRIVE (Vargaftik et al., NeurIPS 2021, section 4); blocks in place of padding as OpenFL does.
"""

import numba as nb
import numpy as np
from numpy.typing import NDArray

from fedmrn.rng import Purpose, Stream, domain

LARGEST = 1 << 16
SMALLEST = 128


def blocks(count: int) -> list[tuple[int, int]]:
    """Return (start, size) of each rotated block of a vector of `count` elements; the rest of the vector stays dense."""
    found, at = [], 0
    while count - at >= SMALLEST:
        size = min(LARGEST, 1 << ((count - at).bit_length() - 1))
        found.append((at, size))
        at += size
    return found


@nb.njit(cache=True, nogil=True)
def walsh_hadamard(x):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Transform x (float32, a power of two of elements) in place, without a scale: x <- H x.

    Two levels a pass (radix 4), so that each element is read and written half as often.
    """
    n = x.size
    levels = 0
    while 1 << levels < n:
        levels += 1
    h = 1
    if levels % 2:  # an odd number of levels: one level first
        for i in range(0, n, 2):
            a, b = x[i], x[i + 1]
            x[i], x[i + 1] = a + b, a - b
        h = 2
    while h < n:
        for i in range(0, n, 4 * h):
            for j in range(i, i + h):
                a, b, c, d = x[j], x[j + h], x[j + 2 * h], x[j + 3 * h]
                s, t, u, v = a + b, a - b, c + d, c - d
                x[j], x[j + h], x[j + 2 * h], x[j + 3 * h] = s + u, t + v, s - u, t - v
        h *= 4
