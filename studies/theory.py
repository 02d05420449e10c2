"""Measured rates of convergence beside those of the theorem: O(1/T) if strongly convex, O(1/sqrt(T)) if not convex.

    python studies/theory.py [--quick] [--docs]

Real frames, server and clients on small losses (studies/federations.py). Slopes are least squares on log-log axes, one
for each seed; the interval is Student's t over seeds. What is measured is kept in a file; a run that stopped goes on.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from federations import (
    STEPS,
    Plan,
    Problem,
    bounded,
    floor_of_clipping,
    gaps,
    logistic,
    mean_square_gradient,
    ridge,
    run,
)
from intervals import interval
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fedmrn.files import write_atomic
from fedmrn.numerics.noise import Law

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
BEGIN, END = "<!-- study theory -->", "<!-- end -->"
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
        seeds: of client sampling, batches, noise and masks; data and start are the same for all.
    """

    rounds: int = 320
    first: int = 40
    bins: int = 8
    horizons: tuple[int, ...] = (32, 64, 128, 256)
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)


QUICK = Size(rounds=48, first=12, bins=4, horizons=(4, 16), seeds=(1, 2))


@dataclass(frozen=True)
class Setting:
    """A loss, what rates it is trained with, and the noise that fits its gradients.

    Attributes:
        problem: the loss.
        slope: of the theorem.
        room: the scale of the noise over the rate and the local steps; a few times what a gradient's element is, so
            that hardly any update is clipped.
        rate: of runs that are not convex, times the square root of all local steps.
        plans: which are run.
    """

    problem: Callable[[], Problem]
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
def curvature(name: str) -> tuple[float, float]:
    """Return mu and L of a strongly convex loss, at its optimum."""
    problem = SETTINGS[name].problem()
    found = np.linalg.eigvalsh(problem.hessian(problem.optimum[0]))
    return float(found[0]), float(found[-1])


def decaying(name: str, r: float) -> float:
    """Return 2 / (mu (8 L / mu + t)), t the local steps before round r + 1: the step size of strongly convex FedAvg."""
    mu, most = curvature(name)
    return 2 / (8 * most + mu * STEPS * r)


def constant(name: str, horizon: float) -> float:
    """Return the rate of a run that is not convex: as one over the square root of all local steps."""
    return SETTINGS[name].rate / float(np.sqrt(STEPS * horizon))


def plan(name: str, label: str, horizon: int = 0) -> Plan:
    """Return a plan by its label; a horizon where the loss is not convex."""
    setting, (kind, _, option) = SETTINGS[name], label.partition(", ")
    rates = partial(constant, name) if horizon else partial(decaying, name)

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


def measure(name: str, label: str, size: Size, seed: int) -> list[float]:
    """Return what a slope is fitted to: the gap after each round, or the mean squared gradient at each horizon."""
    problem = SETTINGS[name].problem()
    if SETTINGS[name].slope == -1.0:
        return gaps(problem, run(problem, plan(name, label), size.rounds, seed))
    return [mean_square_gradient(problem, run(problem, plan(name, label, h), h, seed)) for h in size.horizons]


def points(name: str, values: Sequence[float], size: Size) -> tuple[F64, F64]:
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


Results = Mapping[tuple[str, str], list[list[float]]]
"""(setting, label) -> one list of values for each seed."""


def measured(size: Size, file: Path, console: Console) -> Results:
    """Measure what the file does not hold yet; it is written after every run."""
    kept: dict[str, list[float]] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    todo = [(n, label, seed) for n, s in SETTINGS.items() for label in s.plans for seed in size.seeds]
    key = {run_: f"{run_[0]} | {run_[1]} | {run_[2]} | {size.rounds} {size.horizons}" for run_ in todo}
    missing = [run_ for run_ in todo if key[run_] not in kept]
    for run_ in track(missing, "measuring", console=console, disable=not console.is_terminal):
        kept[key[run_]] = measure(run_[0], run_[1], size, run_[2])
        write_atomic(file, json.dumps(kept).encode())
        if not console.is_terminal:
            console.print(f"{run_[0]}, {run_[1]}, seed {run_[2]}", style="dim", highlight=False)
    found: dict[tuple[str, str], list[list[float]]] = {}
    for run_ in todo:
        found.setdefault(run_[:2], []).append(kept[key[run_]])
    return found


