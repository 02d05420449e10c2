"""Error against bits for the codecs alone: no training, only a vector, its bytes and what is decoded from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, groupby
from math import log2

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from fedmrn.codecs import Codec, EncodeKeys
from fedmrn.errors import ConfigError
from fedmrn.numerics.rng import derive_key
from fedmrn.report.plots import COLOURS, literal

VECTORS = ("gaussian", "heavy-tailed")
CLIENTS = 10
_SEED = 20240
_MARKERS = "osD^vPX"  # seven, which has no divisor in common with the eight colours: 56 different pairs
_GREY = "#9aa3b2"
_MOST, _LONGEST = 12, 24  # names beside their marks, and characters of one
_STEP = 1.035  # between codecs that stand side by side
_NOTE = (
    "Masked noise: update of half the noise's scale. Heavy-tailed: lognormal magnitudes (sigma 1), random signs.\n"
    "Codecs of equal bits stand side by side. An unbiased codec gains tenfold from ten clients; a bias stays. "
    "(+2): two more methods with this codec."
)


@dataclass(frozen=True, slots=True)
class CodecError:
    """What one codec does to one vector.

    Attributes:
        name: of the method.
        vector: one of `VECTORS`.
        bits: 8 * bytes of the body / elements, mean over keys: measured.
        nmse: |decoded - x|^2 / |x|^2, mean over keys.
        mean_of_ten: the same error of the mean of ten clients' decodings of this vector under independent keys. That
            of an unbiased codec is a tenth of `nmse`; a bias stays.
    """

    name: str
    vector: str
    bits: float
    nmse: float
    mean_of_ten: float


def measure_codecs(codecs: Mapping[str, Codec], *, size: int = 1 << 16, keys: int = 10) -> list[CodecError]:
    """Encode and decode two fixed vectors, each taken as one tensor, with each codec; the same rows at every call.

    The vectors: normal, and heavy-tailed (lognormal magnitudes with sigma 1, random signs). A codec whose
    error depends on how large the vector is gets it with the standard deviation that it is made for
    (`Codec.typical_std`): masked noise, coded or not, half of the noise's scale. The other codecs are scale-free.

    Args:
        codecs: by the name of the method.
        size: elements of a vector, at least 2.
        keys: how many pairs of keys `bits` and `nmse` are the mean of; `mean_of_ten` always takes ten.

    Raises:
        ConfigError: if size or keys are too small.
        EncodeError: if a codec refuses the vector.
    """
    if size < 2 or keys < 1:
        raise ConfigError(f"to measure codecs takes at least 2 elements and 1 key; got {size} and {keys}")
    rng = np.random.Generator(np.random.Philox(_SEED))
    gaussian = rng.standard_normal(size)
    heavy = np.copysign(np.exp(rng.standard_normal(size)), rng.standard_normal(size))
    vectors = dict(zip(VECTORS, (gaussian, heavy), strict=True))
    return [_measure(name, codec, law, x, keys) for name, codec in codecs.items() for law, x in vectors.items()]


def _measure(name: str, codec: Codec, law: str, values: NDArray[np.float64], keys: int) -> CodecError:
    if codec.typical_std is not None:
        values = values * (codec.typical_std / values.std())
    x = values.astype(np.float32)
    total = np.zeros(x.size)
    lengths, errors = [], []
    for client in range(max(keys, CLIENTS)):
        noise, sampling = (derive_key(_SEED, what, client) for what in ("noise", "sampling"))
        body = codec.encode(x, EncodeKeys(noise, sampling))
        decoded = codec.decode(body, x.size, noise)
        if client < keys:
            lengths.append(len(body))
            errors.append(_nmse(decoded.astype(np.float64), x))
        if client < CLIENTS:
            total += decoded
    bits = 8 * float(np.mean(lengths)) / x.size
    return CodecError(name, law, bits, float(np.mean(errors)), _nmse(total / CLIENTS, x))


def _nmse(found: NDArray[np.float64], x: NDArray[np.float32]) -> float:
    wide = x.astype(np.float64)
    return float(np.square(found - wide).sum() / np.square(wide).sum())


def draw_codec_error(rows: Sequence[CodecError]) -> Figure:
    """Return error against measured bits, a panel a vector; codecs without error have no place on a log axis.

    Methods of one codec, whose numbers are all the same, are one mark with the first one's name.

    Raises:
        ConfigError: if no codec has an error.
    """
    alike: dict[tuple[str, float, float, float], list[str]] = {}
    for row in rows:
        if row.nmse > 0:
            alike.setdefault((row.vector, row.bits, row.nmse, row.mean_of_ten), []).append(row.name)
    rows = [CodecError(names[0] + f" (+{len(names) - 1})" * (len(names) > 1), *key) for key, names in alike.items()]
    if not rows:
        raise ConfigError("there is no error to draw: every codec is exact")
    styles = dict(zip(dict.fromkeys(row.name for row in rows), zip(cycle(COLOURS), cycle(_MARKERS)), strict=False))
    named = len(styles) <= _MOST and all(len(name) <= _LONGEST for name in styles)  # else they stand in a legend
    bits = np.array([row.bits for row in rows])
    errors = np.array([(row.nmse, row.mean_of_ten) for row in rows])
    figure = Figure(figsize=(14, 7), dpi=150, layout="constrained")
    panels: list[Axes] = list(figure.subplots(1, len(VECTORS), sharex=True, sharey=True))
    for axes, vector in zip(panels, VECTORS, strict=True):
        axes.set(xscale="log", yscale="log", xlim=(bits.min() / 1.5, bits.max() * 1.5))
        axes.set(ylim=(errors.min() / 2, errors.max() * 3), xlabel="measured bits an element")
        axes.set_title(f"{vector} vector", loc="left", fontsize=11)
        axes.xaxis.set_major_locator(LogLocator(2))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(visible=True, color="#e5e9f0", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        # Equal to a tenth of an octave; the lowest first, so that nothing lies between the others and their names.
        ordered = sorted((r for r in rows if r.vector == vector), key=lambda r: (round(log2(r.bits), 1), r.nmse))
        for _, group in groupby(ordered, key=lambda r: round(log2(r.bits), 1)):
            _draw(axes, list(group), styles, named)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(_minor))
    panels[0].set_ylabel("NMSE: |decoded - x|² / |x|²")
    b = np.geomspace(*panels[0].get_xlim(), 100)
    panels[0].plot(b, 4.0**-b, color=_GREY, linewidth=1, label="Gaussian bound 4^-b", zorder=1)
    panels[0].plot([], [], "o", color=_GREY, markersize=5, label="one client")
    panels[0].plot([], [], "o", color=_GREY, markersize=8, markerfacecolor="white", label="mean of ten clients")
    panels[0].legend(frameon=False, loc="lower left")
    if not named:
        for name, (colour, marker) in styles.items():
            panels[1].plot([], [], marker, color=colour, markersize=5, label=literal(name))
        panels[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    figure.supxlabel(_NOTE, fontsize=9, x=0.01, ha="left")
    return figure


def _minor(value: float, _: float | None) -> str:
    """Name the twos and fives between powers of ten."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


