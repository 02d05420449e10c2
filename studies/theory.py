"""Measured rates of convergence beside those of the theorem: O(1/T) if strongly convex, O(1/sqrt(T)) if not convex.

    python studies/theory.py [--quick] [--docs]

Small losses (federations.py), many federations at once in plain numpy (theory_runs.py). A slope is fitted by least
squares on log-log axes to the curve of each federation. The interval is Student's t, 95 %, of the mean slope over
federations whose data, start, clients, batches, noise and masks are all drawn anew.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from federations import STEPS, Plan, Problem, bounded, floor_of_clipping, logistic, ridge
from intervals import interval
from marked_pages import fill
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from theory_runs import Federations, dice, run

from fedmrn.numerics.noise import Law

DOCS = Path(__file__).parent.parent / "docs"
BEGIN = "<!-- study theory -->"
F64 = NDArray[np.float64]
FIXED_AT = 16
"""A scale that does not shrink is the one that the shrinking one has in this round, or at this horizon."""


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        rounds: of a strongly convex run.
        first: the first of them that a slope is fitted to.
        bins: of equal width on the logarithmic axis; a point is the mean of a bin.
        horizons: rounds of the runs that are not convex.
        seeds: of everything that is drawn, data included; a federation each.
    """

    rounds: int = 3200
    first: int = 32
    bins: int = 16
    horizons: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048)
    seeds: tuple[int, ...] = tuple(range(1, 61))


QUICK = Size(rounds=64, first=4, bins=8, horizons=(4, 8, 16, 32), seeds=(1, 2, 3))


@dataclass(frozen=True)
class Setting:
    """A loss, what rates it is trained with, and the noise that fits its gradients.

    Attributes:
        problem: the loss, by the seed of its data.
        slope: of the theorem.
        room: the scale of the noise over the rate and the local steps; a few times what a gradient's element is, so
            that hardly any update is clipped.
        rate: of runs that are not convex, times the square root of all local steps.
        plans: which are run.
    """

    problem: Callable[[int], Problem]
    slope: float
    room: float
    rate: float
    plans: tuple[str, ...]


_MAIN = ("FedAvg", "binary", "signed", "binary, fixed scale", "signed, fixed scale")
SETTINGS: Mapping[str, Setting] = {
    "ridge": Setting(cache(ridge), -1.0, 2.0, 0.0, (*_MAIN, "binary, uniform noise", "signed, uniform noise")),
    "logistic": Setting(cache(logistic), -1.0, 0.4, 0.0, _MAIN),
    "bounded": Setting(cache(bounded), -0.5, 0.4, 2.0, _MAIN),
}
TITLES = {
    "ridge": "Ridge regression",
    "logistic": "Logistic regression",
    "bounded": "Logistic regression, bounded penalty (not convex)",
}
METHODS = {"FedAvg": "fedavg", "binary": "fedmrn", "signed": "fedmrn-s"}
COLOURS = {"FedAvg": "#4c566a", "binary": "#d1495b", "signed": "#2a7fba"}


@cache
def curvature(name: str, seed: int = 0) -> tuple[float, float]:
    """Return mu and L of a strongly convex loss, at its optimum."""
    problem = SETTINGS[name].problem(seed)
    found = np.linalg.eigvalsh(problem.hessian(problem.optimum[0]))
    return float(found[0]), float(found[-1])


def decaying(name: str, r: float, seed: int = 0) -> float:
    """Return 2 / (mu (8 L / mu + t)), t the local steps before round r + 1: the step size of strongly convex FedAvg."""
    mu, most = curvature(name, seed)
    return 2 / (8 * most + mu * STEPS * r)


def constant(name: str, horizon: float) -> float:
    """Return the rate of a run that is not convex: as one over the square root of all local steps."""
    return SETTINGS[name].rate / float(np.sqrt(STEPS * horizon))


