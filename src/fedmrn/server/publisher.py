"""The server's side of public models: which one is current, who holds which, and what each client is sent.

A client holds the public model of a round once its update of that round is folded: the update repeats a noise key that
only that broadcast had. Nothing else counts, and a reply that is lost costs nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import sqrt
from threading import RLock

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import BoundError, ConfigError, RoundOrderError
from fedmrn.server.grid import PublicGrid
from fedmrn.wire.frame import Section
from fedmrn.wire.grid import Points, from_body
from fedmrn.wire.held import Held
from fedmrn.wire.layout import Group, Layout
from fedmrn.wire.public import Heading, PublicModel, groups_of, public_sections, tag_of

F32 = NDArray[np.float32]
Bodies = Mapping[Group, bytes]
_EPS = 1e-5  # what normalisation layers add to a variance, for the most part
CLAIMS = 2
"""A client that lost what it held so often is sent the whole model from then on."""


class Sent(StrEnum):
    """How a public model is sent to a client, and why whole."""

    DIFFERENCE = "difference"
    NEW = "new"
    """Whole: the client holds none yet."""
    LOST = "lost"
    """Whole: it lost what it held."""
    GAP = "gap"
    """Whole: what it holds is older than the server can go back to."""
    SHORTER = "shorter"
    """Whole: the difference would have been longer."""


@dataclass(frozen=True)
class Published:
    """What a server keeps of its public models.

    Attributes:
        start: the weights that the run started with, float32, shape (layout.size,).
        number: of the current public model.
        models: whole public models by number, the current one among them.
        held: client -> number of the public model that it holds.
        lost: client -> how often it lost what it held.
    """

    start: F32 = field(repr=False)
    number: int = 0
    models: Mapping[int, Bodies] = field(default_factory=dict, repr=False)
    held: Mapping[int | str, int] = field(default_factory=dict, repr=False)
    lost: Mapping[int | str, int] = field(default_factory=dict, repr=False)


class Publisher:
    """Chooses public models, and what each client is sent of them. Several threads may ask at the same time.

    Args:
        layout: of the model.
        grid: the law by which they are chosen.
        run: the run's id.
        state: the server's exact state.
        kept: what an earlier server of the run kept; None at a run's start, which this state then is.

    Attributes:
        start: the weights that the run started with, float32, shape (layout.size,), read-only.
        current: the current public model.

    Raises:
        ConfigError: the model has no elements.
    """

    def __init__(self, layout: Layout, grid: PublicGrid, run: bytes, state: F32, kept: Published | None = None) -> None:
        if not groups_of(layout):
            raise ConfigError("a model without elements has no public model: set down to float32")
        self.layout, self.grid, self.tag = layout, grid, tag_of(run)
        self.start = state.copy() if kept is None else kept.start.view()
        self.start.flags.writeable = False
        self._held, self._lost = dict(kept.held if kept else {}), dict(kept.lost if kept else {})
        self._models: dict[int, Bodies] = dict(kept.models if kept else {})
        self._sections: dict[int | None, tuple[Section, ...]] = {}
        self._lock = RLock()  # around what belongs to the current model: who holds which is a dictionary's own matter
        if kept is None:
            self.current = self._model(0, {group: self._next(group, None, state) for group in groups_of(layout)})
        else:
            self.current = self._kept(kept.number)
            self.publish(state)

    def publish(self, state: F32) -> None:
        """Choose the public model of a new state; where no number moves, it is the one before."""
        parts = {group: self._next(group, points, state) for group, points in self.current.parts.items()}
        before = self.current.parts
        if all(
            np.array_equal(before[g].numbers, p.numbers) and np.array_equal(before[g].exponents, p.exponents)
            for g, p in parts.items()
        ):
            return
        with self._lock:
            self._replace(parts)

    def _replace(self, parts: Mapping[Group, Points]) -> None:
        wanted = set(self._held.values())
        if self.current.number in wanted:
            self._models[self.current.number] = self.current.bodies
        newest = sorted(wanted & self._models.keys())[-self.grid.rounds :]
        self._models = {number: self._models[number] for number in newest}
        self.current = self._model(self.current.number + 1, parts)
        self._sections = {}

    def sent(self, client: int | str) -> Sent:
        """Return how this client is sent the current public model."""
        with self._lock:
            return self._sent(client, self._held.get(client))

    def _sent(self, client: int | str, held: int | None) -> Sent:
        if self._lost.get(client, 0) >= CLAIMS:
            return Sent.LOST
        if held is None:
            return Sent.LOST if client in self._lost else Sent.NEW
        if held != self.current.number and held not in self._models:
            return Sent.GAP
        return Sent.DIFFERENCE if self._of(held)[0].params != self._of(None)[0].params else Sent.SHORTER

    def sections(self, client: int | str, number: int) -> tuple[Section, ...]:
        """Return what this client is sent, so that it holds public model `number`; clients that hold the same share it.

        Raises:
            RoundOrderError: that is not the current one any more.
        """
        with self._lock:
            if number != self.current.number:
                raise RoundOrderError(
                    f"public model {number} is not sent any more: the server has gone on to public model "
                    f"{self.current.number}"
                )
            held = self._held.get(client)
            return self._of(held if self._sent(client, held) is Sent.DIFFERENCE else None)

    def folded(self, client: int | str, number: int) -> None:
        """Note that an update was folded of a client that had trained from this public model."""
        self._held[client] = max(number, self._held.get(client, number))  # it may be of a round that another overtook

    def claimed(self, client: int | str) -> None:
        """Note that a client says that it does not hold what it was thought to."""
        if self._held.pop(client, None) is not None:
            self._lost[client] = self._lost.get(client, 0) + 1

    def held_by(self, client: int | str) -> Held:
        """Return what a client that lost nothing has kept; for a simulation that goes on."""
        held, number = Held(self.layout), self._held.get(client)
        with self._lock:
            if number is not None and (number == self.current.number or number in self._models):
                held.keep(self._kept(number), Heading(number, None, self.tag, None, b""))
        return held

    def snapshot(self) -> Published:
        """Return all that must be kept, with the current model."""
        with self._lock:
            models = {**self._models, self.current.number: self.current.bodies}
            return Published(self.start, self.current.number, models, dict(self._held), dict(self._lost))

    def _of(self, base: int | None) -> tuple[Section, ...]:
        """Return the sections for clients that hold this public model: whole where that is shorter."""
        if base not in self._sections:
            whole = public_sections(self.current, self.tag) if base is None else self._of(None)
            self._sections[base] = whole
            if base is not None:
                try:
                    changed = public_sections(self.current, self.tag, self._kept(base))
                except BoundError:  # it cannot be expressed in steps that became much finer
                    changed = whole
                if sum(s.size for s in changed) <= sum(s.size for s in whole):
                    self._sections[base] = changed
        return self._sections[base]

    def _kept(self, number: int) -> PublicModel:
        if number not in self._models:
            return self.current
        bodies = self._models[number]
        return self._model(number, {group: from_body(self.layout, group, body) for group, body in bodies.items()})

    def _model(self, number: int, parts: Mapping[Group, Points]) -> PublicModel:
        return PublicModel(self.layout, number, parts, self.start if self.grid.from_start else None)

    def _next(self, group: Group, before: Points | None, state: F32) -> Points:
        where = self.layout.span(group)
        deviations = _deviations(self.layout, state) if group is Group.STATS else ()
        return self.grid.next(self.layout, group, before, state[where], self.start[where], deviations)


def _deviations(layout: Layout, state: F32) -> list[float | None]:
    """Return the least deviation of a feature, for each tensor of running means that is not empty.

    None where the model has no variances that belong to it.
    """
    shapes = {tensor.name: tensor.shape for tensor in layout.tensors if tensor.group is Group.VARIANCE}
    found = list[float | None]()
    for tensor in layout.tensors:
        if tensor.group is Group.STATS and tensor.size:
            other = tensor.name.removesuffix("running_mean") + "running_var"
            known = shapes.get(other) == tensor.shape
            found.append(sqrt(float(state[layout.slices[other]].min()) + _EPS) if known else None)
    return found
