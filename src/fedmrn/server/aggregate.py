"""The aggregator: checks one round's updates and folds them, in O(d) memory, into their exact weighted mean."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import Plane
from fedmrn.numerics.threads import cores
from fedmrn.server.admission import Admission
from fedmrn.server.fold import ExactSum
from fedmrn.server.plan import RoundPlan
from fedmrn.server.tally import Tally
from fedmrn.wire.frame import DEFAULT_LIMITS, Frame, Limits, Section
from fedmrn.wire.layout import Group, Layout


class Aggregator:
    """The partial sum of one round's updates.

    Args:
        layout: of the model.
        templates: the sections that every update must have, in order (from the broadcast).
        method, round, max_clients, weighted, limits, planes: as in `RoundPlan`.
        threads: worker threads for models above a million elements, by default as many as there are cores; the result
            does not depend on it.
        state: what clients were shown, float32, shape (layout.size,); only codecs that are bound to it need it.

    Attributes:
        plan: what partial sums agree on.
        admission: which frames are taken, and whose were.
        sums: the exact sum.
        tally: what codecs say of the tensors.

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
        )
        self.admission = Admission(self.plan, state)
        self.sums = ExactSum(self.plan, self.admission.codecs, cores() if threads is None else threads)
        self.tally = Tally(layout)

    @property
    def count(self) -> int:
        """The number of frames folded so far."""
        return self.admission.count

    @property
    def total_weight(self) -> int:
        """The weight of the frames folded so far."""
        return self.admission.total_weight

    def add(self, frame: Frame, noise_key: int, client: int | str | None = None) -> None:
        """Fold one update; all or nothing. One thread at a time: give each thread an aggregator, and merge them.

        Args:
            frame: as parsed.
            noise_key: the key that this client was sent.
            client: who sent it, where clients share a noise key; else the key tells them apart.

        Raises:
            FrameError: one subclass for each cause; the sum is then as it was before.
            FedmrnError: if a fold was interrupted half-way, or the aggregator is closed.
        """
        sender = noise_key if client is None else client
        self.sums.check_whole()
        sections, weight = self.admission.open(frame, noise_key, sender), self.admission.weight(frame)
        with self.sums:
            self.sums.add(sections, weight)
            for group, opened in sections:
                if group is Group.CODED:
                    self.tally.add(opened)
            self.admission.note(sender, weight)

    def observed(self) -> dict[str, dict[str, float]]:
        """Return what the codec says of each coded tensor, by name of the observable and of the tensor: a mean."""
        return self.tally.means(self.count)

    def merge(self, other: "Aggregator") -> None:
        """Add another partial sum of the same round; all or nothing.

        Raises:
            ConfigError, DuplicateFrameError, LimitError: as `Admission.check_merge`.
            FedmrnError: if a fold of either was interrupted half-way, or it is closed.
        """
        self.sums.check_whole()
        other.sums.check_whole()
        self.admission.check_merge(other.admission)
        self.sums.settle()
        other.sums.settle()
        with self.sums:
            self.sums.merge(other.sums)
            self.tally.merge(other.tally)
            self.admission.merge(other.admission)

    def finish(self) -> NDArray[np.float32]:
        """Return the weighted mean of the updates, float32, shape (layout.size,); of the coded group, the first plane.

        Raises:
            EmptyRoundError: if no frame was folded.
            FedmrnError: if a fold was interrupted half-way, or the aggregator is closed.
        """
        return self.sums.mean(self._folded_weight())

    def finish_plane(self, plane: Plane) -> NDArray[np.float32]:
        """Return the weighted mean of one plane of the coded group, float32, shape (elements of it,).

        Raises:
            EmptyRoundError, FedmrnError: as `finish`; ValueError: the plane was not asked for.
        """
        return self.sums.plane_mean(plane, self._folded_weight())

    def close(self) -> NDArray[np.float32]:
        """Return the mean in the sum's own memory; nothing can be added or read afterwards."""
        return self.sums.close(self._folded_weight())

    def _folded_weight(self) -> int:
        self.sums.check_whole()
        self.admission.check_any()
        return self.total_weight
