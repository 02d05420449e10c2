"""The law of the grid: how the server chooses the public model that stands for its exact state.

The state itself is never rounded: what the public model leaves out stays in it, and a later one may show it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import ConfigError
from fedmrn.wire.grid import (
    LARGEST_NUMBER,
    LARGEST_PLACE,
    LARGEST_STEP,
    LEAST_STEP,
    VARIANCE_BITS,
    Points,
    edges,
    places_of,
)
from fedmrn.wire.grid import re_expressed as re_express
from fedmrn.wire.layout import Group, Layout

F32 = NDArray[np.float32]
_STAYS = 0.75  # a step stays while the one that fits is within so many powers of two
# Where numbers count from zero, a tensor counts as moved by so much of its starting weights: before it has moved, so
# that a first whole model is small, and from then on. Fine-tuning moves weights by a thousandth, and must be shown.
_UNMOVED, _LEAST_MOVED = 2.0**-4, 2.0**-10
_MOST_STEPS = LARGEST_NUMBER // 4  # from what a running mean counts from, where its step follows a deviation
_BEFORE_ANY = -30  # exponent of the step of a tensor that has not moved


@dataclass(frozen=True, kw_only=True)
class PublicGrid:
    """How the public model is chosen.

    Attributes:
        step: of a coded tensor, over the root mean square of what it moved since the run's start, in the mean over
            elements: small tensors have finer ones (`shares`). The nearest power of two is taken.
        side: the same of trained side data, whose steps may be fine: it is little. Of running means: over the least
            deviation of a feature, since features may have units of their own.
        hysteresis: a number moves once the value is so much further from it than half a step. Fewer move then. Where a
            tensor's step changes all numbers are the nearest: those before, put on a coarser grid, are all rounded to
            one side, and weights that are off together do far more harm than weights that are off by chance.
        rounds: how many public models the server can send differences to; a client that holds an older one is sent the
            whole model.
        from_start: whether numbers count from the weights that the run started with, which all clients then must have
            (from one seed, or pretrained); newcomers are sent less then. By default they count from zero.

    Raises:
        ConfigError: a value is out of its range.
    """

    step: float = 0.5
    side: float = 2.0**-4
    hysteresis: float = 0.25
    rounds: int = 64
    from_start: bool = False

    def __post_init__(self) -> None:
        if not all(2.0**-20 <= value <= 2.0**20 for value in (self.step, self.side)):
            raise ConfigError(f"a step of the grid is 2^-20 to 2^20 of what a tensor moved: {self}")
        if not 0 <= self.hysteresis <= 1 or not 1 <= self.rounds <= 1 << 16:
            raise ConfigError(f"hysteresis is 0 to 1, and 1 to 65,536 rounds can be kept: {self}")

    @np.errstate(over="ignore")  # a difference beyond float32 is as the largest step has it
    def next(
        self,
        layout: Layout,
        group: Group,
        before: Points | None,
        state: F32,
        start: F32,
        deviations: Sequence[float | None] = (),
    ) -> Points:
        """Return a group's points of the next public model.

        Args:
            layout: of the model.
            group: which part of it.
            before: its points of the public model before; None for the first.
            state: the server's exact values of it, float32, shape (elements of the group,).
            start: those that the run started with.
            deviations: of each tensor that is not empty, what its step follows in the place of what it moved; None, or
                none at all, where it follows that.
        """
        where = edges(layout, group)
        if before is None:
            nothing = VARIANCE_BITS if group is Group.VARIANCE else _BEFORE_ANY
            before = Points(np.full(len(where), nothing, np.int8), np.zeros(state.size, np.int32))
        if group is Group.VARIANCE:
            places = np.abs(state).view(np.uint32) * 2.0**-VARIANCE_BITS  # of -0 as of 0
            places = places.clip(max=LARGEST_PLACE) - (places_of(start) if self.from_start else 0)
            return Points(before.exponents, self._settled(places, before.numbers))
        steps = self.step * shares([b - a for a, b in where]) if group is Group.CODED else [self.side] * len(where)
        rows = zip(where, steps, before.exponents.tolist(), deviations or [None] * len(where), strict=True)
        exponents = np.array(
            [
                max(self._exponent(step, state[a:b], start[a:b], old, known), old - _room(before.numbers[a:b]))
                for (a, b), step, old, known in rows
            ],
            np.int8,
        )
        numbers = re_express(layout, group, before, exponents).copy()
        for (a, b), exponent, old in zip(where, exponents.tolist(), before.exponents.tolist(), strict=True):
            places = (state[a:b] - start[a:b] if self.from_start else state[a:b]) * np.float32(2.0**-exponent)
            numbers[a:b] = self._settled(places, numbers[a:b]) if exponent == old else _nearest(places)
        return Points(exponents, numbers)

    def _exponent(self, step: float, state: F32, start: F32, old: int, deviation: float | None) -> int:
        """Return the exponent of a tensor's step: the old one while it fits."""
        moved = _root_mean_square(state - start)
        if deviation is not None and moved:
            counted = state - start if self.from_start else state
            moved = max(deviation, float(np.abs(counted).max()) / (step * _MOST_STEPS))
        elif not self.from_start:
            moved = max(moved, (_LEAST_MOVED if moved else _UNMOVED) * _root_mean_square(start))
        if moved == 0:
            return old
        fits = log2(step * moved)
        return old if abs(fits - old) <= _STAYS else round(min(max(fits, LEAST_STEP), LARGEST_STEP))

    def _settled(self, places: NDArray[np.floating], before: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the numbers nearest to real places; those before stay where the place is not far from them."""
        return np.where(np.abs(places - before) > 0.5 + self.hysteresis, _nearest(places), before)


def _nearest(places: NDArray[np.floating]) -> NDArray[np.int32]:
    return np.asarray(np.rint(places).clip(-LARGEST_NUMBER, LARGEST_NUMBER), np.int32)


def shares(sizes: Sequence[int]) -> NDArray[np.float64]:
    """Return each tensor's step over that of all alike, float64, shape (tensors,): as the root of its size.

    Rounding does harm tensor by tensor: what a layer makes of its input is off by its error over its weights, however
    many they are. Bits are paid element by element. The sum of the tensors' squared errors is least for a number of
    bits where each one is as its size is; the number of bits is that of equal steps.
    """
    counts = np.array(sizes, np.float64)
    return np.exp((np.log(counts) - np.average(np.log(counts), weights=counts)) / 2) if counts.size else counts


def _room(numbers: NDArray[np.int32]) -> int:
    """Return by how many powers of two a step can become finer, so that these numbers can be expressed in it.

    A tensor that came back to where it started has a far finer step than before. It gets there by two models, then.
    """
    largest = max(int(numbers.max()), -int(numbers.min()))
    return (LARGEST_NUMBER // largest).bit_length() - 1 if largest else LARGEST_STEP - LEAST_STEP


def _root_mean_square(values: F32) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
