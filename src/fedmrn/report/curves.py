"""Accuracy against total traffic, against rounds, and against uploaded bytes.

A point is a round that was tested; bytes up to it are those of all rounds.
"""

import textwrap
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from numpy.typing import NDArray

from fedmrn.experiments.run.record import WAYS, Record, Way, accuracies
from fedmrn.report.naming import score
from fedmrn.report.plots import COLOURS, INK, bare, literal, style
from fedmrn.report.runs import Variant

BAND = (
    "The line is the mean over seeds, the band reaches from the lowest to the highest seed, and a thin line without a "
    "mark is a seed that is not finished, or goes on after the last round that all have."
)


def draw_rounds(variants: Sequence[Variant], title: str) -> Figure:
    """Return accuracy against rounds: the mean over seeds, and a band from the lowest to the highest seed."""
    figure, axes = _figure(title, variants)
    for i, variant in enumerate(variants):
        for run in variant.beyond:
            _thin(axes, np.arange(1, len(run.records) + 1), run.records, i)
        _curve(axes, np.arange(1, len(variant.records[0]) + 1), variant, i, len(variants) > len(COLOURS))
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(figure, axes, variants)
    return figure


def draw_bytes(variants: Sequence[Variant], title: str, *, down: bool = False) -> Figure:
    """Return accuracy against all clients' bytes so far, on a logarithmic axis: uploaded, or with `down` both ways."""
    ways: Sequence[Way] = WAYS if down else ("up",)
    figure, axes = _figure(title, variants)
    for i, variant in enumerate(variants):
        for run in variant.beyond:
            _thin(axes, bytes_so_far([run.records], ways), run.records, i)
        _curve(axes, bytes_so_far(variant.records, ways), variant, i, len(variants) > len(COLOURS))
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    wide = high > 300 * low
    axes.xaxis.set_major_locator(
        LogLocator(subs=(1,) if wide else (1, 2, 5) if high > 20 * low else (1, 1.5, 2, 3, 4, 5, 7))
    )
    what = "total traffic so far, up and down" if down else "uploaded so far"
    axes.set_xlabel(f"{what}, all clients (measured frame lengths)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size(value)))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    _finish(figure, axes, variants)
    return figure


def bytes_so_far(seeds: Sequence[Sequence[Record]], ways: Sequence[Way]) -> NDArray[np.float64]:
    """Return the bytes of all clients on these ways up to each round, mean over seeds, shape (rounds,)."""
    sums = [list(accumulate(sum(r.total(way) for way in ways) for r in records)) for records in seeds]
    mean: NDArray[np.float64] = np.mean(sums, axis=0, dtype=np.float64)
    return mean


def size(value: float) -> str:
    """Return a number of bytes for a person: 2.5 MB."""
    for unit, each in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= each:
            return f"{value / each:g} {unit}"
    return f"{value:g} B"


def _figure(title: str, variants: Sequence[Variant]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, max(4.4, 1.2 + 0.21 * len(variants))), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(literal(textwrap.fill(title, 100)), loc="left", fontsize=11, color=INK)
    axes.set_ylabel(f"test {score(variants[0].experiment)} of the global model")
    return figure, axes


def _tested(records: Sequence[Record]) -> NDArray[np.bool_]:
    """Return which rounds were tested, shape (rounds,); alike for all seeds of a variant."""
    return np.array([r.accuracy is not None for r in records], bool)


def _thin(axes: Axes, x: NDArray[np.floating | np.integer], records: Sequence[Record], place: int) -> None:
    colour, line = style(place)
    axes.plot(x[_tested(records)], accuracies(records), color=colour, linestyle=line, linewidth=0.8, alpha=0.8)


def _curve(axes: Axes, x: NDArray[np.floating | np.integer], variant: Variant, place: int, many: bool) -> None:
    colour, line = style(place)
    x, values = x[_tested(variant.records[0])], np.array([accuracies(records) for records in variant.records])
    mark = {"marker": "o", "markersize": 3} if len(x) <= 30 and not many else {}
    note = f"{values[:, -1].mean():.1%}" + ("" if variant.whole else f", round {variant.progress}")
    label = literal(f"{textwrap.fill(variant.label, 30)}{'  ' if many else chr(10)}{note}")
    axes.plot(x, values.mean(axis=0), color=colour, linewidth=1.8, linestyle=line, label=label, **mark)  # type: ignore[arg-type]
    if len(values) > 1:
        axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)


def _finish(figure: Figure, axes: Axes, variants: Sequence[Variant]) -> None:
    drawn = [
        records for variant in variants for records in (*variant.records, *(run.records for run in variant.beyond))
    ]
    every = np.concatenate([accuracies(records) for records in drawn])
    # The first rounds are low and few; the comparison is at the top.
    low, top = float(np.quantile(every, 0.05)), float(every.max())
    margin = max(0.005, 0.12 * (top - low))
    bottom = max(0.0, low - margin)
    axes.set_ylim(bottom, min(1.0, top + margin))
    below = int((every < bottom).sum())
    if below:
        figure.supxlabel(f"The axis starts at {bottom:.1%}; {below} of {len(every)} values are below it.")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.1%}"))
    bare(axes)
    handles, labels = axes.get_legend_handles_labels()
    last = [float(np.mean([accuracies(records)[-1] for records in variant.records])) for variant in variants]
    order = sorted(range(len(labels)), key=lambda i: -last[i])  # beside the curves, as these end
    seeds = max(len(variant.records) for variant in variants)
    axes.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        frameon=False,
        handlelength=2.5,
        labelspacing=0.6,
        title="at the end" + (f", {seeds} seeds" if seeds > 1 else ""),
        title_fontsize=9,
        alignment="left",
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        fontsize=9 if len(variants) <= len(COLOURS) else 7.5,
    )
