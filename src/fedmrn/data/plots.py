"""A picture of a partition: who holds what."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fedmrn.data.partition import holdings
from fedmrn.files import write_atomic

_FEW_CLIENTS = 30  # as many bars as one can still tell apart
_FEW_CLASSES = 20  # as many colours as a legend can name
_INK = "#333333"
_SOFT = "#8a8a8a"
_BAR = "#7f9fb8"


def plot_partition(labels: NDArray[np.integer], parts: Sequence[NDArray[np.int64]], path: Path, title: str) -> None:
    """Draw a partition to a PNG file: stacked bars for up to 30 clients and 20 classes, else a heat map.

    Bars stay in the clients' order. Rows of the heat map are ordered by the label that a client holds most
    of, then by how much of it, so that structure shows; the bars at its side are the clients' sizes.

    Args:
        labels: the label of each sample, integers from 0 on, shape (n,).
        parts: the indices that each client holds, as `partition` returns them; at least one client.
        path: the file to write; its folder must exist. It is replaced at once or not at all.
        title: the heading.

    Raises:
        ValueError: if there are no parts.
        OSError: if the file cannot be written.
    """
    if not parts:
        raise ValueError("plot_partition needs at least one part")
    _write(draw_partition(holdings(labels, parts), title), path)


def draw_partition(held: NDArray[np.int64], title: str) -> Figure:
    """Return the figure that `plot_partition` writes, from what `holdings` returns."""
    few = held.shape[0] <= _FEW_CLIENTS and held.shape[1] <= _FEW_CLASSES
    figure = _bars(held) if few else _heat_map(held)
    sizes, kinds = held.sum(1), (held > 0).sum(1)
    whole = f"{len(held)} clients, {sizes.sum():,} samples"
    note = f"{whole}; each holds {_span(sizes)} samples of {_span(kinds)} labels"
    figure.suptitle(title, x=0.02, ha="left", fontsize=13, fontweight="bold", color=_INK)
    figure.supxlabel(note, x=0.02, ha="left", fontsize=9, color=_SOFT)
    return figure


def _span(values: NDArray[np.int64]) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _bars(held: NDArray[np.int64]) -> Figure:
    clients, classes = held.shape
    figure = Figure(figsize=(8.5, 1.6 + 0.24 * max(clients, classes)), layout="constrained")
    axes = figure.add_subplot()
    colours = mpl.colormaps["tab10" if classes <= 10 else "tab20"](np.arange(classes))
    left = np.zeros(clients, np.int64)
    for label, (colour, widths) in enumerate(zip(colours, held.T, strict=True)):
        bars = axes.barh(range(clients), widths, left=left, height=0.82, color=[colour], label=str(label))
        for bar in bars:
            bar.set(edgecolor="white", linewidth=0.4)
        left += widths
    for client, size in enumerate(left):
        axes.text(size + left.max() * 0.008, client, f"{size:,}", va="center", fontsize=8, color=_SOFT)
    axes.set(ylabel="client", xlabel="samples", yticks=range(clients), ylim=(clients - 0.5, -0.5))
    axes.set_xlim(0, left.max() * 1.08)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    _bare(axes)
    axes.legend(title="label", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    return figure


def _heat_map(held: NDArray[np.int64]) -> Figure:
    clients, classes = held.shape
    order = np.lexsort((*-held.T[::-1], -held.max(1), held.argmax(1)))
    figure = Figure(figsize=(8.5, min(3 + 0.05 * clients, 10)), layout="constrained")
    axes, side = figure.subplots(1, 2, sharey=True, width_ratios=(5, 1))
    # White means none; one sample must already differ from it, and a square root keeps small holdings visible.
    colours = ListedColormap(mpl.colormaps["GnBu"](np.linspace(0.22, 1, 256))).with_extremes(bad="white")
    cells = np.ma.masked_equal(held[order], 0)
    image = axes.imshow(cells, aspect="auto", interpolation="nearest", cmap=colours, norm=PowerNorm(0.5, 0, held.max()))
    axes.set(xlabel="label", ylabel="clients, by main label", yticks=[])
    axes.xaxis.set_major_locator(MaxNLocator(min(classes, 20), integer=True))
    side.barh(range(clients), held.sum(1)[order], height=1.0, color=_BAR)
    mean = held.sum() / clients
    side.axvline(mean, color=_INK, linewidth=0.9, linestyle=":")
    side.set(xlabel=f"all samples\n(mean {mean:,.0f})")
    side.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    for each in (axes, side):
        _bare(each)
    bar = figure.colorbar(image, ax=[axes, side], aspect=45, pad=0.02, label="samples of a label (white: none)")
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=_INK, labelsize=8, length=0)
    return figure


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_SOFT)
    axes.tick_params(colors=_INK, labelsize=8, length=0)
    axes.set_axisbelow(True)


def _write(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_atomic(path, buffer.getvalue())
