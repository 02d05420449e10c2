"""The largest elements of a vector: how many a density keeps, and which; for codecs and server rules."""

from math import floor

import numpy as np
from numpy.typing import NDArray


def kept(density: float, count: int) -> int:
    """Return how many of `count` elements (at least 1) a density keeps: max(1, floor(density * count + 1/2))."""
    return min(count, max(1, floor(density * count + 0.5)))


def largest(vector: NDArray[np.float32], k: int) -> NDArray[np.bool_]:
    """Return a mask of the k elements of largest magnitude (of equal ones the first), bool, shape (d,); 1 <= k <= d."""
    size = np.abs(vector)
    threshold = np.partition(size, vector.size - k)[vector.size - k]
    above: NDArray[np.bool_] = size > threshold
    equal = np.flatnonzero(size == threshold)[: k - int(above.sum())]
    above[equal] = True
    return above
