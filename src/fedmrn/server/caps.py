"""Caps: how much one client may move a tensor and how much it counts, learned from what most clients sent before.

A sum that does not depend on the order of its terms cannot clip by what it has not seen. So caps are fixed when a round
begins: a small multiple of the median over the clients of the round before. The median of a round is that of its honest
clients as long as they are the majority. A cap at most doubles and at most halves from round to round, so that rounds
in which they are not move it by little, and do not stop training either.

All caps but those of weights are powers of two, written as exponents: 2^e.

Where clients share one noise, what a round fixes is no cap of a tensor's scale but the scale itself: the median of
what would have fitted the clients of the round before, under the same law.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import log

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.mask.scale import FitsUpdate
from fedmrn.codecs.scales import exponents_of
from fedmrn.errors import ConfigError
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.terms import LARGEST_CAP

Exponents = tuple[int | None, ...]
"""For each tensor the exponent of its cap; None where none is known yet."""
VARIANCE_APART = log(4)
"""How far the logarithm of a client's running variance may be from the median over clients."""
STILL = -80
"""Exponents up to this say that a tensor was not moved: it is the least scale that noise can have."""


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """How caps follow from what clients sent, and what holds before anything is known (clipping of single clients).

    Attributes:
        weights: a client counts at most so many times the median weight.
        scales: the cap of a coded tensor's scale lies so many powers of two above the median.
        values: the same of dense values and statistics: of their distance from the median over clients, or, where they
            are clipped as they come, of their magnitude.
        hold: elements, of all clients together, that are kept until a round closes, to clip them by that round's own
            median: of whole updates in a run's first round, later of side data. Where there would be more, updates are
            clipped as they come, by caps that are known when the round begins.
        first_weight: what a client counts at most in a first round that is not kept. With 1 all count alike in it; set
            it to what a large client of yours has, and that round is weighted too.
        first: the first cap of a tensor over its own largest magnitude, and of one that is zero over that of the
            model's middle tensor. It holds for tensors that most clients have not moved yet, and in a first round that
            is not kept.

    Raises:
        ConfigError: a value is out of its range.
    """

    weights: int = 4
    scales: int = 1
    values: int = 2
    hold: int = 1 << 26
    first_weight: int = 1
    first: float = 1.0

    def __post_init__(self) -> None:
        if min(self.weights, self.first_weight) < 1 or min(self.scales, self.values, self.hold) < 0:
            raise ConfigError(f"multiples and weights of clipping are at least 1, and its exponents at least 0: {self}")
        if not 2.0**-60 <= self.first <= 2.0**60:
            raise ConfigError(f"the first cap is 2^-60 to 2^60 times a tensor's magnitude, got {self.first}")


@dataclass(frozen=True)
class Caps:
    """What is known at the end of a round of the caps of the next one.

    Attributes:
        weight: what a client counts at most; None before the first round.
        scales: of each coded tensor that is not empty: of its scale.
        values: of each tensor of the other groups that is not empty: of its values' magnitude.
    """

    weight: int | None
    scales: Exponents
    values: Exponents

    @classmethod
    def at_start(cls, layout: Layout) -> "Caps":
        """Return the caps of a run's first round: none is known."""
        return cls(None, (None,) * len(_tensors(layout, coded=True)), (None,) * len(_tensors(layout, coded=False)))


@dataclass(frozen=True, slots=True)
class TellsScales:
    """What the server needs to tell the scales of a round's noise.

    Attributes:
        multiple: the scale that fits a tensor over the mean magnitude of its update.
        most: the exponent of the largest scale that is taken.
    """

    multiple: float
    most: int


@dataclass(frozen=True)
class RoundCaps:
    """The caps of one round; every partial sum of it has the same.

    Attributes:
        weight: what a client counts at most.
        scales: exponents, for each coded tensor that is not empty; of its scale itself where `tells`.
        values: the same for the other groups.
        learned: whether all caps of scales come from earlier rounds: then the sums need no more digits than they have.
        hold: whether side data is kept until the round closes, and clipped by its own median.
        first: whether whole updates are: then the other caps do not hold, and nobody is told of them.
        clipping: what caps are made by.
        tells: whether all clients are told the scale of each coded tensor's noise, and choose none.
    """

    weight: int
    scales: tuple[int, ...]
    values: tuple[int, ...]
    learned: bool
    hold: bool
    first: bool
    clipping: Clipping
    tells: bool = False

    @classmethod
    def of(
        cls,
        caps: Caps,
        clipping: Clipping,
        layout: Layout,
        shown: NDArray[np.float32],
        clients: int,
        told: TellsScales | None = None,
    ) -> "RoundCaps":
        """Return the caps of a round with so many clients, who are shown this state; with `told`, scales."""
        first = _first(layout, shown, clipping.first)
        coded = len(caps.scales)
        if told is not None:
            first[:coded] = _first_scales(layout, told)
        known = zip((*caps.scales, *caps.values), first, strict=True)
        found = [b if a is None else min(max(a, b - _FAR), b + _FAR) for a, b in known]
        side = sum(t.size for t in layout.tensors if t.group is not Group.CODED)
        return cls(
            weight=clipping.first_weight if caps.weight is None else caps.weight,
            scales=tuple(found[:coded] if told is None else (min(e, told.most) for e in found[:coded])),
            values=tuple(found[coded:]),
            learned=told is not None or None not in caps.scales,
            hold=side * clients <= clipping.hold,
            first=caps.weight is None and layout.size * clients <= clipping.hold,
            clipping=clipping,
            tells=told is not None,
        )

    @property
    def told(self) -> tuple[int, ...]:
        """What clients are told of the largest scales that they may send."""
        return () if self.first or self.tells else self.scales

    @property
    def told_scales(self) -> tuple[int, ...]:
        """What clients are told of the scales that they have to send."""
        return self.scales if self.tells else ()

    @property
    def above(self) -> int:
        """How many powers of two the next round's exponent of a scale lies above this round's median."""
        return 0 if self.tells else self.clipping.scales

    def closed(self, census: "Census") -> "RoundCaps":
        """Return the caps of a round whose updates were kept, now that all are known."""
        weight = census.weight(self.clipping)
        if self.tells:
            return replace(self, weight=weight, first=False)
        found = zip(self.scales, _medians(census.scales).tolist(), strict=bool(census.scales))
        scales = tuple(cap if median <= STILL else median + self.clipping.scales for cap, median in found)
        return replace(self, weight=weight, scales=scales or self.scales, learned=True, first=False)


