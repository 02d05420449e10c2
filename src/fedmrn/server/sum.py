"""One exact sum: contributions times integer weights as fixed-point integers, the same to the bit in any order.

Each contribution times its weight is rounded once to a 64-bit integer in units of 2^-e, and integers add associatively.
The exponent e of a tensor is fixed before its first contribution, from the largest value, the largest weight and the
number of clients, so that the sum cannot overflow.

Where values may be far smaller than the largest that are allowed, what rounding leaves of each is added too, to a
second integer in units of 2^-e-k. Masks need no second one: their codewords, or the caps of their scales, are known.
Only a frame whose scales lie very far below their caps gets one; that depends on the frame alone, not on others.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import frexp, ldexp

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import CHUNK, Opened
from fedmrn.codecs.mask.masked_noise import OpenedMask
from fedmrn.errors import BoundError, MalformedFrameError
from fedmrn.numerics.kernels import NEAR, PART, fold_finely, write_fine_mean, write_mean
from fedmrn.numerics.kernels import fold as fold_values
from fedmrn.numerics.threads import in_parallel

_LONG = 1 << 12
"""Elements a unit, on average, from which calls for each take less time than a vector of values."""
_FINEST = 51
_DIGITS = 2.0**24
"""Units that a scale times its weight has at least, or else its frame's values are summed finely."""

Bounds = tuple[NDArray[np.float32], NDArray[np.float32]]
"""The least and the largest value of each element, float32; what is outside counts as the nearer one."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Elements up to `stop` whose sums have one unit, 2^-exponent; no contribution is larger than `bound`."""

    stop: int
    bound: float
    exponent: int


@dataclass(frozen=True, slots=True)
class Contribution:
    """A section times a weight, clipped to bounds where there are any.

    Attributes:
        opened, weight: as they came.
        bounds: of each element.
        scales: how large the values of each unit's tensor are, as far as that is known; 0 where they do not matter.
    """

    opened: Opened
    weight: int
    bounds: Bounds | None = None
    scales: NDArray[np.float32] | None = None


