"""Plots of accuracy: against rounds, against uploaded bytes, and against bytes both ways."""

import io
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from numpy.typing import NDArray

from fedmrn.experiments.records import Record
from fedmrn.experiments.summary import Runs
from fedmrn.files import write_atomic

COLOURS = ("#4c566a", "#d1495b", "#2a7fba", "#e09f3e", "#4f9d69", "#8e5ea2", "#7a5c45", "#17a2a2")
STYLES = ("-", "--", ":", "-.")
_INK = "#2e3440"


def plot_rounds(runs: Runs, path: Path, title: str) -> None:
    """Draw accuracy against rounds: the mean over seeds, and a band from the lowest to the highest seed."""
    figure, axes = _figure(title, len(runs))
    for i, (name, seeds) in enumerate(runs.items()):
        _curve(axes, np.arange(1, len(seeds[0]) + 1), seeds, name, i)
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(figure, axes, runs, path)


def plot_bytes(runs: Runs, path: Path, title: str, *, down: bool = False) -> None:
    """Draw accuracy against all clients' bytes so far, on a logarithmic axis: uploaded, or with `down` both ways."""
    ways = ("up", "down") if down else ("up",)
    figure, axes = _figure(title, len(runs))
    for i, (name, seeds) in enumerate(runs.items()):
        _curve(axes, bytes_so_far(seeds, ways), seeds, name, i)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 20 * low else (1, 1.5, 2, 3, 4, 5, 7)))
    what = "uploaded and downloaded" if down else "uploaded"
    axes.set_xlabel(f"{what} so far, all clients (measured frame lengths)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _size(value)))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    _finish(figure, axes, runs, path)


def bytes_so_far(seeds: Sequence[Sequence[Record]], ways: Sequence[str]) -> NDArray[np.float64]:
    """Return the bytes of all clients on these ways up to each round, mean over seeds, shape (rounds,)."""
    sums = [list(accumulate(sum(r[way]["total"] for way in ways) for r in records)) for records in seeds]
    mean: NDArray[np.float64] = np.mean(sums, axis=0, dtype=np.float64)
    return mean


def _figure(title: str, curves: int) -> tuple[Figure, Axes]:
    size = (8, 4.6) if curves <= len(COLOURS) else (11, 6)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    axes.set_ylabel("test accuracy of the global model")
    return figure, axes


def _curve(
    axes: Axes,
    x: NDArray[np.floating | np.integer],
    seeds: Sequence[Sequence[Record]],
    name: str,
    place: int,
) -> None:
    colour, style = COLOURS[place % len(COLOURS)], STYLES[place // len(COLOURS) % len(STYLES)]
    values = np.array([[r["accuracy"] for r in records] for records in seeds])
    last = values[:, -1].mean()
    axes.plot(
        x,
        values.mean(axis=0),
        color=colour,
        linewidth=2,
        linestyle=style,
        label=f"{name}  {last:.1%}",
        marker="o",
        markersize=3,
    )
    if len(seeds) > 1:
        axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)


def _finish(figure: Figure, axes: Axes, runs: Runs, path: Path) -> None:
    every = np.concatenate([[r["accuracy"] for r in records] for seeds in runs.values() for records in seeds])
    # The first rounds are low and few; the comparison is at the top.
    low = float(np.quantile(every, 0.05))
    top = float(every.max())
    margin = max(0.005, 0.12 * (top - low))
    axes.set_ylim(max(0.0, low - margin), min(1.0, top + margin))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.1%}"))
    axes.grid(visible=True, color="#e5e9f0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    seeds = max(len(s) for s in runs.values())
    place: dict[str, Any] = {"loc": "lower right"}
    if len(runs) > len(COLOURS):  # beside the curves, in the order of the last round
        place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "fontsize": 8}
    handles, labels = axes.get_legend_handles_labels()
    last = [float(np.mean([records[-1]["accuracy"] for records in seeds])) for seeds in runs.values()]
    order = sorted(range(len(labels)), key=lambda i: -last[i]) if len(runs) > len(COLOURS) else range(len(labels))
    legend = axes.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        frameon=False,
        handlelength=3,
        title="after the last round" + (f", {seeds} seeds" if seeds > 1 else ""),
        **place,
    )
    legend.get_title().set_fontsize(9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())


def _size(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"
