"""The fold: one round's updates summed exactly, group by group and plane by plane, in O(d) memory.

`fedmrn.server.sum` says how a sum is exact.
"""

from collections.abc import Mapping, Sequence
from math import ldexp

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import Codec, Plane
from fedmrn.errors import ConfigError, FedmrnError
from fedmrn.numerics.threads import map_pages
from fedmrn.server.caps import STILL
from fedmrn.server.plan import RoundPlan
from fedmrn.server.sum import Contribution, Sum
from fedmrn.wire.layout import Group

WAIT_FROM = 1 << 16
"""Elements from which the sum does not fit into a core's own caches, and frames wait to be folded in one pass."""
_COUNTED = {Plane.SIGN, Plane.KEPT}
"""Planes whose values go up to 1, whatever an update's scales are."""
TOGETHER = 8
"""Frames that are folded in one pass where they wait."""
_LINE = 64


class ExactSum:
    """The weighted sum of one round's updates, as integers. Change it only inside `with sums:`.

    Args:
        plan: of the round.
        codecs: of each group that is summed.
        threads: worker threads for models above a million elements.

    Attributes:
        integers: the sum, int64: the flat vector, then the further planes of the coded group.
        sums: of each group, the first plane.
        plan, threads: as given.
        waiting: checked frames that are not in `integers` yet.

    Raises:
        ConfigError: if the coded group's codec lacks a plane, or threads is below 1.
    """

    def __init__(self, plan: RoundPlan, codecs: Mapping[Group, Codec], threads: int) -> None:
        if threads < 1:
            raise ConfigError(f"a fold needs at least 1 thread, got {threads}")
        self.plan, self.threads = plan, threads
        self._planes, self._layout, self._round = plan.planes, plan.layout, plan.round
        coded = codecs.get(Group.CODED)
        if coded is not None and not coded.planes.issuperset(plan.planes):
            missing = " or ".join(p.value for p in plan.planes if p not in coded.planes)
            raise ConfigError(f"codec {coded.name} has no plane {missing}")
        self._coded = plan.layout.span(Group.CODED).stop
        self.integers, self._memory = _zeros(plan.layout.size + (len(plan.planes) - 1) * self._coded)
        self.sums: dict[Group, Sum] = {}
        self._further: list[Sum] = []
        for group, codec in codecs.items():
            spans = zip((plan.planes if group is Group.CODED else (Plane.VALUE,)), self._spans(group), strict=True)
            made = [self._made(plan, group, codec, plane, span) for plane, span in spans]
            self.sums[group] = made[0]
            self._further += made[1:]
        self.waiting: list[Contribution] = []
        self._torn = self._mapped = False

    def _spans(self, group: Group) -> list[slice]:
        """Where the planes of a group lie."""
        spans = [self._layout.span(group)]
        if group is Group.CODED:
            starts = (self._layout.size + i * self._coded for i in range(len(self._planes) - 1))
            spans += [slice(start, start + self._coded) for start in starts]
        return spans

    def _made(self, plan: RoundPlan, group: Group, codec: Codec, plane: Plane, span: slice) -> Sum:
        caps, coded = plan.caps, group is Group.CODED
        capped = caps is not None and not caps.first and coded and codec.sends_scales
        fine = not (codec.known_magnitude or (capped and caps is not None and caps.learned))
        made = Sum(self.integers[span], plan.capacity, plan.max_clients, fine=fine)
        least = 1.0 if plane in _COUNTED else 0.0
        if capped and caps is not None:
            stops = np.cumsum(plan.layout.sizes(group), dtype=np.int64).tolist()
            bounds = (1.0 if plane in _COUNTED else codec.bound_of_scale(ldexp(1.0, cap)) for cap in caps.scales)
            made.set_units(stops, bounds)
        else:
            made.set_units([span.stop - span.start], [max(least, codec.bound(plan.limits.largest))])
        return made

    @property
    def exponents(self) -> dict[Group, int]:
        """For each group the e of its coarsest unit, 2^-e."""
        return {group: min(unit.exponent for unit in total.units) for group, total in self.sums.items()}

    @property
    def parts(self) -> list[Sum]:
        """Each group's sum, and those of the further planes of the coded group."""
        return [*self.sums.values(), *self._further]

    def planes_of(self, group: Group) -> list[Sum]:
        """The sums of a group, one a plane."""
        return [self.sums[group], *(self._further if group is Group.CODED else ())]

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

    def add(self, group: Group, contribution: Contribution) -> None:
        """Add a section times a weight, or let it wait for others. Call it inside `with sums:`.

        Where the sum is larger than the caches, up to 7 frames of a codec that folds directly are kept and folded
        together with the next: an eighth of the sum's memory at most.
        """
        first, opened = self.sums[group], contribution.opened
        if group is not Group.CODED:
            first.fold([contribution], self.threads)
        elif opened.direct_fold and self._coded >= WAIT_FROM and self._planes == (Plane.VALUE,):
            self.waiting.append(contribution)
        else:
            scales = opened.tensor_scales()
            moved = None if scales is None else np.where(scales.exponents > STILL, scales.values, np.float32(0))
            for plane, total in zip(self._planes, (first, *self._further), strict=True):
                known = None if plane in _COUNTED else moved
                total.fold([Contribution(opened.plane(plane), contribution.weight, None, known)], self.threads)
        if len(self.waiting) == TOGETHER:
            self._fold_waiting()

    def replace(self, group: Group, contributions: Sequence[Contribution], bound: float) -> None:
        """Make a group's sum that of these contributions, none larger than `bound`. Call it inside `with sums:`."""
        total = self.sums[group]
        total.clear()
        total.set_units([total.integers.size], [bound])
        total.fold(contributions, self.threads)

    def settle(self) -> None:
        """Fold the frames that wait for others.

        Raises:
            FedmrnError: as `check_whole`.
        """
        with self:
            self._fold_waiting()

    def merge(self, other: "ExactSum") -> None:
        """Add another sum; both are settled. Call it inside `with sums:`."""
        for mine, its in zip(self.parts, other.parts, strict=True):
            mine.merge(its)

    def mean(self, weight: int) -> NDArray[np.float32]:
        """Return the sum over a total weight, float32, shape (layout.size,); of the coded group, the first plane.

        Raises:
            FedmrnError: as `check_whole`.
        """
        self.settle()
        mean = np.zeros(self._layout.size, np.float32)
        map_pages(mean, self.threads)
        self._write_mean(weight, mean, self.threads)
        return mean

    def plane_mean(self, plane: Plane, weight: int) -> NDArray[np.float32]:
        """Return one plane of the coded group over a total weight, float32, shape (elements of it,).

        Raises:
            FedmrnError: as `check_whole`.
            ValueError: the plane was not asked for.
        """
        self.settle()
        mean = np.zeros(self._coded, np.float32)
        at = self._planes.index(plane)
        if Group.CODED in self.sums:  # a model may have no coded group
            (self.sums[Group.CODED], *self._further)[at].write_mean(weight, mean)
        return mean

    def close(self, weight: int) -> NDArray[np.float32]:
        """Return the mean in the sum's own memory; nothing can be added or read afterwards.

        Raises:
            FedmrnError: as `check_whole`.
        """
        self.settle()
        self._torn = True
        memory, size = self._memory, self._layout.size
        self._write_mean(weight, memory.view(np.float32)[:size], 1)  # half as wide: what is written was read before
        self.integers = self._memory = np.empty(0, np.int64)
        self.sums, self._further = {}, []  # they hold views of it
        memory.resize(-(-size // 2), refcheck=False)  # gives the rest back, without a copy
        return memory.view(np.float32)[:size]

    def _write_mean(self, weight: int, mean: NDArray[np.float32], threads: int) -> None:
        """Write the first planes of all groups over a total weight; zeros for a group that is not summed."""
        for group in Group:
            span = self._layout.span(group)
            if group in self.sums:
                self.sums[group].write_mean(weight, mean[span], threads)
            else:
                mean[span] = 0

    def _fold_waiting(self) -> None:
        if self.waiting:
            if not self._mapped:
                map_pages(self._memory, self.threads)
                self._mapped = True
            self.sums[Group.CODED].fold(self.waiting, self.threads)
        self.waiting = []


def _zeros(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return zeros that begin where a line of the cache does, and the memory that they lie in.

    numpy's own do not, and then each vector that is read and written touches two lines.
    """
    memory = np.zeros(size + _LINE // 8 - 1, np.int64)
    first = -memory.ctypes.data % _LINE // 8
    return memory[first : first + size], memory
