"""Pages of a store: what stands between their marks is written from the records, the rest is a person's.

    <!-- table: NAME -->      a table of tables.toml; the records NAME where it has no such table
    <!-- figure: NAME -->     a figure, NAME.png beside the records
    <!-- source: NAME -->     commands and origins of records
    <!-- claims: NAME -->     a table of claims
    <!-- end -->              where each of them ends

Pages are the Markdown files of the store, and the file STORE.md beside it. Records that no page shows get one.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from fedmrn.errors import ConfigError
from fedmrn.files import read_file, write_atomic
from fedmrn.report.tables import markdown
from fedmrn.results.figures import caption, draw, mark_in, mark_of
from fedmrn.results.importing import commands
from fedmrn.results.records import FOLDER, Collection, Provenance, read_collection
from fedmrn.results.specs import FigureSpec, SourceSpec, Specs, TableSpec, read_specs
from fedmrn.results.tables import Collections, TableText, claims_of, named, table_of
from fedmrn.text import nearest

T = TypeVar("T")
_MOST_BYTES = 1 << 24
_NOT_YET = "Not run yet."
_MARK = re.compile(
    r"^<!-- (?P<kind>table|figure|source|claims): (?P<name>[\w.-]+) -->$\n(?P<old>.*?)^<!-- end -->$", re.M | re.S
)
_BEGIN = re.compile(r"^<!-- (?:table|figure|source|claims): ([\w.-]+) -->$", re.M)


@dataclass
class Store:
    """A store that was read.

    Attributes:
        folder: of the store.
        collections: by name.
        specs: of tables.toml.
        pages: texts by path.
        shown: records that the pages show.
        pictures: figures that the pages show, by name.
    """

    folder: Path
    collections: Collections
    specs: Specs
    pages: dict[Path, str]
    shown: set[str] = field(default_factory=set)
    pictures: dict[str, FigureSpec] = field(default_factory=dict)


def _read_store(folder: Path) -> Store:
    """Read a store's records, tables.toml and pages.

    Raises:
        UsageError: a file is not what it should be.
    """
    files = sorted((folder / FOLDER).glob("*.json"))
    if not files:
        raise ConfigError(f"{folder / FOLDER} holds no records: import runs, or give another folder")
    collections = {path.stem: read_collection(path) for path in files}
    cover = folder.with_name(f"{folder.name}.md")
    paths = [cover] * cover.is_file() + sorted(folder.glob("*.md"))
    return Store(folder, collections, read_specs(folder), {path: _text(path) for path in paths})


def _text(path: Path) -> str:
    data = read_file(path, _MOST_BYTES, "; give a page in Markdown", error=ConfigError) or b""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file in UTF-8") from error


def write_results(folder: Path, *, check: bool = False) -> list[Path]:
    """Write what the marks of a store's pages show, from its records; return the files that are new or changed.

    A figure is drawn again only if what it shows has changed.

    Args:
        folder: of the store.
        check: write nothing.

    Raises:
        ConfigError: a mark, a table or a record is not what it should be.
        RunError: a file cannot be read.
    """
    store = _read_store(folder.resolve())
    made = {path: _filled(store, path, text).encode() for path, text in store.pages.items()}
    for name in sorted(store.collections.keys() - store.shown):
        path = store.folder / f"{name}.md"
        if path not in made:
            made[path] = _filled(store, path, _new_page(store, name)).encode()
    changed = [path for path, data in made.items() if not path.is_file() or path.read_bytes() != data]
    drawn: dict[Path, Callable[[], bytes]] = {}
    for name, spec in store.pictures.items():
        path = store.folder / f"{name}.png"
        if mark_in(read_file(path, _MOST_BYTES, "; delete it")) != mark_of(spec, store.collections):
            drawn[path] = partial(draw, spec, store.collections)
    if not check:
        for path in changed:
            write_atomic(path, made[path])
        for path, picture in drawn.items():
            write_atomic(path, picture())
    return [*changed, *drawn]


def _new_page(store: Store, name: str) -> str:
    marks = ("table", "figure", "source") if store.collections[name].runs else ("table", "source")
    return f"# {store.collections[name].title}\n" + "".join(
        f"\n<!-- {kind}: {name} -->\n<!-- end -->\n" for kind in marks
    )


def _filled(store: Store, path: Path, text: str) -> str:
    """Return a page with what its marks show."""
    known = {match["name"] for match in _MARK.finditer(text)}
    for name in _BEGIN.findall(text):
        if name not in known:
            raise ConfigError(f"{path}: the mark {name!r} has no <!-- end --> on a line of its own")

    def shown(match: re.Match[str]) -> str:
        begin = f"<!-- {match['kind']}: {match['name']} -->"
        try:
            body = _SHOW[match["kind"]](store, match["name"], path)
        except ConfigError as error:
            raise ConfigError(f"{path}, {begin}: {error}") from error
        return f"{begin}\n{body.strip(chr(10))}\n<!-- end -->" if body else f"{begin}\n<!-- end -->"

    return _MARK.sub(shown, text)


def _waits(store: Store, spec: TableSpec | FigureSpec | SourceSpec) -> bool:
    """Whether a mark waits for records; notes those that are there as shown."""
    store.shown.update(spec.records)
    return spec.pending and not store.collections.keys() >= set(spec.records)


def _table(store: Store, name: str, _: Path) -> str:
    spec = _spec(store.specs.table, store, name, _default_table)
    if _waits(store, spec):
        return _NOT_YET
    return markdown(*_safe(table_of(spec, store.collections)))


def _default_table(store: Store, name: str) -> TableSpec:
    return TableSpec(records=[name], rows="stated" if store.collections[name].header else "groups")


def _figure(store: Store, name: str, path: Path) -> str:
    spec = _spec(store.specs.figure, store, name, _default_figure)
    if _waits(store, spec):
        return ""
    store.pictures[name] = spec
    where = os.path.relpath(store.folder / f"{name}.png", path.parent).replace(os.sep, "/")
    return f"![{caption(spec, store.collections)}]({where})"


def _default_figure(store: Store, name: str) -> FigureSpec:
    return FigureSpec(records=[name], title=store.collections[name].title)


def _source(store: Store, name: str, path: Path) -> str:
    spec = _spec(store.specs.source, store, name, lambda _, records: SourceSpec(records=[records]))
    if _waits(store, spec):
        return ""
    parts = []
    for record, collection in zip(spec.records, named(spec.records, store.collections), strict=True):
        where = os.path.relpath(store.folder / FOLDER / f"{record}.json", path.parent).replace(os.sep, "/")
        said = f"[{record}]({where}): {'; '.join(_origins(collection))}."
        lines = collection.commands or commands(collection.runs, record)
        block = "".join(f"    {line}\n" for line in lines)
        notes = "".join(f"{note}\n" for note in collection.notes)
        parts.append(block + ("\n" if block else "") + said + "\n" + notes)
    return "\n".join(parts)


def _origins(collection: Collection) -> list[str]:
    """Return in words what the records are, and where they come from."""
    counts: dict[Provenance, int] = {}
    for run in collection.runs:
        origin = run.origin or collection.origin
        counts[origin] = counts.get(origin, 0) + 1
    if not counts:
        return [", ".join(["a table", *_words(collection.origin)])]
    return [", ".join([_counted(number, "run"), *_words(origin)]) for origin, number in counts.items()]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)


def _words(origin: Provenance) -> list[str]:
    torch = f"torch {origin.torch}" if origin.torch else ""
    carried = f"carried over from {origin.carried}" if origin.carried else ""
    said = (origin.processor, torch, origin.precision, origin.date, origin.code, carried)
    return [text for text in said if text]


def _claims(store: Store, name: str, _: Path) -> str:
    spec = _spec(store.specs.claims, store, name, None)
    store.shown.update(record for row in spec.rows for cell in row.cells for record in cell.records)
    return markdown(*_safe(claims_of(spec, store.collections)))


_SHOW: Mapping[str, Callable[[Store, str, Path], str]] = {
    "table": _table,
    "figure": _figure,
    "source": _source,
    "claims": _claims,
}


def _spec(specs: Mapping[str, T], store: Store, name: str, default: Callable[[Store, str], T] | None) -> T:
    if name in specs:
        return specs[name]
    if default is None or name not in store.collections:
        raise ConfigError(
            f"{name!r} is neither in tables.toml nor the name of records{nearest(name, {*specs, *store.collections})}"
        )
    return default(store, name)


def _safe(table: TableText) -> TableText:
    """Return a table whose cells stay cells: a bar in a text ends none."""
    header, rows = table
    return [_one_line(text) for text in header], [[_one_line(text) for text in row] for row in rows]


def _one_line(text: str) -> str:
    return " ".join(text.replace("|", r"\|").split())