def plan(name: str, label: str, seed: int, horizon: int = 0) -> Plan:
    """Return a plan by its label, for the data of a seed; a horizon where the loss is not convex."""
    setting, (kind, _, option) = SETTINGS[name], label.partition(", ")
    rates = partial(constant, name) if horizon else partial(decaying, name, seed=seed)

    def rate(r: int) -> float:
        return rates(horizon or r)

    def scale(r: int) -> float:
        return setting.room * STEPS * rates(FIXED_AT if option == "fixed scale" else horizon or r)

    return Plan(METHODS[kind], rate, scale, Law.UNIFORM if option == "uniform noise" else Law.BERNOULLI)


def expected(name: str, label: str) -> float:
    """Return the theorem's slope, or, where the scale does not shrink, the one that docs/theory.md derives."""
    kind, _, option = label.partition(", ")
    if option != "fixed scale":
        return SETTINGS[name].slope
    return 0.0 if kind == "binary" else -SETTINGS[name].slope


def measure(name: str, label: str, size: Size) -> F64:
    """Return what slopes are fitted to, a row a seed: the gap after each round, or the mean squared gradient of each
    horizon's run.
    """
    problems = [SETTINGS[name].problem(seed) for seed in size.seeds]
    together = Federations(problems)

    def states(horizon: int, rounds: int) -> Iterator[F64]:
        plans = [plan(name, label, seed, horizon) for seed in size.seeds]
        return run(together, plans, rounds, size.seeds, dice(size.seeds))

    if SETTINGS[name].slope == -1.0:
        least = np.array([problem.optimum[1] for problem in problems])
        gaps: F64 = np.stack([together.values(w) for w in states(0, size.rounds)], 1) - least[:, None]
        return gaps
    squares = ([together.square_gradients(w) for w in states(h, h)] for h in size.horizons)
    return np.stack([np.mean(found[:-1], axis=0) for found in squares], 1)


def points(name: str, values: Sequence[float] | F64, size: Size) -> tuple[F64, F64]:
    """Return rounds and values of one seed: means over bins of rounds, or one for each horizon."""
    if SETTINGS[name].slope != -1.0:
        return np.array(size.horizons, np.float64), np.array(values)
    edges = np.round(np.geomspace(size.first, size.rounds + 1, size.bins + 1)).astype(int)
    parts = [np.arange(a, b) for a, b in pairwise(edges)]
    gap = np.array(values)
    return np.array([np.exp(np.log(p).mean()) for p in parts]), np.array([gap[p].mean() for p in parts])


