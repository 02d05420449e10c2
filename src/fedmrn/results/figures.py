"""Figures of a page: accuracy of groups of seeds against rounds, all traffic, or uploaded bytes; points of a table."""

import hashlib
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from math import isfinite
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from fedmrn.errors import ConfigError
from fedmrn.report.curves import size
from fedmrn.report.plots import INK, bare, literal, style
from fedmrn.results.groups import SeedGroup, megabytes_so_far, seed_groups
from fedmrn.results.specs import FigureSpec
from fedmrn.results.tables import Collections, fits, named, ordered

_SEEN = "Description"
_FEW = 12  # curves: with more, what they are called stands beside the axes
_LABELS = {
    "rounds": "round",
    "traffic": "total traffic so far, up and down, all clients",
    "upload": "uploaded so far, all clients",
}
_WAYS = {"traffic": ("up", "down"), "upload": ("up",)}
Curve = tuple[str, list[float], list[list[float]]]
"""A label, a number a round for the axis below, and the accuracies of each seed in %."""


def _curves_of(spec: FigureSpec, collections: Collections) -> list[Curve]:
    """Return what a figure shows: groups whose runs kept what it needs, as far as all seeds of a group go."""
    runs = [run for collection in named(spec.records, collections) for run in collection.runs if run.accuracy]
    groups = ordered(seed_groups(run for run in runs if fits(run, spec.where)), spec.order)
    curves = ((spec.names.get(g.label, g.label), _axis(g, spec.against), _tested(g), g) for g in groups)
    return [(name, [x[i] for i in tested], _accuracies(g, tested)) for name, x, tested, g in curves if x and tested]


def _tested(group: SeedGroup) -> list[int]:
    """Return the rounds, counted from 0, after which every seed was tested."""
    rounds = zip(*(run.accuracy for run in group.runs), strict=False)
    return [i for i, values in enumerate(rounds) if None not in values]


def _axis(group: SeedGroup, against: str) -> list[float]:
    rounds = min(len(run.accuracy) for run in group.runs)
    if against == "rounds":
        return [float(number) for number in range(1, rounds + 1)]
    sums = [megabytes_so_far(run, *_WAYS[against]) for run in group.runs]
    if any(each is None for each in sums):
        return []
    mean = np.mean([each[:rounds] for each in sums if each is not None], axis=0)
    return [float(value) for value in mean]


def _accuracies(group: SeedGroup, tested: Sequence[int]) -> list[list[float]]:
    return [[100 * (run.accuracy[i] or 0.0) for i in tested] for run in group.runs]


def points_of(spec: FigureSpec, collections: Collections) -> list[tuple[int, float, float]]:
    """Return the row's number from 1 and both values, for each row of a stated table that has numbers in both columns.

    Raises:
        ConfigError: there are not two columns, or not one collection whose table has them.
    """
    found = named(spec.records, collections)
    if len(found) != 1 or len(spec.columns) != 2 or not set(spec.columns) <= set(found[0].header):
        raise ConfigError(f"{spec.records}: one collection whose table has two columns {spec.columns} is needed")
    places = [found[0].header.index(column) for column in spec.columns]
    points = []
    for number, row in enumerate(found[0].rows, 1):
        with suppress(ValueError):
            x, y = (float(row[place]) for place in places)
            if isfinite(x) and isfinite(y):
                points.append((number, x, y))
    return points


def mark_of(spec: FigureSpec, collections: Collections) -> str:
    """Return what changes when the figure would: a hash of what it shows."""
    shown = [_curves_of(spec, collections), spec.title, spec.against, spec.least]
    if spec.columns:
        shown += [spec.columns, points_of(spec, collections)]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()


def mark_in(png: bytes | None) -> str:
    """Return the mark of a figure that was drawn before; nothing for another picture."""
    if png is None:
        return ""
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            return str(image.info.get(_SEEN, ""))
    except (OSError, SyntaxError, ValueError):
        return ""


def draw(spec: FigureSpec, collections: Collections) -> bytes:
    """Draw a figure; return it as PNG, with its mark."""
    curves = _curves_of(spec, collections)
    figure = Figure(figsize=(11, 7) if len(curves) > _FEW else (8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(literal(spec.title), loc="left", fontsize=11, color=INK)
    if spec.columns:
        _draw_points(axes, spec, collections)
    else:
        _draw_curves(axes, spec, curves)
    bare(axes)
    buffer = io.BytesIO()
    metadata: dict[str, str | None] = {"Software": "fedmrn", "Title": spec.title, _SEEN: mark_of(spec, collections)}
    figure.savefig(buffer, format="png", dpi=130, metadata=metadata)
    return buffer.getvalue()


def _draw_points(axes: Axes, spec: FigureSpec, collections: Collections) -> None:
    points = points_of(spec, collections)
    axes.scatter([x for _, x, _ in points], [y for _, _, y in points], s=28, color=style(0)[0])
    for number, x, y in points:
        axes.annotate(str(number), (x, y), xytext=(5, 4), textcoords="offset points", fontsize=9, color=INK)
    if points and max(x for _, x, _ in points) > 10 * min(x for _, x, _ in points) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(literal(spec.columns[0]))
    axes.set_ylabel(literal(spec.columns[1]))


def _draw_curves(axes: Axes, spec: FigureSpec, curves: Sequence[Curve]) -> None:
    """Draw means over seeds, bands from the lowest to the highest."""
    for place, (label, x, values) in enumerate(curves):
        colour, line = style(place)
        few: dict[str, Any] = {"marker": "o", "markersize": 3} if len(x) <= 30 else {}
        lines = np.array(values)
        text = literal(f"{label}  {lines[:, -1].mean():.1f}")
        axes.plot(x, lines.mean(0), color=colour, linestyle=line, linewidth=1.8, label=text, **few)
        if len(lines) > 1:
            axes.fill_between(x, lines.min(0), lines.max(0), color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel(_LABELS[spec.against])
    axes.set_ylabel("test accuracy, %")
    if spec.least:
        axes.set_ylim(bottom=spec.least)
    if spec.against == "rounds":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size(1e6 * value)))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1), "ncols": 1 + (len(curves) - 1) // 35}
    more = beside if len(curves) > _FEW else {}
    axes.legend(frameon=False, fontsize=9, title="at the end, %", alignment="left", title_fontsize=9, **more)


def caption(spec: FigureSpec, collections: Collections) -> str:
    """Return a line that says how to read the figure."""
    if spec.columns:
        return f"{spec.title}; numbers are the rows of the table."
    seeds = {len(values) for _, _, values in _curves_of(spec, collections)}
    if seeds == {1}:
        return f"{spec.title}; one seed."
    return f"{spec.title}; means over seeds, bands from the lowest to the highest."
