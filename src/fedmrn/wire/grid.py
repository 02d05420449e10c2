"""Points of a grid: a model's values as whole numbers of steps, and these as bytes, without loss.

A value is origin + step * number. The step is a power of two for each tensor, the origin 0 or the weights that the run
started with. Running variances lie on a grid of their own, even in the logarithm: a number counts the first bits of the
float32. docs/wire-format.md, section 2.16, has the bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import BoundError, MalformedFrameError
from fedmrn.numerics.integers import decode_integers, encode_integers
from fedmrn.wire.layout import Group, Layout

LEAST_STEP, LARGEST_STEP = -80, 80
"""Exponents that a step 2^e can have."""
LARGEST_NUMBER = (1 << 24) - 1
"""Numbers up to this magnitude are float32 exactly."""
VARIANCE_BITS = 17
"""Last bits of a running variance that are rounded away: six bits of its fraction stay."""
_RUN = 4096
_INFINITY = 0x7F800000
LARGEST_PLACE = (_INFINITY - 1) >> VARIANCE_BITS
"""Of a running variance on its grid: the last that is finite."""
_FAR = 38  # a shift by more, of numbers of 25 bits, is as one by this

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
I32 = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Points:
    """One group of a model on the grid.

    Attributes:
        exponents: of the step 2^e of each tensor that is not empty, int8; of variances all `VARIANCE_BITS`.
        numbers: int32, shape (elements of the group,).
    """

    exponents: I8
    numbers: I32


def edges(layout: Layout, group: Group) -> list[tuple[int, int]]:
    """Return where each tensor of a group that is not empty starts and ends, counted from the group's start."""
    return list(pairwise(accumulate((size for size in layout.sizes(group) if size), initial=0)))


def runs(sizes: Sequence[int]) -> list[int]:
    """Return the sizes of what shares a table of frequencies: a large tensor, or neighbours that make up one."""
    found, open_ = list[int](), 0
    for size in sizes:
        open_ += size
        if open_ >= _RUN:
            found.append(open_)
            open_ = 0
    if open_ and found:
        found[-1] += open_
    elif open_:
        found.append(open_)
    return found


def to_body(layout: Layout, group: Group, points: Points) -> bytes:
    """Return the bytes of exponents and numbers: of a section's body, of a server's history, of a client's memory."""
    return points.exponents.tobytes() + encode_integers(points.numbers, runs(layout.sizes(group)))


def from_body(layout: Layout, group: Group, body: bytes | memoryview) -> Points:
    """Return what `to_body` wrote. The layout's sizes, and nothing in the bytes, say how much memory that takes.

    Raises:
        MalformedFrameError: the bytes are cut, or numbers do not decode.
        BoundError: a step is out of range.
    """
    tensors, view = len(edges(layout, group)), memoryview(body)
    if len(view) < tensors:
        raise MalformedFrameError(f"{len(view)} bytes hold no steps of {tensors} tensors")
    exponents = np.frombuffer(view[:tensors], np.int8)
    least, most = (VARIANCE_BITS,) * 2 if group is Group.VARIANCE else (LEAST_STEP, LARGEST_STEP)
    if ((exponents < least) | (exponents > most)).any():
        raise BoundError(f"a step of a public model is not from 2^{least} to 2^{most}")
    return Points(exponents, decode_integers(view[tensors:], runs(layout.sizes(group))))


def check_numbers(numbers: NDArray[np.signedinteger], most: int = LARGEST_NUMBER) -> None:
    """Refuse numbers beyond a magnitude.

    Raises:
        BoundError: there is one.
    """
    if numbers.size and max(int(numbers.max()), -int(numbers.min())) > most:
        raise BoundError(f"a number of a public model is beyond {most}")


def re_expressed(layout: Layout, group: Group, points: Points, exponents: I8) -> I32:
    """Return the numbers of the same values in other steps, int32: exact in finer ones, in coarser ones the nearest.

    A value half-way between two points goes to the larger number.

    Raises:
        BoundError: a number is beyond `LARGEST_NUMBER` in a finer step.
    """
    if group is Group.VARIANCE or np.array_equal(points.exponents, exponents):
        return points.numbers
    found = points.numbers.copy()
    for (start, stop), old, new in zip(edges(layout, group), points.exponents, exponents, strict=True):
        by = int(new) - int(old)
        if by:
            part = points.numbers[start:stop].astype(np.int64)
            part = (part + (1 << min(by, _FAR) - 1)) >> min(by, _FAR) if by > 0 else part << min(-by, _FAR)
            check_numbers(part)
            found[start:stop] = part
    return found


def to_values(layout: Layout, group: Group, points: Points, origin: F32 | None) -> F32:
    """Return the values of points, float32, shape (elements of the group,).

    Args:
        layout: of the model.
        group: which part of it.
        points: its numbers, none beyond `LARGEST_NUMBER`.
        origin: what numbers count from, float32 of the same shape; None for 0.

    Raises:
        BoundError: a value leaves float32, or a variance is negative.
    """
    if group is Group.VARIANCE:
        return _variances(points.numbers, origin)
    values = points.numbers.astype(np.float32)
    for (start, stop), exponent in zip(edges(layout, group), points.exponents.tolist(), strict=True):
        values[start:stop] *= np.float32(2.0**exponent)
    if origin is not None:
        with np.errstate(over="ignore"):
            values += origin
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise BoundError("a value of a public model is beyond float32")
    return values


def _variances(numbers: I32, origin: F32 | None) -> F32:
    places = numbers.astype(np.int64) + (0 if origin is None else places_of(origin))
    if places.size and not (places.min() >= 0 and places.max() << VARIANCE_BITS < _INFINITY):
        raise BoundError("a variance of a public model is negative, or beyond float32")
    return (places << VARIANCE_BITS).astype(np.uint32).view(np.float32)


def places_of(variances: F32) -> NDArray[np.int64]:
    """Return the places of variances on their grid, int64: the nearest, of two the larger, but none is infinite."""
    bits = variances.view(np.uint32).astype(np.int64)
    bits = np.where(variances == 0, 0, bits)  # -0 as well
    found: NDArray[np.int64] = np.minimum((bits + (1 << VARIANCE_BITS - 1)) >> VARIANCE_BITS, LARGEST_PLACE)
    return found