def slope(x: F64, y: F64) -> float:
    """Return the slope of log y over log x by least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def halves(points: int) -> tuple[slice, slice]:
    """Return where the earlier and the later half of points are; a middle one is in both."""
    return slice(0, (points + 1) // 2), slice(points // 2, points)


Results = Mapping[tuple[str, str], F64]
"""(setting, label) -> values, a row a seed."""


def measured(size: Size, console: Console) -> Results:
    """Measure everything."""
    todo = [(name, label) for name, setting in SETTINGS.items() for label in setting.plans]
    shown = track(todo, "measuring", console=console, disable=not console.is_terminal)
    return {(name, label): measure(name, label, size) for name, label in shown}


def curves(name: str, values: F64, size: Size) -> tuple[F64, F64]:
    """Return rounds, and the points of every seed, a row each."""
    pairs = [points(name, line, size) for line in values]
    return pairs[0][0], np.stack([y for _, y in pairs])


HEADER = (
    "loss",
    "method",
    "theorem or derivation",
    "slope, earlier rounds",
    "slope, later rounds",
    "last point",
    "over FedAvg's",
)


def rows(results: Results, size: Size) -> Iterator[tuple[str, ...]]:
    """Yield a row a setting and plan: the expected slope, the measured ones, and where the curve ends."""
    for (name, label), values in results.items():
        x, lines = curves(name, values, size)
        fits = [interval([slope(x[part], y[part]) for y in lines]) for part in halves(x.size)]
        over = lines[:, -1] / curves(name, results[name, "FedAvg"], size)[1][:, -1]
        yield (
            TITLES[name],
            label,
            f"{expected(name, label):+g}",
            *(f"{mean:+.3f} ± {half:.3f}" for mean, half in fits),
            f"{lines[:, -1].mean():.1e}",
            f"{np.exp(np.log(over).mean()):.3g}",
        )


def ranges(size: Size) -> str:
    """Return in words which rounds the two slopes are of."""
    rounds = np.round(np.geomspace(size.first, size.rounds + 1, size.bins + 1)).astype(int)
    parts = [f"{rounds[part.start]} to {rounds[part.stop] - 1}" for part in halves(size.bins)]
    chosen = [size.horizons[part] for part in halves(len(size.horizons))]
    horizons = [f"{part[0]} to {part[-1]}" for part in chosen]
    return (
        f"{len(size.seeds)} federations; strongly convex: rounds {parts[0]}, then {parts[1]}; "
        f"not convex: runs of {horizons[0]} rounds, then of {horizons[1]}"
    )


def show(results: Results, size: Size) -> Table:
    """The rows as a table."""
    table = Table(*HEADER, caption=ranges(size))
    for row in rows(results, size):
        table.add_row(*row)
    return table


def draw(results: Results, size: Size) -> Figure:
    """One panel a loss: means over seeds, the band from the lowest to the highest, and the theorem's slope."""
    figure = Figure(figsize=(15, 5), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(SETTINGS))
    for axes, name in zip(panels, SETTINGS, strict=True):
        _panel(axes, name, {label: v for (n, label), v in results.items() if n == name}, size)
    return figure


def _panel(axes: Axes, name: str, results: Mapping[str, F64], size: Size) -> None:
    for label, values in results.items():
        kind, _, option = label.partition(", ")
        x, lines = curves(name, values, size)
        style = {"": "-", "fixed scale": "--", "uniform noise": ":"}[option]
        axes.plot(x, lines.mean(0), style, color=COLOURS[kind], label=label, marker="o", markersize=3)
        axes.fill_between(x, lines.min(0), lines.max(0), color=COLOURS[kind], alpha=0.12, linewidth=0)
        if label == "FedAvg":
            theorem = lines.mean(0)[0] * (x / x[0]) ** SETTINGS[name].slope
            axes.plot(x, theorem, "-", color="#bbbbbb", linewidth=4, zorder=0, label=f"slope {SETTINGS[name].slope:g}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    convex = SETTINGS[name].slope == -1.0
    axes.set_xlabel("round T" if convex else "rounds T of the run")
    axes.set_ylabel("f(w) - f*" if convex else "mean squared norm of the gradient")
    axes.set_title(TITLES[name])
    axes.grid(True, which="both", alpha=0.2)
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)


def publish(results: Results, size: Size, docs: Path) -> None:
    """Write the picture, and the table between the marks of the page."""
    draw(results, size).savefig(docs / "theory.png")
    fill(docs / "theory.md", BEGIN, HEADER, rows(results, size), 2)


def main() -> None:
    """Measure, print the table, write the page if asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds and seeds, to see that it works")
    parser.add_argument("--docs", action="store_true", help="write the table and the picture of docs/theory.md")
    parser.add_argument("--folder", type=Path, default=DOCS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = QUICK if options.quick else Size()
    results = measured(size, Console(stderr=True))
    out = Console(width=None if sys.stdout.isatty() else 140)
    out.print(show(results, size))
    floors = [floor_of_clipping(SETTINGS["ridge"].problem(seed), SETTINGS["ridge"].room) for seed in size.seeds]
    out.print(f"ridge with uniform noise: the bias of clipping leaves {np.mean(floors):.1e}", highlight=False)
    if options.docs:
        publish(results, size, options.folder)


if __name__ == "__main__":
    main()
