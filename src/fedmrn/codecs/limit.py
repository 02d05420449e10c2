"""A limit on magnitudes is a real number: values are compared with it exactly, and clipped to what lies within it."""

import numpy as np
from numpy.typing import NDArray


def clipped(vector: NDArray[np.float32], limit: float) -> NDArray[np.float32]:
    """Return a vector clipped to the largest float32 that is at most `limit`; itself where nothing is beyond it."""
    most = np.float32(min(limit, float(np.finfo(np.float32).max)))
    if float(most) > limit:
        most = np.nextafter(most, np.float32(0))
    if not vector.size or max(vector.max(), -vector.min()) <= most:
        return vector
    return vector.clip(-most, most)


def any_above(values: NDArray[np.floating], limit: float) -> bool:
    """Return whether one of these numbers is above a limit, compared as the real numbers that they are.

    numpy would round the limit to the type of the values first: 0.1 to a float32 that is above it, 1e39 to infinity.

    Args:
        values: float32 or float64 of any shape, none NaN.
        limit: a finite number or infinity; it need not be a float32.
    """
    return float(values.max(initial=-np.inf)) > float(limit)  # two Python numbers compare exactly
