"""Seconds a round, and milliseconds a local step where it is known how many there were."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedmrn.data import DATASETS, Source
from fedmrn.report.plots import INK, SOFT, bare, literal, style
from fedmrn.report.runs import Run, Variant

TIMES = (
    "Seconds of a whole round: broadcast, local training of all its clients, uploads, aggregation and evaluation. "
    "A dot is a round, the tall mark the median. A step is one batch of one client; its time is the round's over all "
    "steps in it. Times depend on the machine and on what else ran there: compare them only between runs that had the "
    "same machine to themselves, with the same threads and workers."
)


def steps(run: Run) -> NDArray[np.float64] | None:
    """Return the local steps of each round, all clients together; None if it is not known who holds how much."""
    sizes = _sizes(run)
    if sizes is None:
        return None
    train = run.experiment.train
    return np.array([(-(-held // train.batch_size) * train.local_epochs).sum() for held in sizes], np.float64)


def _sizes(run: Run) -> list[NDArray[np.int64]] | None:
    """Return the samples of each round's clients, an array a round; a setting may name 10^9 other clients."""
    rounds = [np.array(record.clients, np.int64) for record in run.records]
    if run.held is not None:
        held = run.held.sum(axis=1)
        return [held[clients] for clients in rounds]
    data = run.experiment.data
    source = DATASETS.get(data.name)
    if data.partition != "iid" or not isinstance(source, Source):
        return None
    # The clients' shares differ by one sample at most, the first have more.
    each, more = divmod(source.train, data.clients)
    return [np.minimum(each + (clients < more), data.max_samples or source.train) for clients in rounds]


def step_milliseconds(variant: Variant) -> float | None:
    """Return the median over rounds and seeds of a round's milliseconds over its local steps."""
    found = []
    for run in variant.runs:
        count = steps(run)
        if count is None:
            return None
        found += [1000 * r.seconds / n for r, n in zip(run.records, count, strict=True) if n]
    return float(np.median(found)) if found else None


def draw_times(variants: Sequence[Variant], title: str) -> Figure:
    """Return the seconds of every round, a row a method, with the median and the time of a local step."""
    figure = Figure(figsize=(9, 1.3 + 0.34 * len(variants)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(literal(title), loc="left", fontsize=11, color=INK)
    for i, variant in enumerate(variants):
        seconds = np.array([r.seconds for run in variant.runs for r in run.records])
        colour, _ = style(i)
        height = i + 0.22 * np.sin(np.arange(len(seconds)) * 2.4)  # spread, and the same at every call
        axes.plot(seconds, height, ".", color=colour, alpha=0.45, markersize=5, markeredgewidth=0)
        median, step = float(np.median(seconds)), step_milliseconds(variant)
        axes.plot([median], [i], "|", color=colour, markersize=17, markeredgewidth=2.5)
        note = f"{median:.2f} s" + ("" if step is None else f", {step:.3g} ms a step")
        axes.annotate(note, (1.01, i), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color=SOFT)
    axes.set_yticks(range(len(variants)), [literal(variant.label) for variant in variants])
    axes.set_ylim(len(variants) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds a round (median at the right)")
    bare(axes, "x")
    return figure
