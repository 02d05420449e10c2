"""Side data: the dense tensors and statistics of a round's updates, clipped so that no client moves them far.

They are few. So they are kept until the round closes. Then each value is clipped to a range around the median of its
element: four times as far as the middle client is from the median anywhere in the tensor. What all clients have in
common thus stays, and what one adds of its own is hardly more than others do.

Where clients are so many that this would take too much memory, values are clipped as they come, by caps of the round
before. Of running variances, which travel as changes of their logarithms, no change is taken for more than a factor of
four from the median, or, where they are clipped as they come, from what they were.
"""

from collections.abc import Iterable, Sequence
from math import ldexp

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import CHUNK, Opened
from fedmrn.codecs.scales import exponents_of
from fedmrn.server.caps import VARIANCE_APART, RoundCaps
from fedmrn.server.fold import ExactSum
from fedmrn.server.sum import Bounds, Contribution
from fedmrn.wire.layout import Group, Layout

F32 = NDArray[np.float32]
Sections = Iterable[tuple[Group, Opened]]
_LARGEST = np.float32(2.0**126)
_NOTHING = np.empty(0, np.int16)


class SideData:
    """What a round's updates hold beside the coded group.

    Args:
        layout: of the model.
        caps: of the round; without them nothing is clipped or kept.

    Attributes:
        kept: sections that wait for the close, and the weights of their clients.
        magnitudes: of each update the exponents that `measure` returns.
    """

    def __init__(self, layout: Layout, caps: RoundCaps | None) -> None:
        self._caps, self._above = caps, 0 if caps is None else caps.clipping.values
        self._groups = [g for g in Group if g is not Group.CODED and layout.sizes(g)]
        self._sizes: dict[Group, tuple[int, ...]] = {group: layout.sizes(group) for group in self._groups}
        self.kept: dict[Group, list[Contribution]] = {group: [] for group in self._groups}
        self.magnitudes: list[NDArray[np.int16]] = []
        self._settled = 0
        bounds = {} if caps is None or caps.hold else self._bounds(caps.values)
        self._bounds_of: dict[Group, Bounds | None] = {group: bounds.get(group) for group in self._groups}

    @property
    def _hold(self) -> bool:
        return self._caps is not None and self._caps.hold

    def measure(self, sections: Sections) -> NDArray[np.int16]:
        """Return the exponent of the largest magnitude of each tensor, int16, shape (tensors that are not empty,)."""
        if not self._groups:
            return _NOTHING
        found = {group: self._largest(opened, self._sizes[group]) for group, opened in sections if group in self._sizes}
        rows = [found.get(group, [0.0] * len(self._sizes[group])) for group in self._groups]
        return exponents_of(np.array([x for row in rows for x in row]))

    @staticmethod
    def _largest(opened: Opened, sizes: Sequence[int], middle: F32 | None = None) -> list[float]:
        count = sum(sizes)
        values = np.empty(count, np.float32)
        for start in range(0, count, CHUNK):
            opened.read(start, values[start : start + CHUNK])
        if middle is not None:
            values -= middle
        np.abs(values, out=values)
        starts = np.cumsum((0, *sizes[:-1]))
        largest: list[float] = np.maximum.reduceat(values, starts).tolist()
        return largest

    def add(self, sums: ExactSum, sections: Sections, weight: int, magnitudes: NDArray[np.int16]) -> None:
        """Keep a frame's sections, or fold them clipped. Call it inside `with sums:`."""
        for group, opened in sections:
            if group is Group.CODED:
                continue
            if self._hold:
                self.kept[group].append(Contribution(opened, weight))
            else:
                sums.add(group, Contribution(opened, weight, self._bounds_of[group]))
        self.magnitudes.append(magnitudes)

    def merge(self, other: "SideData") -> None:
        """Add what another part of the round keeps."""
        for group, contributions in other.kept.items():
            self.kept[group] += contributions
        self.magnitudes += other.magnitudes

    def settle(self, sums: ExactSum) -> None:
        """Fold what is kept, clipped around its medians, in place of what was folded of it before."""
        if not self._hold or self._caps is None or self._settled == len(self.magnitudes):
            return
        self._settled = len(self.magnitudes)
        farthest = self._bounds(self._caps.values)
        for group, contributions in self.kept.items():
            if contributions:
                middle = _medians(contributions, farthest[group][1].size, smaller=group is Group.VARIANCE)
                apart = self._apart(group, contributions, middle, farthest[group][1])
                with np.errstate(over="ignore"):
                    low, high = (np.clip(x, -_LARGEST, _LARGEST) for x in (middle - apart, middle + apart))
                clipped = [Contribution(c.opened, c.weight, (low, high)) for c in contributions]
                sums.replace(group, clipped, float(max(-low.min(), high.max(), np.finfo(np.float32).tiny)))

    def _apart(
        self, group: Group, contributions: Sequence[Contribution], middle: F32, farthest: F32
    ) -> NDArray[np.float32]:
        """Return how far each value may be from its median.

        Where most clients are at the median all over a tensor, `farthest` says it; a variance stays there.
        """
        sizes = self._sizes[group]
        away = np.stack([self._largest(c.opened, sizes, middle) for c in contributions])
        far = np.ldexp(np.sort(away, axis=0)[(len(contributions) - 1) // 2], self._above)
        apart = np.repeat(far.astype(np.float32), sizes)
        if group is not Group.VARIANCE:
            apart = np.where(apart > 0, apart, farthest)
        elif len(contributions) <= 2:
            return farthest
        return np.minimum(apart, farthest) if group is Group.VARIANCE else apart

    def _bounds(self, exponents: Sequence[int]) -> dict[Group, Bounds]:
        """Return the least and largest value of each element, given the exponent of each tensor's cap."""
        found: dict[Group, Bounds] = {}
        at = 0
        for group in self._groups:
            sizes = self._sizes[group]
            caps = [np.float32(ldexp(1.0, min(max(e, -126), 127))) for e in exponents[at : at + len(sizes)]]
            most = np.repeat(np.array(caps, np.float32), sizes)
            if group is Group.VARIANCE:
                most[:] = VARIANCE_APART
            found[group] = (-most, most)
            at += len(sizes)
        return found


def _medians(contributions: Sequence[Contribution], size: int, *, smaller: bool) -> F32:
    """Return the median of each element over clients, float32, shape (size,).

    Args:
        contributions: of all clients.
        size: of the group.
        smaller: of two clients, whose mean either could take anywhere, return the value of smaller magnitude.
    """
    middle = np.empty(size, np.float32)
    for start in range(0, size, CHUNK):
        rows = np.empty((len(contributions), min(CHUNK, size - start)), np.float32)
        for row, contribution in zip(rows, contributions, strict=True):
            contribution.opened.read(start, row)
        part = middle[start : start + rows.shape[1]]
        if smaller and len(rows) == 2:
            rows = np.sort(rows, axis=0)  # whoever came first does not matter: of -x and x it is -x
            rows = np.take_along_axis(rows, np.abs(rows).argmin(axis=0)[None], 0)
        part[:] = np.median(rows.astype(np.float64), axis=0)
    return middle