@dataclass
class Census:
    """What each update of a round claims: its weight, and how large its tensors are. The order does not matter.

    Attributes:
        weights: as the clients claim them.
        scales: of each update the exponents of its scales, int16, shape (coded tensors,); none if its codec has none.
        values: the same of the magnitudes of side data.
    """

    weights: list[int] = field(default_factory=list)
    scales: list[NDArray[np.int16]] = field(default_factory=list)
    values: list[NDArray[np.int16]] = field(default_factory=list)

    def merge(self, other: "Census") -> None:
        """Add what another part of the round counted."""
        self.weights += other.weights
        self.scales += other.scales
        self.values += other.values

    def weight(self, clipping: Clipping) -> int:
        """Return the cap of weights that the lower median leads to."""
        return min(clipping.weights * sorted(self.weights)[(len(self.weights) - 1) // 2], _HEAVIEST)

    def next(self, before: Caps, used: RoundCaps) -> Caps:
        """Return the caps of the next round, given what was known before this one and what it used."""
        clipping, weight = used.clipping, self.weight(used.clipping)
        if before.weight is not None:
            weight = min(max(weight, (before.weight + 1) // 2), 2 * before.weight)
        return Caps(
            weight,
            _moved(before.scales, used.scales, _medians(self.scales), used.above),
            _moved(before.values, used.values, _medians(self.values), clipping.values),
        )


def _medians(rows: Sequence[NDArray[np.int16]]) -> NDArray[np.int16]:
    """Return the lower median of each column, int16, shape (columns,); no columns where there are no rows."""
    if not rows:
        return np.zeros(0, np.int16)
    return np.asarray(np.sort(np.stack(rows), axis=0)[(len(rows) - 1) // 2], np.int16)


def _moved(before: Exponents, used: Sequence[int], found: NDArray[np.int16], above: int) -> Exponents:
    """Return caps so far above the medians found, at most one power of two from those that were used."""
    if not found.size:
        return before
    caps: list[int | None] = []
    for old, cap, median in zip(before, used, found.tolist(), strict=True):
        if median <= STILL:
            caps.append(old)
        else:
            wanted = median + above
            moved = wanted if old is None else min(max(wanted, cap - 1), cap + 1)
            caps.append(_possible(moved))
    return tuple(caps)


def _tensors(layout: Layout, *, coded: bool) -> list[TensorSpec]:
    return [t for t in layout.tensors if t.size and (t.group is Group.CODED) is coded]


def _first(layout: Layout, shown: NDArray[np.float32], times: float) -> list[int]:
    """Return caps for tensors of which nothing is known but what clients are shown."""
    tensors = [*_tensors(layout, coded=True), *_tensors(layout, coded=False)]
    parts = [shown[layout.slices[t.name]] for t in tensors]
    largest = [max(float(part.max()), -float(part.min())) for part in parts]
    others = sorted(x for x in largest if x > 0)
    middle = others[(len(others) - 1) // 2] if others else _NOTHING
    return [_possible(int(e)) for e in exponents_of(np.array([(x or middle) * times for x in largest]))]


def _first_scales(layout: Layout, told: TellsScales) -> list[int]:
    """Return the scales of coded tensors of whose updates nothing is known, from their fan-in.

    That of a tensor is its size over its first axis, and of a vector (a bias) that of the tensor before it, its layer.
    """
    fans: list[int] = []
    for t in _tensors(layout, coded=True):
        vector = len(t.shape) < 2
        fans.append(fans[-1] if vector and fans else t.size if vector else t.size // t.shape[0])
    found: list[int] = FitsUpdate.exponents(_FIRST_MOVE / np.sqrt(np.array(fans, np.float64)), told.multiple).tolist()
    return found


def _possible(exponent: int) -> int:
    """Return the nearest exponent of a cap that clients can keep to: noise has no smaller scale."""
    return min(max(exponent, STILL), LARGEST_CAP)


_FAR = 20
"""Powers of two that a cap may be away from the configured one: a first round in which most clients are hostile, and
send next to nothing, does not hold training up for longer than it takes to come back from there."""
_HEAVIEST = (1 << 64) - 1
"""The largest weight that a frame can claim: a cap above it would cap nothing."""
_FIRST_MOVE = 0.125
"""What the mean |u| of a tensor is taken for in a first round of told scales, times sqrt(fan-in): a quarter of the mean
magnitude that torch gives a layer at first. What fits is within two powers of two of it on digits and Fashion-MNIST,
and is known after that round."""
_NOTHING = 0.125
"""The magnitude that stands for a model of zeros."""
