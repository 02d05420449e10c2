"""The exact sum: contributions times integer weights, the same to the bit in any order and any tree, in O(d) memory.

Each contribution times its weight is rounded once to fixed point (a 64-bit integer in units of 2^-e), and integers add
associatively. The exponent e of a group is fixed at the start of the round from the largest value, the largest weight
and the number of clients, so that the sum cannot overflow.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import frexp, ldexp

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import CHUNK, Codec, Opened, Plane
from fedmrn.errors import ConfigError, FedmrnError
from fedmrn.numerics.kernels import NEAR
from fedmrn.numerics.threads import in_parallel
from fedmrn.server.plan import RoundPlan
from fedmrn.wire.layout import Group

WAIT_FROM = 1 << 22
"""Elements from which the sum does not fit into a cache, and frames wait for others to be folded in one pass."""
TOGETHER = 8
"""Frames that are folded in one pass where they wait."""
PART = 1 << 18
"""Elements of the sum that stay in a cache while all waiting frames are folded into them."""

Contribution = tuple[Opened, float, bool]
"""What is read, the factor, and whether every product is below `NEAR`."""


class ExactSum:
    """The weighted sum of one round's updates, as integers. Change it only inside `with sums:`.

    Args:
        plan: of the round.
        codecs: of each group that is summed.
        threads: worker threads for models above a million elements.

    Attributes:
        integers: the sum, int64: the flat vector, then the further planes of the coded group.
        exponents: e of each group; an integer k stands for k * 2^-e.
        threads: as given.
        waiting: checked frames that are not in `integers` yet.

    Raises:
        ConfigError: if the coded group's codec lacks a plane, or threads is below 1.
    """

    def __init__(self, plan: RoundPlan, codecs: Mapping[Group, Codec], threads: int) -> None:
        if threads < 1:
            raise ConfigError(f"a fold needs at least 1 thread, got {threads}")
        self._planes, self._layout, self._round, self.threads = plan.planes, plan.layout, plan.round, threads
        coded = codecs.get(Group.CODED)
        if coded is not None and not coded.planes.issuperset(plan.planes):
            missing = " or ".join(p.value for p in plan.planes if p not in coded.planes)
            raise ConfigError(f"codec {coded.name} has no plane {missing}")
        least = 1.0 if {Plane.SIGN, Plane.KEPT} & {*plan.planes} else 0.0  # signs and counts go up to 1
        self._bounds = {group: max(least, codec.bound(plan.limits.largest)) for group, codec in codecs.items()}
        bits = plan.capacity.bit_length()
        self.exponents = {group: 62 - frexp(bound)[1] - bits for group, bound in self._bounds.items()}
        self._coded = plan.layout.span(Group.CODED).stop
        self.integers = np.zeros(plan.layout.size + (len(plan.planes) - 1) * self._coded, np.int64)
        self.waiting: list[Contribution] = []
        self._torn = False

    def check_whole(self) -> None:
        """Refuse a sum that is closed or was left half-way.

        Raises:
            FedmrnError: says so.
        """
        if self._torn:
            raise FedmrnError(
                f"round {self._round}: it is closed, or a fold was interrupted half-way; start the round again"
            )

    def __enter__(self) -> None:
        """Begin a change of the sum and of what belongs to it: what ends half-way leaves a sum that gives nothing.

        Raises:
            FedmrnError: as `check_whole`.
        """
        self.check_whole()
        self._torn = True

    def __exit__(self, error: object, *_: object) -> None:
        self._torn = error is not None

    def add(self, sections: Iterable[tuple[Group, Opened]], weight: int) -> None:
        """Add a frame's sections times a weight, or let it wait for others. Call it inside `with sums:`.

        Where the sum is larger than the caches, up to 7 frames of a codec that folds directly are kept and folded
        together with the next: an eighth of the sum's memory at most.
        """
        for group, opened in sections:
            factor = ldexp(weight, self.exponents[group])
            near = self._bounds[group] * factor < NEAR
            if group is not Group.CODED:
                self._fold([(opened, factor, near)], self._layout.span(group))
            elif opened.direct_fold and self._coded >= WAIT_FROM and self._planes == (Plane.VALUE,):
                self.waiting.append((opened, factor, near))
            else:
                for i, plane in enumerate(self._planes):
                    self._fold([(opened.plane(plane), factor, near)], self._span(i))
        if len(self.waiting) == TOGETHER:
            self._fold_waiting()

    def settle(self) -> None:
        """Fold the frames that wait for others.

        Raises:
            FedmrnError: as `check_whole`.
        """
        with self:
            self._fold_waiting()

    def merge(self, other: "ExactSum") -> None:
        """Add another sum; both are settled. Call it inside `with sums:`."""
        self.integers += other.integers

    def mean(self, weight: int) -> NDArray[np.float32]:
        """Return the sum over a total weight, float32, shape (layout.size,); of the coded group, the first plane.

        Raises:
            FedmrnError: as `check_whole`.
        """
        self.settle()
        mean = np.zeros(self._layout.size, np.float32)
        for group in self.exponents:
            span = self._layout.span(group)
            self._write_mean(group, span, weight, mean[span])
        return mean

    def plane_mean(self, plane: Plane, weight: int) -> NDArray[np.float32]:
        """Return one plane of the coded group over a total weight, float32, shape (elements of it,).

        Raises:
            FedmrnError: as `check_whole`.
            ValueError: the plane was not asked for.
        """
        self.settle()
        mean = np.empty(self._coded, np.float32)
        self._write_mean(Group.CODED, self._span(self._planes.index(plane)), weight, mean)
        return mean

    def close(self, weight: int) -> NDArray[np.float32]:
        """Return the mean in the sum's own memory; nothing can be added or read afterwards.

        Raises:
            FedmrnError: as `check_whole`.
        """
        self.settle()
        self._torn = True
        mean = self.integers.view(np.float32)  # half as wide: what is written was read before
        for group in Group:
            span = self._layout.span(group)
            if group in self.exponents:
                self._write_mean(group, span, weight, mean[span])
            else:
                mean[span] = 0
        total, self.integers = self.integers, np.empty(0, np.int64)
        del mean
        total.resize(-(-self._layout.size // 2), refcheck=False)  # gives the rest back, without a copy
        return total.view(np.float32)[: self._layout.size]

    def _span(self, i: int) -> slice:
        """Where the i-th plane of the coded group lies."""
        start = 0 if i == 0 else self._layout.size + (i - 1) * self._coded
        return slice(start, start + self._coded)

    def _fold_waiting(self) -> None:
        self._fold(self.waiting, self._span(0))
        self.waiting = []

    def _fold(self, contributions: Sequence[Contribution], span: slice) -> None:
        """Add contributions, all of a part of the sum at a time."""
        total = self.integers[span]

        def work(first: int, last: int) -> None:
            for start in range(first, last, PART):
                for opened, factor, near in contributions:
                    opened.fold(start, factor, near, total[start : min(start + PART, last)])

        in_parallel(work, total.size, self.threads, CHUNK)

    def _write_mean(self, group: Group, span: slice, weight: int, out: NDArray[np.float32]) -> None:
        """Write the mean of a part of the sum that has the unit of a group; a model may have no coded group."""
        factor = ldexp(1.0, -self.exponents.get(group, 0)) / weight
        for start in range(0, out.size, PART):
            part = self.integers[span.start + start : min(span.start + start + PART, span.stop)]
            out[start : start + part.size] = part * factor
