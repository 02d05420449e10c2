"""How the server clips what clients say of dense tensors and statistics, written out once more.

Around the median of each element, and no farther from it than four times what the middle client is in the tensor.
"""

from math import inf, log

import numpy as np
from numpy.typing import NDArray

from fedmrn.wire.layout import Group, Layout

F64 = NDArray[np.float64]


def clipped(tensor: F64, most: float = inf) -> F64:
    """What counts of a tensor of which each client says a row."""
    ranked = np.sort(tensor, axis=0)
    middle = (ranked[(len(tensor) - 1) // 2] + ranked[len(tensor) // 2]) / 2
    distances = sorted(np.abs(tensor - middle).max(axis=1))
    apart = min(most, 4 * distances[(len(tensor) - 1) // 2])
    return np.minimum(np.maximum(tensor, middle - apart), middle + apart)


def clipped_side(layout: Layout, updates: F64) -> F64:
    """What counts of whole updates, a row each; logarithms of variances at most by a factor of four from the median."""
    counts = updates.copy()
    for tensor in layout.tensors:
        if tensor.group is not Group.CODED:
            where = layout.slices[tensor.name]
            counts[:, where] = clipped(updates[:, where], log(4) if tensor.group is Group.VARIANCE else inf)
    return counts