def _draw(axes: Axes, group: Sequence[CodecError], styles: Mapping[str, tuple[str, str]], named: bool) -> None:
    """Draw codecs of equal bits side by side, lowest first; one name stands above it, more in a column left."""
    low, high = axes.get_ylim()
    line = (high / low) ** 0.032  # the height of a line of text, as a factor
    first = float(np.mean([row.bits for row in group])) / _STEP ** ((len(group) - 1) / 2)
    height = 0.0
    for i, row in enumerate(group):
        x, (colour, marker) = first * _STEP**i, styles[row.name]
        axes.plot([x, x], [row.nmse, row.mean_of_ten], color=colour, linewidth=0.9)
        axes.plot(x, row.mean_of_ten, marker, color=colour, markersize=8, markerfacecolor="white")
        axes.plot(x, row.nmse, marker, color=colour, markersize=5)
        if not named:
            continue
        place, leader = (x, max(row.nmse, row.mean_of_ten) * line**0.7), None
        if len(group) > 1:
            height = max(row.nmse, height * line)
            place = (first * 0.9, height)
            leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "relpos": (1, 0.5), "shrinkB": 3}
        text = axes.annotate(
            literal(row.name), (x, row.nmse), place, va="center", arrowprops=leader, color=colour, fontsize=9
        )
        text.set_horizontalalignment("right" if leader or x < 1.6 * axes.get_xlim()[0] else "left")
        if leader:  # the bound passes behind
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
