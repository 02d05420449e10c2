"""What studies/grid_theory.py measures: which clients, grids and rates, and the means that its tables are made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from federations import Problem
from grid_runs import EXACT, F64, Clients, Grid, gaps, run
from theory import SETTINGS, Size, decaying

RATE = 0.05
ROOM = SETTINGS["ridge"].room
STEPS = tuple(2.0**-n for n in range(5, -2, -1))
HYSTERESES = (0.0, 0.25, 0.5)
CHOSEN = (0.125, 0.5)
"""The steps of which the second table shows the details."""
OFTEN = Size(rounds=4000, seeds=tuple(range(1, 9)))
SELDOM = Size(rounds=1000, seeds=OFTEN.seeds)
"""Without dice a run soon repeats itself; its seeds differ in the grid's origin alone."""
SHRINKING = Size(rounds=2560, first=40, bins=6, seeds=OFTEN.seeds)


@dataclass(frozen=True)
class Series:
    """Clients, and what is measured with them.

    Attributes:
        clients: how they make updates.
        size: rounds and seeds.
        fitted: the steps that a slope is fitted to; where dice are loud, the excess of small ones is lost in them.
        states: of the server, beside the one that is kept.
        hystereses: of the servers that keep their state.
    """

    clients: Clients
    size: Size
    fitted: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    states: tuple[str, ...] = ()
    hystereses: tuple[float, ...] = HYSTERESES

    @property
    def grids(self) -> list[Grid]:
        """The exact broadcast, then each step with each hysteresis, then the states that are not kept."""
        kept = [Grid(step, h) for h in self.hystereses for step in STEPS]
        return [EXACT, *kept, *(Grid(step, state=state) for state in self.states for step in STEPS)]


def _fixed(_: int) -> float:
    return RATE


def _slow(_: int) -> float:
    return RATE / 4


ROUNDED = ("rounded", "at random")
SERIES: Mapping[str, Series] = {
    "FedAvg": Series(Clients(_fixed), OFTEN, states=ROUNDED),
    "FedAvg, no dice": Series(Clients(_fixed, whole=True), SELDOM, states=ROUNDED),
    "FedAvg, no dice, rate / 4": Series(Clients(_slow, whole=True), OFTEN, states=ROUNDED, hystereses=(0.0,)),
    "binary": Series(Clients(_fixed, "binary", ROOM), OFTEN),
    "signed": Series(Clients(_fixed, "signed", ROOM), OFTEN, fitted=(0.25, 0.5, 1.0)),
}
SHRINKS: Mapping[str, Grid] = {
    "exact": EXACT,
    "step 1/2": Grid(0.5, 0.25),
    "step as the root of the rate": Grid(1.0, 0.25, shrinks="root"),
    "step as the rate": Grid(1.0, 0.25, shrinks="rate"),
    "step halved on stall": Grid(1.0, 0.25, shrinks="on stall"),
    "state rounded, step as the rate": Grid(1.0, state="rounded", shrinks="rate"),
}
RATES: Mapping[str, tuple[str, Clients, tuple[str, ...]]] = {
    "FedAvg, 1/t": ("FedAvg", Clients(partial(decaying, "ridge")), tuple(SHRINKS)),
    "binary, 1/t": ("binary", Clients(partial(decaying, "ridge"), "binary", ROOM), tuple(SHRINKS)),
    "FedAvg, fixed": ("FedAvg", Clients(_fixed), ("exact", "step 1/2", "step halved on stall")),
}
"""Updates and learning rate -> colour, clients, and which grids."""


@dataclass(frozen=True)
class Floor:
    """Means over the later half of a run.

    Attributes:
        v: gaps of the public model, one a seed.
        w: gaps of the server's state.
        error: the squared error of an element of v, over step^2.
        moved: the share of elements of v that a round moves.
    """

    v: F64
    w: F64
    error: float
    moved: float


Floors = Mapping[tuple[str, Grid], Floor]
Curves = Mapping[tuple[str, str], F64]
"""(rate, grid) -> gaps of v, shape (seeds, rounds + 1)."""


def floors(problem: Problem, series: Mapping[str, Series]) -> Floors:
    """Run each series."""
    found = {}
    for name, s in series.items():
        shape = (len(s.size.seeds), len(s.grids))
        v_sum, w_sum, error, moved = (np.zeros(shape) for _ in range(4))
        first, before = s.size.rounds // 2, None
        for r, (w, v) in enumerate(run(problem, s.clients, s.grids, s.size.rounds, s.size.seeds)):
            if r > first:
                v_sum, w_sum = v_sum + gaps(problem, v), w_sum + gaps(problem, w)
                error, moved = error + np.square(v - w).mean(1), moved + (v != before).mean(1)
            before = v
        for j, grid in enumerate(s.grids):
            n, square = s.size.rounds - first, grid.step**2 or 1.0
            more = float(error[:, j].mean()) / n / square, float(moved[:, j].mean()) / n
            found[name, grid] = Floor(v_sum[:, j] / n, w_sum[:, j] / n, *more)
    return found


def curves(problem: Problem, size: Size) -> Curves:
    """Run every rate of learning with its grids."""
    found = {}
    for name, (_, clients, labels) in RATES.items():
        states = run(problem, clients, [SHRINKS[label] for label in labels], size.rounds, size.seeds)
        gap = np.stack([gaps(problem, v) for _, v in states])
        found.update({(name, label): gap[:, :, j].T for j, label in enumerate(labels)})
    return found
