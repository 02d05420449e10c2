"""The floor that a public model on a grid leaves on ridge regression, and how steps that shrink remove it.

    python studies/grid_theory.py [--quick] [--docs]

Clients train from v, a point of the grid; the server adds their updates to w, which it never rounds (grid_runs.py). A
floor is the mean gap of the loss over the later half of a run with a fixed learning rate. An excess is that over the
exact broadcast with the same clients, batches and dice. Intervals are 95 %, Student's t over seeds.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from federations import Problem, ridge
from grid_bound import contraction
from grid_measured import (
    CHOSEN,
    RATE,
    SERIES,
    SHRINKING,
    STEPS,
    Curves,
    Floors,
    curves,
    floors,
)
from grid_runs import EXACT, F64, Grid, start
from intervals import interval
from marked_pages import fill
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from theory import COLOURS, DOCS, Size, points, slope


def jackknifed_slope(steps: Sequence[float], excess: F64) -> str:
    """Return the slope of the mean over seeds, by leaving out one seed at a time; none where dice drown an excess."""
    n = excess.shape[1]
    means = np.stack([excess.mean(1), *(np.delete(excess, i, 1).mean(1) for i in range(n))])
    if not (means > 0).all():
        return ""
    whole, *parts = (slope(np.array(steps), line) for line in means)
    return _value([n * whole - (n - 1) * part for part in parts], ".2f")


def excesses(found: Floors, name: str, h: float, steps: Sequence[float], state: str = "kept") -> F64:
    """Return the excess of v for each step and seed."""
    exact = found[name, EXACT].v
    return np.array([found[name, Grid(step, h, state)].v - exact for step in steps])


def _value(values: Sequence[float] | F64, form: str = ".2e") -> str:
    mean, half = interval([float(v) for v in values])
    return f"{mean:{form}} ± {half:{'.0e' if 'e' in form else form.lstrip('+')}}"


def _step(step: float) -> str:
    return f"{step:g}" if step >= 1 else f"1/{1 / step:g}"


FLOORS = ("clients", "step", "floor of v", "bound", "floor of w", "excess of v / step^2", "error^2 / step^2")


def floor_rows(found: Floors, problem: Problem) -> Iterator[tuple[str, ...]]:
    """Yield floor and bound for exact updates and each step, without hysteresis."""
    for name, clients in (("FedAvg", "drawn"), ("FedAvg, no dice", "all, no dice")):
        round_ = contraction(problem, RATE, whole=SERIES[name].clients.whole)
        exact = found[name, EXACT]
        yield clients, "exact", _value(exact.v), "", _value(exact.w), "", ""
        for step in STEPS:
            grid, (excess,) = Grid(step), excesses(found, name, 0.0, [step])
            floor, bound = found[name, grid], round_.bound(float(exact.v.mean()), grid)
            share = _value(excess / step**2, ".2f")
            yield clients, _step(step), _value(floor.v), f"{bound:.1e}", _value(floor.w), share, f"{floor.error:.3f}"


DETAILS = (
    "updates",
    "server",
    "slope of v's excess",
    *(f"excess of v, step {_step(step)}" for step in CHOSEN),
    f"of w, step {_step(CHOSEN[-1])}",
    f"v moved a round, step {_step(CHOSEN[-1])}",
)


def detail_rows(found: Floors) -> Iterator[tuple[str, ...]]:
    """Yield a row for each kind of update and of server: the slope over the step, and what two steps cost."""
    for name, s in SERIES.items():
        for h, state in [*((h, "kept") for h in s.hystereses), *((0.0, state) for state in s.states)]:
            floor = found[name, Grid(CHOSEN[-1], h, state)]
            yield (
                name,
                f"h = {h:g}" if state == "kept" else f"state rounded{'' if state == 'rounded' else ' ' + state}",
                jackknifed_slope(s.fitted, excesses(found, name, h, s.fitted, state)),
                *(_value(excess, ".4f") for excess in excesses(found, name, h, CHOSEN, state)),
                _value(floor.w - found[name, EXACT].w, ".3f"),
                f"{100 * floor.moved:.1f} %",
            )


LAST = ("updates, rate", "grid", "slope", "last point", "over exact")


def shrinking_rows(found: Curves, size: Size) -> Iterator[tuple[str, ...]]:
    """Yield a row for each rate and grid: slope over rounds, the last bin's gap, and that over the exact one's."""
    for name, label in found:
        ends = [_binned(found, name, each, size)[1][:, -1] for each in (label, "exact")]
        x, y = _binned(found, name, label, size)
        fit = _value([slope(x, line) for line in y], "+.2f")
        yield name, label, fit, _value(ends[0]), f"{ends[0].mean() / ends[1].mean():.2f}"


def _binned(found: Curves, name: str, label: str, size: Size) -> tuple[F64, F64]:
    pairs = [points("ridge", line.tolist(), size) for line in found[name, label]]
    return pairs[0][0], np.array([y for _, y in pairs])


LINES = {"v": "#d1495b", "w": "#2a7fba", "state rounded": "#e0a030", "bound on v": "#bbbbbb"}
OF_SERIES = {**COLOURS, "FedAvg, no dice": "#8f5ea2", "FedAvg, no dice, rate / 4": "#5aa469"}
OF_GRIDS = ("#4c566a", "#e0a030", "#8f5ea2", "#2a7fba", "#d1495b", "#999999")


def draw(found: Floors, shrunk: Curves, size: Size, problem: Problem) -> Figure:
    """Draw floors against the step, the excess of v against the step, and gaps against rounds as steps shrink."""
    figure = Figure(figsize=(15, 5.4), dpi=110, layout="constrained")
    one, two, three = figure.subplots(1, 3)
    _floors(one, found, problem)
    _excesses(two, found, problem)
    _shrinking(three, shrunk, size)
    for axes in (one, two, three):
        axes.set_xscale("log")
        axes.set_yscale("linear" if axes is two else "log")
        axes.grid(True, which="both", alpha=0.2)
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)
    return figure


def _floors(axes: Axes, found: Floors, problem: Problem) -> None:
    for name, style in (("FedAvg", "-"), ("FedAvg, no dice", "--")):
        round_, exact = contraction(problem, RATE, whole=SERIES[name].clients.whole), found[name, EXACT].v.mean()
        dice = name.partition(", ")[2]
        kept, rounded = ([found[name, Grid(step, state=state)] for step in STEPS] for state in ("kept", "rounded"))
        drawn = {
            "bound on v": [round_.bound(float(exact), Grid(step)) for step in STEPS],
            "state rounded": [floor.v.mean() for floor in rounded],
            "w": [floor.w.mean() for floor in kept],
            "v": [floor.v.mean() for floor in kept],
        }
        for label, y in drawn.items():
            marker = "" if label == "bound on v" else "o"
            text = f"{label}, {dice}" if dice else label
            axes.plot(STEPS, y, style, color=LINES[label], label=text, marker=marker, markersize=3)
        axes.axhline(
            float(exact), linestyle=style, color=COLOURS["FedAvg"], linewidth=1, label=f"exact{dice and ', '}{dice}"
        )
    axes.set_xlabel("step")
    axes.set_ylabel("floor of f - f*")
    axes.set_title("Floors, FedAvg, h = 0")


def _excesses(axes: Axes, found: Floors, problem: Problem) -> None:
    """Draw excesses over the square of the step, where they are three times their interval at least."""
    half = float(np.trace(problem.hessian(problem.optimum[0]))) / 2
    for share, style in ((12, "-"), (6, "--")):
        axes.axhline(half / share, linestyle=style, color="#cccccc", linewidth=4, label=f"tr H / {2 * share}", zorder=0)
    for name, s in SERIES.items():
        for h, style in zip(s.hystereses, ("-", "--", ":"), strict=False):
            values = [interval(line.tolist()) for line in excesses(found, name, h, STEPS)]
            clear = [(step, mean / step**2) for step, (mean, i) in zip(STEPS, values, strict=True) if mean > 3 * i]
            if clear:
                x, y = zip(*clear, strict=True)
                axes.plot(x, y, style, color=OF_SERIES[name], label=f"{name}, h = {h:g}", marker="o", markersize=3)
    axes.set_xlabel("step")
    axes.set_ylabel("excess of v over exact / step^2")
    axes.set_title("What the grid costs")


def _shrinking(axes: Axes, shrunk: Curves, size: Size) -> None:
    labels = [label for name, label in shrunk if name == "FedAvg, 1/t"]
    for label, colour in zip(labels, OF_GRIDS, strict=True):
        x, y = _binned(shrunk, "FedAvg, 1/t", label, size)
        axes.plot(x, y.mean(0), color=colour, label=label, marker="o", markersize=3)
        axes.fill_between(x, y.min(0), y.max(0), color=colour, alpha=0.12, linewidth=0)
    axes.set_xlabel("round T")
    axes.set_ylabel("f(v) - f*")
    axes.set_title("FedAvg, rate as 1/t, h = 1/4")


Tables = dict[str, tuple[tuple[str, ...], list[tuple[str, ...]], int]]
"""Name -> header, rows, and how many of the first columns are texts."""


def tables(found: Floors, shrunk: Curves, size: Size, problem: Problem) -> Tables:
    """Return the tables of docs/theory.md."""
    return {
        "floors": (FLOORS, list(floor_rows(found, problem)), 2),
        "details": (DETAILS, list(detail_rows(found)), 2),
        "shrinking": (LAST, list(shrinking_rows(shrunk, size)), 2),
    }


def publish(made: Tables, figure: Figure, docs: Path) -> None:
    """Write the picture, and the tables between the marks of the page."""
    figure.savefig(docs / "grid-theory.png")
    for name, (header, lines, texts) in made.items():
        fill(docs / "theory.md", f"<!-- study grid_theory: {name} -->", header, lines, texts)


def main() -> None:
    """Measure, print the tables, write the page if asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds and seeds, to see that it works")
    parser.add_argument("--docs", action="store_true", help="write the tables and the picture of docs/theory.md")
    parser.add_argument("--folder", type=Path, default=DOCS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    problem, series, size = ridge(), SERIES, SHRINKING
    if options.quick:
        series = {name: replace(s, size=Size(rounds=60, seeds=(1, 2))) for name, s in SERIES.items()}
        size = Size(rounds=60, first=20, bins=3, seeds=(1, 2))
    found, shrunk = floors(problem, series), curves(problem, size)
    made, out = tables(found, shrunk, size, problem), Console(width=None if sys.stdout.isatty() else 140)
    for header, lines, _ in made.values():
        table = Table(*header)
        for line in lines:
            table.add_row(*line)
        out.print(table)
    far = np.mean([np.square(problem.optimum[0] - start(problem, seed)).mean() for seed in size.seeds]) ** 0.5
    out.print(f"root mean square of w* - w0: {far:.2f}", highlight=False)
    if options.docs:
        publish(made, draw(found, shrunk, size, problem), options.folder)


if __name__ == "__main__":
    main()