def rows(results: Results, size: Size) -> Iterator[tuple[str, ...]]:
    """Yield a row a setting and plan: what it is, the theorem's slope, the measured one, first and last value."""
    for (name, label), seeds in results.items():
        x, curves = points(name, seeds[0], size)[0], [points(name, values, size)[1] for values in seeds]
        mean, half = interval([slope(x, y) for y in curves])
        first, last = np.mean(curves, axis=0)[[0, -1]]
        range_ = f"{size.first}..{size.rounds}" if SETTINGS[name].slope == -1.0 else f"{x[0]:.0f}..{x[-1]:.0f}"
        yield (
            TITLES[name],
            label,
            range_,
            f"{expected(name, label):+g}",
            f"{mean:+.2f} ± {half:.2f}",
            f"{first:.2e}",
            f"{last:.2e}",
        )


HEADER = ("loss", "method", "rounds fitted", "expected slope", "measured slope", "first point", "last point")


def show(results: Results, size: Size) -> Table:
    """The rows as a table."""
    table = Table()
    for name in HEADER:
        table.add_column(name)
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


def _panel(axes: Axes, name: str, results: Mapping[str, list[list[float]]], size: Size) -> None:
    for label, seeds in results.items():
        kind, _, option = label.partition(", ")
        x = points(name, seeds[0], size)[0]
        curves = np.array([points(name, values, size)[1] for values in seeds])
        style = {"": "-", "fixed scale": "--", "uniform noise": ":"}[option]
        axes.plot(x, curves.mean(0), style, color=COLOURS[kind], label=label, marker="o", markersize=3)
        axes.fill_between(x, curves.min(0), curves.max(0), color=COLOURS[kind], alpha=0.12, linewidth=0)
        if label == "FedAvg":
            theorem = curves.mean(0)[0] * (x / x[0]) ** SETTINGS[name].slope
            axes.plot(x, theorem, "-", color="#bbbbbb", linewidth=4, zorder=0, label=f"slope {SETTINGS[name].slope:g}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    convex = SETTINGS[name].slope == -1.0
    axes.set_xlabel("round T" if convex else "rounds T of the run")
    axes.set_ylabel("f(w) - f*" if convex else "mean squared norm of the gradient")
    axes.set_title(TITLES[name])
    axes.grid(True, which="both", alpha=0.2)
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)


def fill(page: Path, mark: str, header: Sequence[str], lines: Iterable[Sequence[str]], texts: int) -> None:
    """Write a table between a page's marks; its first `texts` columns are aligned to the left.

    Raises:
        ValueError: the page lacks the marks.
    """
    before, begin, rest = page.read_text("utf-8").partition(mark)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks {mark} ... {END}")
    table = [f"| {' | '.join(header)} |", "|" + "---|" * texts + "---:|" * (len(header) - texts)]
    table += [f"| {' | '.join(row)} |" for row in lines]
    page.write_text(before + begin + "\n" + "\n".join(table) + "\n" + end + after, "utf-8")


def publish(results: Results, size: Size, docs: Path) -> None:
    """Write the picture, and the table between the marks of the page."""
    draw(results, size).savefig(docs / "theory.png")
    fill(docs / "theory.md", BEGIN, HEADER, rows(results, size), 3)


def main() -> None:
    """Measure, print the table, write the page if asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds and seeds, to see that it works")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "theory.json", help="file of what is measured")
    parser.add_argument("--docs", action="store_true", help="write the table and the picture of docs/theory.md")
    parser.add_argument("--folder", type=Path, default=DOCS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size, err = QUICK if options.quick else Size(), Console(stderr=True)
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        results = measured(size, options.out, err)
    except KeyboardInterrupt:
        err.print("stopped; what was measured is kept, the same command goes on")
        sys.exit(130)
    out = Console(width=None if sys.stdout.isatty() else 140)
    out.print(show(results, size))
    floor = floor_of_clipping(SETTINGS["ridge"].problem(), SETTINGS["ridge"].room)
    out.print(f"ridge with uniform noise: the bias of clipping leaves {floor:.1e}", highlight=False)
    if options.docs:
        publish(results, size, options.folder)


if __name__ == "__main__":
    main()
