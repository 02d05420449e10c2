"""Figures of masks: density and entropy by layer and round, bits an element, and the scale of the noise."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fedmrn.report.observed import DENSITY, NOISE_SCALE
from fedmrn.report.plots import COLOURS, INK, bare, literal
from fedmrn.report.runs import Variant
from fedmrn.text import printable

ENTROPY = (
    "Density is the share of ones in all masks of a round. Entropy is that of a bit which is one with this "
    "probability: an ideal code that knows a layer's density, and nothing else, takes at most so many bits an element. "
    "One that also looks at the noise can take fewer. Coded is what the mask sections took, measured."
)
SCALE = (
    'The scale of the noise of a method with scale = "auto", as clients chose it or the server told it: the geometric '
    "mean over clients and seeds, as a power of two."
)
_NAMED = 40  # as many layers as have their names beside the rows
_MOST = 400


def density(variant: Variant) -> tuple[list[str], NDArray[np.float64]] | None:
    """Return names of layers and the density of their masks, shape (layers, rounds), mean over seeds.

    A round without it (of an older version) is NaN; None if no round has it, or there are too many layers to show.
    """
    found = variant.observed(DENSITY, _MOST)
    if found is None:
        return None
    mean: NDArray[np.float64] = found[1].mean(axis=0)
    return (found[0], mean) if np.isfinite(mean).any() else None


def entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the binary entropy of probabilities, in bits."""
    inner = np.clip(p, 1e-300, 1)
    outer = np.clip(1 - p, 1e-300, 1)
    return -p * np.log2(inner) - (1 - p) * np.log2(outer)


def coded_bits(variant: Variant) -> NDArray[np.float64] | None:
    """Return measured bits an element of the mask sections by round, mean over seeds; None if nothing is coded.

    A mask without coding is one bit an element: these are its bytes over those.
    """
    if not all(r.raw is not None and r.raw.up.coded for records in variant.records for r in records):
        return None
    bits = [[r.up.coded / r.raw.up.coded for r in records if r.raw is not None] for records in variant.records]
    mean: NDArray[np.float64] = np.mean(bits, axis=0, dtype=np.float64)
    return None if (mean == 1).all() else mean


def scales(variant: Variant) -> tuple[list[str], NDArray[np.float64]] | None:
    """Return names of layers and the base-2 logarithm of their noise's scale, shape (layers, rounds), mean over seeds.

    None if clients did not choose it, or there are too many layers to show.
    """
    found = variant.observed(NOISE_SCALE, _MOST)
    if found is None:
        return None
    mean: NDArray[np.float64] = np.log2(found[1]).mean(axis=0)
    return (found[0], mean) if np.isfinite(mean).any() else None


def draw_scales(variants: Sequence[Variant], title: str) -> Figure:
    """Return a row a method: the scale of the noise by layer and round; all variants have scales."""
    rows = [(variant, *found) for variant in variants if (found := scales(variant)) is not None]
    figure, panels = _sheet(rows, title, 9, (1,))
    every = np.concatenate([found.ravel() for *_, found in rows])
    norm = Normalize(float(np.nanmin(every)) - 0.5, float(np.nanmax(every)) + 0.5)
    for (variant, names, logs), (axes,) in zip(rows, panels, strict=True):
        _heat_map(axes, names, logs, norm, "viridis", "log2 of the scale")
        axes.set_title(literal(variant.label), loc="left", fontsize=10, color=INK)
    return figure


def draw_masks(variants: Sequence[Variant], title: str) -> Figure:
    """Return a row a method: density and entropy by layer and round, and bits an element; all have densities."""
    rows = [(variant, *found) for variant in variants if (found := density(variant)) is not None]
    figure, panels = _sheet(rows, title, 10.5, (1.15, 1, 1))
    every = np.concatenate([shares.ravel() for *_, shares in rows])
    away = max(0.01, float(np.nanmax(np.abs(every - 0.5))))
    least = min(0.99, float(np.nanmin(entropy(every))))
    for (variant, names, shares), (left, middle, right) in zip(rows, panels, strict=True):
        _heat_map(left, names, shares, Normalize(0.5 - away, 0.5 + away), "RdBu_r", "density")
        _heat_map(middle, None, entropy(shares), Normalize(least, 1), "viridis", "entropy, bits")
        left.set_title(literal(variant.label), loc="left", fontsize=10, color=INK)
        _bits(right, variant, names, shares)
    return figure


def _sheet(
    rows: Sequence[tuple[Variant, list[str], NDArray[np.float64]]], title: str, width: float, columns: Sequence[float]
) -> tuple[Figure, Any]:
    """Return an empty figure with a row of panels a method, as high as its layers want, and the panels."""
    heights = [1.5 + 0.2 * min(len(names), _NAMED) for _, names, _ in rows]
    figure = Figure(figsize=(width, sum(heights) + 0.5), layout="constrained")
    figure.suptitle(literal(title), x=0.012, ha="left", fontsize=11, color=INK)
    panels = figure.subplots(len(rows), len(columns), squeeze=False, width_ratios=columns, height_ratios=heights)
    for axes in panels[-1]:
        axes.set_xlabel("round", fontsize=9)
    return figure, panels


def _heat_map(
    axes: Axes, names: Sequence[str] | None, cells: NDArray[np.float64], norm: Normalize, colours: str, label: str
) -> None:
    layers, rounds = cells.shape
    place = (0.5, rounds + 0.5, layers - 0.5, -0.5)
    image = axes.imshow(cells, aspect="auto", interpolation="nearest", cmap=colours, norm=norm, extent=place)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_yticks([])
    if names is not None and layers <= _NAMED:
        axes.set_yticks(range(layers), [literal(printable(name, 28)) for name in names])
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, aspect=14, pad=0.02)
    bar.set_label(label, fontsize=8)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=8, length=0)
    bar.ax.yaxis.set_major_locator(MaxNLocator(4))


def _bits(axes: Axes, variant: Variant, names: Sequence[str], shares: NDArray[np.float64]) -> None:
    sizes = {tensor.name: tensor.size for tensor in variant.layout.tensors} if variant.layout else {}
    x = np.arange(1, shares.shape[1] + 1)
    mark = {"marker": "o", "markersize": 3} if len(x) <= 30 else {}
    if all(name in sizes for name in names) and any(sizes[name] for name in names):
        weights = np.array([sizes[name] for name in names], np.float64)
        axes.plot(x, weights @ entropy(shares) / weights.sum(), color=COLOURS[2], label="entropy, all layers", **mark)  # type: ignore[arg-type]
    coded = coded_bits(variant)
    if coded is not None:
        axes.plot(x, coded, color=COLOURS[1], linestyle="--", label="coded, measured", **mark)  # type: ignore[arg-type]
    axes.axhline(1, color="#9aa3b2", linewidth=1, linestyle=":", label="not coded")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_ylabel("bits an element", fontsize=8)
    axes.margins(y=0.12)
    bare(axes)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7.5, loc="best", framealpha=0.85, edgecolor="none")
