"""What all plots share: colours, axes, and the line at the foot that says what was run."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from fedmrn.files import write_atomic

COLOURS = ("#4c566a", "#d1495b", "#2a7fba", "#e09f3e", "#4f9d69", "#8e5ea2", "#7a5c45", "#17a2a2")
_STYLES = ("-", "--", ":", "-.")
INK = "#2e3440"
SOFT = "#6b7484"
FORMATS = ("png", "pdf")
_POINTS, _NOTE = 6.5, 9  # font sizes of the foot, and of what the figure says itself
_LINES = 6


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a figure's numbers come from.

    Attributes:
        title: what it shows, of which setting.
        runs: the run folders.
        configuration: what was run.
    """

    title: str
    runs: str
    configuration: str


def style(place: int) -> tuple[str, str]:
    """Return the colour and the line style of the place-th curve."""
    return COLOURS[place % len(COLOURS)], _STYLES[place // len(COLOURS) % len(_STYLES)]


def literal(text: str) -> str:
    """Return a text so that matplotlib draws it as it is: a dollar sign starts no formula, nothing lacks a glyph."""
    return text.encode("latin-1", "replace").decode("latin-1").replace("$", r"\$")


def bare(axes: Axes, grid: str = "both") -> None:
    """Draw a light grid behind the data and only two sides of the frame."""
    axes.grid(visible=True, axis=grid, color="#e5e9f0", linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b5bcc9")
    axes.tick_params(which="both", labelcolor=INK, labelsize=9, length=3, color="#b5bcc9")


def save_figure(figure: Figure, stem: Path, origin: Origin, formats: Sequence[str]) -> bytes:
    """Write a figure as STEM.png and so on, with its origin at the foot and in the files; return it as PNG.

    The same figure gives the same bytes: no file holds a date.
    """
    _sign(figure, origin)
    metadata: Mapping[str, Mapping[str, str | None]] = {
        "png": {"Title": origin.title, "Description": _description(origin), "Software": "fedmrn"},
        "pdf": {"Title": origin.title, "Subject": _description(origin), "Creator": "fedmrn", "CreationDate": None},
    }
    made = {}
    for kind in dict.fromkeys(("png", *formats)):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata[kind])
        made[kind] = buffer.getvalue()
    for kind in formats:
        write_atomic(stem.with_name(f"{stem.name}.{kind}"), made[kind])
    return made["png"]


def _description(origin: Origin) -> str:
    return f"runs: {origin.runs}\nconfiguration: {origin.configuration}"


def _sign(figure: Figure, origin: Origin) -> None:
    """Make room below a figure with a constrained layout, and write its note and its origin there."""
    width, height = figure.get_size_inches()
    lines: list[str] = []
    for text in _description(origin).splitlines():
        wrapped = textwrap.wrap(text, int(19 * width), subsequent_indent="    ")
        lines += wrapped[:_LINES] + ["    ... (the whole of it is in the file's metadata)"] * (len(wrapped) > _LINES)
    note = figure.get_supxlabel()
    foot = (len(lines) * 1.3 + 1) * _POINTS / 72
    room = foot + (note.count("\n") + 1) * 1.4 * _NOTE / 72 if note else foot
    figure.set_size_inches(width, height + room)
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, room / (height + room), 1, height / (height + room)))
    figure.supxlabel("")
    place: dict[str, Any] = {"color": SOFT, "va": "top", "linespacing": 1.3, "in_layout": False}
    figure.text(0.012, room / (height + room), note, fontsize=_NOTE, **place)
    figure.text(0.012, foot / (height + room), literal("\n".join(lines)), fontsize=_POINTS, **place)
