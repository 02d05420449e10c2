"""The aggregator: checks one round's updates and folds them, in O(d) memory, into their exact weighted mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import Opened, Plane
from fedmrn.errors import ConfigError, DuplicateFrameError, WrongRoundError
from fedmrn.numerics.threads import cores
from fedmrn.server.admission import Admission
from fedmrn.server.caps import Census, RoundCaps
from fedmrn.server.fold import ExactSum
from fedmrn.server.plan import RoundPlan
from fedmrn.server.side import SideData
from fedmrn.server.sum import Contribution
from fedmrn.server.tally import Tally
from fedmrn.wire.frame import DEFAULT_LIMITS, Frame, Limits, Section
from fedmrn.wire.layout import Group, Layout

Bodies = Mapping[Group, bytes | memoryview]
"""The bytes of what a client sent, by group."""


@dataclass(frozen=True, slots=True)
class Update:
    """A checked update: its sections, the weight that it claims, and how large its side data is."""

    sections: list[tuple[Group, Opened]]
    weight: int
    magnitudes: NDArray[np.int16]

    def capped(self, caps: Sequence[int]) -> "Update":
        """Return the update with no scale of a coded tensor above 2^cap."""
        sections = [(g, opened.capped(caps) if g is Group.CODED else opened) for g, opened in self.sections]
        return replace(self, sections=sections)


class Aggregator:
    """The partial sum of one round's updates. Several threads may add to it at the same time.

    Args:
        layout: of the model.
        templates: the sections that every update must have, in order (from the broadcast).
        method, round, max_clients, weighted, limits, planes: as in `RoundPlan`.
        threads: worker threads for models above a million elements, by default as many as there are cores; the result
            does not depend on it.
        state: what clients were shown, float32, shape (layout.size,); only codecs that are bound to it need it.
        caps: how much one client moves at most; by default as much as the limits allow.
        keep_bodies: whether the bytes of what waits for the close are kept, to be sent on.

    Attributes:
        plan: what partial sums agree on.
        admission: which frames are taken, and whose were.
        sums: the exact sum.
        side: dense tensors and statistics.
        tally: what codecs say of the tensors.
        census: how large updates and weights were, for the caps of the next round.
        kept: whole updates that wait for the close, in a round that clips by its own median.
        bodies: of each update in order the bytes of what waits, by group; None where they are not kept.
        lock: held while the sum changes, and by whoever must not be disturbed by that.

    Raises:
        ConfigError: if a template names no group of the layout, a codec lacks a plane or its state, or max_clients or
            threads is below 1.
    """

    def __init__(
        self,
        layout: Layout,
        templates: Sequence[Section],
        *,
        method: int,
        round: int,
        max_clients: int,
        weighted: bool = True,
        limits: Limits = DEFAULT_LIMITS,
        threads: int | None = None,
        planes: Sequence[Plane] = (Plane.VALUE,),
        state: NDArray[np.float32] | None = None,
        caps: RoundCaps | None = None,
        keep_bodies: bool = False,
    ) -> None:
        self.plan = RoundPlan(
            layout=layout,
            templates=tuple(t.template for t in templates),
            method=method,
            round=round,
            max_clients=max_clients,
            weighted=weighted,
            limits=limits,
            planes=tuple(planes),
            caps=caps,
        )
        self.admission = Admission(self.plan, state)
        self.sums = ExactSum(self.plan, self.admission.codecs, cores() if threads is None else threads)
        self.side = SideData(layout, caps)
        self.tally, self.census = Tally(layout), Census()
        self.lock, self._state = Lock(), state
        self.kept: list[Update] = []
        self.bodies: list[Bodies] | None = [] if keep_bodies else None
        self._folded, self._stopped = 0, False

    def empty(self) -> "Aggregator":
        """Return another part of the same round, without updates."""
        return self.part_of(self.plan, self._state, self.sums.threads)

    @classmethod
    def part_of(cls, plan: RoundPlan, state: NDArray[np.float32] | None, threads: int | None = None) -> "Aggregator":
        """Return a part of a planned round, without updates, which keeps what is to be sent on.

        Args:
            plan, threads: of the round, and for the fold of models above a million elements (by default all cores).
            state: that clients are shown, float32, shape (layout.size,), where the codec needs it.
        """
        return cls(
            plan.layout,
            plan.templates,
            method=plan.method,
            round=plan.round,
            max_clients=plan.max_clients,
            weighted=plan.weighted,
            limits=plan.limits,
            threads=threads,
            planes=plan.planes,
            state=state,
            caps=plan.caps,
            keep_bodies=True,
        )

    @property
    def count(self) -> int:
        """The number of frames folded so far."""
        return self.admission.count

    @property
    def total_weight(self) -> int:
        """The weight of the frames folded so far."""
        if not self.kept:
            return self.admission.total_weight
        closed = replace(self.plan, caps=self._first().closed(self.census))
        return sum(min(update.weight, closed.max_weight) for update in self.kept)

    def add(self, frame: Frame, noise_key: int, client: int | str | None = None) -> None:
        """Fold one update; all or nothing. Frames are checked at the same time, and folded one after the other.

        Args:
            frame: as parsed; its bytes must not change until the round is closed.
            noise_key: the key that this client was sent.
            client: who sent it, where clients share a noise key; else the key tells them apart.

        Raises:
            FrameError: one subclass for each cause; the sum is then as it was before.
            FedmrnError: if a fold was interrupted half-way.
        """
        self._check_open()
        sender = noise_key if client is None else client
        sections = self.admission.open(frame, noise_key, sender)
        update = Update(sections, frame.weight, self.side.measure(sections))
        bodies = {s.group: s.body for s in frame.sections if self.plan.waits(s.group)}
        with self.lock:
            self._check_open()  # another thread may have finished the round
            self.admission.check_sender(sender)  # another thread may have been first
            with self.sums:
                if self.plan.caps is not None and self.plan.caps.first:
                    self.kept.append(update)
                else:
                    self._fold(update)
                self.note(update)
                self.admission.note(sender, self.admission.weight(frame))
                if self.bodies is not None:
                    self.bodies.append(bodies)

    def stop(self, *, empty: bool = False) -> None:
        """Take no more frames: what is read from now on belongs together.

        Args:
            empty: whether there may be none.

        Raises:
            EmptyRoundError: if no frame was folded; more are taken then.
        """
        with self.lock:
            if not empty:
                self.admission.check_any()
            self._stopped = True

    def _check_open(self) -> None:
        if self._stopped:
            raise WrongRoundError(f"round {self.plan.round} is finished: its sum is closed")

    def note(self, update: Update) -> None:
        """Note what an update says of its tensors, and claims."""
        self.census.weights.append(update.weight)
        self.census.values.append(update.magnitudes)
        for group, opened in update.sections:
            if group is Group.CODED:
                self.tally.add(opened)
                wanted = opened.wanted_scales()
                if wanted is not None:
                    self.census.scales.append(wanted)

    def _fold(self, update: Update) -> None:
        weight = min(update.weight, self.sums.plan.max_weight)
        for group, opened in update.sections:
            if group is Group.CODED:
                self.sums.add(group, Contribution(opened, weight))
        self.side.add(self.sums, update.sections, weight, update.magnitudes)

    def _fold_kept(self) -> None:
        """Make the sum that of the updates that were kept, clipped now that all are known."""
        if self._folded == len(self.kept):
            return
        caps = self._first().closed(self.census)
        plan = replace(self.plan, caps=caps)
        self.sums = ExactSum(plan, self.admission.codecs, self.sums.threads)
        self.side = SideData(plan.layout, caps)
        with self.sums:
            for update in self.kept:
                self._fold(update.capped(caps.scales))
        self._folded = len(self.kept)

    def _first(self) -> RoundCaps:
        if self.plan.caps is None:
            raise ConfigError("only a round with caps keeps updates")
        return self.plan.caps

    def observed(self) -> dict[str, dict[str, float]]:
        """Return what the codec says of each coded tensor, by name of the observable and of the tensor: a mean."""
        return self.tally.means(self.count)

    def merge(self, other: "Aggregator") -> None:
        """Add another partial sum of the same round; all or nothing.

        Raises:
            ConfigError, DuplicateFrameError, LimitError: as `Admission.check_merge`.
            WrongRoundError: this one takes no more frames.
            FedmrnError: if a fold of either was interrupted half-way, or the other is closed.
        """
        if other is self:
            raise DuplicateFrameError("both hold the frames of the same clients: they are one aggregator")
        first, second = sorted((self, other), key=id)  # two that merge each other must not wait for each other
        with first.lock, second.lock:
            self._check_open()
            self.sums.check_whole()
            other.sums.check_whole()
            self.admission.check_merge(other.admission)
            self.sums.settle()
            other.sums.settle()
            with self.sums:
                self.sums.merge(other.sums)
                self.side.merge(other.side)
                self.kept += other.kept
                if self.bodies is not None:
                    self.bodies += other.bodies or []
                self.tally.merge(other.tally)
                self.census.merge(other.census)
                self.admission.merge(other.admission)

    def finish(self) -> NDArray[np.float32]:
        """Return the weighted mean of the updates, float32, shape (layout.size,); of the coded group, the first plane.

        Raises:
            EmptyRoundError: if no frame was folded.
            FedmrnError: if a fold was interrupted half-way, or the aggregator is closed.
        """
        with self.lock:
            weight = self._settled_weight()  # first: it may make the sum
            return self.sums.mean(weight)

    def finish_plane(self, plane: Plane) -> NDArray[np.float32]:
        """Return the weighted mean of one plane of the coded group, float32, shape (elements of it,).

        Raises:
            EmptyRoundError, FedmrnError: as `finish`; ValueError: the plane was not asked for.
        """
        with self.lock:
            weight = self._settled_weight()
            return self.sums.plane_mean(plane, weight)

    def close(self) -> NDArray[np.float32]:
        """Return the mean in the sum's own memory; nothing can be added or read afterwards."""
        with self.lock:
            weight = self._settled_weight()
            self._stopped = True
            mean = self.sums.close(weight)
            self.admission.total_weight = weight
            self.side, self.kept = SideData(self.plan.layout, self.plan.caps), []
            return mean

    def _settled_weight(self) -> int:
        """Fold what is kept until the close, and return the total weight."""
        self.sums.check_whole()
        self.admission.check_any()
        self._fold_kept()
        with self.sums:
            self.side.settle(self.sums)
        return self.total_weight
