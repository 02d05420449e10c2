"""Tables on the screen: the comparison, and a frame for a person."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from fedmrn.cli.say import say
from fedmrn.codecs import CODECS, Raw, codec_from
from fedmrn.errors import FrameError, LimitError
from fedmrn.methods import METHODS
from fedmrn.report.account import SECTIONS, traffic_line
from fedmrn.report.saving import downlink_hint
from fedmrn.report.summary import Summary
from fedmrn.report.tables import LEGEND, screen_table
from fedmrn.wire.frame import Frame, Role, Section
from fedmrn.wire.layout import Group
from fedmrn.wire.plain import plain
from fedmrn.wire.public import GRID, Heading
from fedmrn.wire.terms import read_caps, read_scales, read_terms

_WIDEST = 1000
_MOST = 1 << 27  # elements: a section can declare more than anyone would wait for


def show_table(
    console: Console,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    caption: str = "",
    figures: bool = False,
) -> None:
    """Print a table; with `figures`, all columns but the first are aligned to the right, and none wraps."""
    table = Table(
        title=escape(title) or None,
        title_justify="left",
        caption=escape(caption) or None,
        caption_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for i, name in enumerate(header):
        table.add_column(
            name, justify="right" if figures and i else "left", vertical="bottom", no_wrap=figures or i == 0
        )
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    # Figures are never cut: a line that is longer than the screen is wrapped by it.
    if figures:
        table.width = Measurement.get(console, console.options.update(max_width=_WIDEST), table).maximum
    console.print(table, crop=not figures, soft_wrap=figures)


def show_comparison(console: Console, rows: Sequence[Summary], title: str) -> None:
    """Print the comparison of methods, and whose downlink could be smaller; of one alone, its traffic too."""
    show_table(console, *screen_table(rows), title=title, caption=LEGEND, figures=True)
    if len(rows) == 1:
        say(console, traffic_line(rows[0].account, rows[0].calibration_bytes))
    hint = downlink_hint(rows)
    if hint is not None:
        say(console, hint, style="yellow")


def show_frame(console: Console, frame: Frame, size: int) -> None:
    """Print a frame: what it says of itself, and its sections."""
    name = next((m.name for m in METHODS.values() if m.id == frame.method), "unknown method")
    facts = {
        "kind": frame.kind.name.lower(),
        "method": f"{frame.method} ({name})",
        "round": str(frame.round),
        "noise key": f"{frame.noise_key:016x}",
        "layout digest": frame.layout_digest.hex(),
        "weight": str(frame.weight),
        "length": f"{size:,} bytes: {_parts(frame)}",
        "raw length": _raw_length(frame),
        "checksum": "correct",
    }
    for key, value in facts.items():
        console.print(f"{key:>14}  {value}", highlight=False, markup=False, soft_wrap=True)
    rows = [_section_row(frame, s) for s in frame.sections]
    show_table(console, ("section", "codec", "elements", "bytes", "bits/element", "content"), rows)


def _parts(frame: Frame) -> str:
    found = frame.account()
    coded = [s for s in frame.sections if s.group is Group.CODED and s.role is not Role.TEMPLATE]
    names = {"mask": "values"} if coded and all(s.codec == Raw.id for s in coded) else {}
    return ", ".join(
        f"{names.get(name, name)} {sum(found.get(p, 0) for p in parts):,}"
        for name, parts in SECTIONS.items()
        if name != "total" and found.keys() & parts  # a frame has no part of a secure sum
    )


def _raw_length(frame: Frame) -> str:
    """The length with masks as plain bits, and side data and state as float32."""
    try:
        if any(s.count > _MOST for s in frame.sections):
            raise LimitError("too many elements to write out")
        raw = plain(frame)
    except FrameError:  # the section's own row says what is wrong with it
        return "not known: a section is too large, damaged, or of an unknown codec"
    return f"{sum(raw.account().values()):,} bytes: {_parts(raw)}"


def _section_row(frame: Frame, s: Section) -> tuple[str, ...]:
    bits = f"{8 * s.size / s.count:.3f}" if s.count else "-"
    # Raw values may be an update, or what a server or client keeps in a file.
    role = "values" if s.codec == Raw.id and s.role is Role.UPDATE else s.role.name.lower()
    label = f"{s.group.name.lower()} {role}"
    name, content = _content(frame, s)
    return label, name, f"{s.count:,}", f"{s.size:,}", bits, content


def _terms(frame: Frame) -> str:
    told = [f"{name} = {value:g}" for name, value in read_terms(frame).items()]
    for words, exponents in (("scales at most", read_caps(frame)), ("noise of scales", read_scales(frame))):
        told += [f"{words} 2^{min(exponents)} to 2^{max(exponents)}"] if exponents else []
    return ", ".join(told)


def _public(s: Section) -> str:
    try:
        heading = Heading.of(s)
    except FrameError as error:
        return f"public model, damaged: {error}"
    counted = "the run's starting weights" if heading.start is not None else "zero"
    what = "whole" if heading.base is None else f"what changed since model {heading.base}"
    return f"public model {heading.number}, {what}; run {heading.run.hex()}, numbers count from {counted}"


_WORDS = {
    Role.TERMS: "",
    Role.SERVER: "the server's secret, the run's id, caps, who was asked",
    Role.PUBLIC: "public models, and who holds which",
}
"""What sections hold that no codec reads; of terms it is read."""


def _content(frame: Frame, s: Section) -> tuple[str, str]:
    """The codec's name, and what the section holds; the body is checked before it is summed up."""
    if s.role in _WORDS:
        return "-", _WORDS[s.role] or _terms(frame)
    if s.codec not in CODECS:
        return _no_codec(s)
    return _coded(frame, s)


def _no_codec(s: Section) -> tuple[str, str]:
    return ("grid", _public(s)) if s.codec == GRID and s.role is Role.STATE else (f"unknown codec {s.codec}", "-")


def _coded(frame: Frame, s: Section) -> tuple[str, str]:
    codec = codec_from(s.codec, s.params)
    if s.role is Role.TEMPLATE:
        return codec.name, "to be sent like this"
    if codec.needs_state:
        return codec.name, "readable beside its broadcast only"
    if s.count > max(_MOST, 8 * len(s.body)):  # with a bit an element or more, the section itself is as long
        return codec.name, "too many elements to look at"
    return codec.name, codec.open(s.body, s.count, frame.noise_key, float("inf")).describe(s.count)