class Sum:
    """The sum of one plane of one group.

    Args:
        integers: where it lies, int64, zeros.
        capacity: the largest total weight.
        clients: the largest number of contributions.
        fine: whether it has a second integer an element.

    Attributes:
        integers: the sum, in each element's unit.
        rest: what is finer than a unit, int64; None where no contribution had that.
        units: of the elements, in order.
    """

    def __init__(self, integers: NDArray[np.int64], capacity: int, clients: int, *, fine: bool) -> None:
        self.integers, self._fine = integers, fine
        self.rest = np.zeros(integers.size, np.int64) if fine else None
        self._bits = capacity.bit_length()
        self._finer = min(_FINEST, 63 - clients.bit_length())
        self.units: list[Unit] = []

    def set_units(self, stops: Iterable[int], bounds: Iterable[float]) -> None:
        """Fix the units, before the first contribution."""
        pairs = zip(stops, bounds, strict=True)
        self.units = [Unit(stop, bound, 62 - frexp(bound)[1] - self._bits) for stop, bound in pairs]

    @property
    def step(self) -> float:
        """The largest unit that contributions are rounded to."""
        exponent = min(unit.exponent for unit in self.units)
        return ldexp(1.0, -exponent - (self._finer if self._fine else 0))

    def clear(self) -> None:
        """Forget all contributions."""
        self.integers[:] = 0
        self.rest = np.zeros(self.integers.size, np.int64) if self._fine else None

    def fold(self, contributions: Sequence[Contribution], threads: int) -> None:
        """Add contributions, all of a part of the sum at a time."""
        alone = [c.bounds is None and self._folds_itself(c.opened) for c in contributions]
        finely = [self._fine or self._is_small(c) for c in contributions]
        if any(finely) and self.rest is None:
            self.rest = np.zeros(self.integers.size, np.int64)

        masks = [c.opened for c in contributions if isinstance(c.opened, OpenedMask)]
        together = len(masks) == len(contributions) > 1 and all(alone) and not any(finely)

        def work(first: int, last: int) -> None:
            if together:
                self._fold_masks(masks, [c.weight for c in contributions], first, last)
                return
            part = PART if len(contributions) > 1 else max(1, last - first)
            for start in range(first, last, part):
                stop = min(start + part, last)
                for c, fine, itself in zip(contributions, finely, alone, strict=True):
                    if itself and not fine:
                        self._fold_units(c, start, stop)
                    else:
                        self._fold_slowly(c, start, stop, self.rest if fine else None)

        in_parallel(work, self.integers.size, threads, CHUNK)

    def _is_small(self, c: Contribution) -> bool:
        """Whether a tensor's values are so far below its bound that its unit alone would cost them digits."""
        if c.scales is None:
            return False
        units = np.ldexp(np.float64(c.weight), [unit.exponent for unit in self.units])
        return bool(((c.scales > 0) & (c.scales * units < _DIGITS)).any())

    def _folds_itself(self, opened: Opened) -> bool:
        """Whether a section adds its elements itself: a unit at a time, which must not be too short for that."""
        many = len(self.units)
        return many == 1 or (opened.folds_anywhere and self.integers.size >= many * _LONG)

    def _fold_units(self, c: Contribution, start: int, stop: int) -> None:
        """Let a section add its elements start..stop-1."""
        for unit, where in self._units_within(start, stop):
            c.opened.fold(where.start, *self._factor(unit, c.weight), self.integers[where])

    def _fold_masks(self, masks: Sequence[OpenedMask], weights: Sequence[int], start: int, stop: int) -> None:
        """Let masks of one codec add their elements start..stop-1 together."""
        for unit, where in self._units_within(start, stop):
            factors = [self._factor(unit, weight) for weight in weights]
            masks[0].fold_together(masks[1:], where.start, factors, self.integers[where])

    def _units_within(self, start: int, stop: int) -> Iterator[tuple[Unit, slice]]:
        """Yield the units of elements start..stop-1, and which of them are each one's."""
        for unit in self.units:
            end = min(unit.stop, stop)
            if end > start:
                yield unit, slice(start, end)
                start = end

    def _fold_slowly(self, c: Contribution, start: int, stop: int, rest: NDArray[np.int64] | None) -> None:
        """Add the elements start..stop-1 of a contribution, each in its own unit."""
        values = np.empty(min(CHUNK, stop - start), np.float32)
        for at in range(start, stop, CHUNK):
            part = values[: min(CHUNK, stop - at)]
            c.opened.read(at, part)
            if c.bounds is not None:
                np.clip(part, c.bounds[0][at : at + part.size], c.bounds[1][at : at + part.size], out=part)
            done = at
            for unit in self.units:
                if unit.stop > done:
                    end = min(unit.stop, at + part.size)
                    self._add(part[done - at : end - at], self._factor(unit, c.weight), slice(done, end), rest)
                    done = end
                if done == at + part.size:
                    break

    def _add(
        self, values: NDArray[np.float32], factor: tuple[float, bool], where: slice, rest: NDArray[np.int64] | None
    ) -> None:
        if rest is None:
            fold_values(values, *factor, self.integers[where])
        else:
            fold_finely(values, factor[0], ldexp(1.0, self._finer), self.integers[where], rest[where])

    @staticmethod
    def _factor(unit: Unit, weight: int) -> tuple[float, bool]:
        """Return what a value is multiplied by, and whether every product is below `NEAR`."""
        factor = ldexp(weight, unit.exponent)
        return factor, unit.bound * factor < NEAR

    def check(self, weight: int, clients: int) -> None:
        """Refuse a sum from elsewhere that contributions of this total weight, so many, cannot have.

        Raises:
            MalformedFrameError: it lacks the second integer.
            BoundError: an element is beyond its bound.
        """
        if self._fine and self.rest is None:
            raise MalformedFrameError("a sum lacks what is finer than its units")
        start = 0
        for unit in self.units:
            most = int(Fraction(unit.bound) * Fraction(2) ** unit.exponent * weight) + clients
            _check_within(self.integers[start : unit.stop], most, "a sum of")
            start = unit.stop
        if self.rest is not None:
            _check_within(self.rest, clients << (self._finer - 1), "what a sum has below its units,")

    def merge(self, other: "Sum") -> None:
        """Add another sum with the same units."""
        self.integers += other.integers
        if other.rest is not None:
            self.rest = other.rest.copy() if self.rest is None else self.rest + other.rest

    def write_mean(self, weight: int, out: NDArray[np.float32], threads: int = 1) -> None:
        """Write the sum over a total weight to `out`.

        Args:
            weight: the total.
            out: float32, as many elements; for one thread it may lie in the sum's own memory, at its start or before.
            threads: worker threads where there are millions of elements.
        """

        def work(first: int, last: int) -> None:
            for unit, where in self._units_within(first, last):
                factor = ldexp(1.0, -unit.exponent) / weight
                if self.rest is None:
                    write_mean(self.integers[where], factor, out[where])
                else:
                    coarser = ldexp(1.0, -self._finer)
                    write_fine_mean(self.integers[where], self.rest[where], coarser, factor, out[where])

        in_parallel(work, self.integers.size, threads, CHUNK)


def _check_within(numbers: NDArray[np.int64], most: int, what: str) -> None:
    if numbers.size and max(int(numbers.max()), -int(numbers.min())) > most:
        at = int(np.argmax((numbers > most) | (numbers < -most)))
        raise BoundError(f"{what} {int(numbers[at])} units, cannot be: its members come to {most} at most")
