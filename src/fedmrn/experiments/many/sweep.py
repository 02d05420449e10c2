"""Sweeps: a TOML file -> cells, each an experiment with a folder of its own.

    description = "what is asked"
    preset = "fmnist-iid"             # or several; a file of your own, beside this one, ends in .toml
    methods = ["fedmrn", "fedmrn-s"]  # or "all"
    seeds = [1, 2, 3]
    [set]                             # what --set knows, for all cells
    train.rounds = 20
    [axes]                            # each value with each of the other axes
    method.scale = [0.005, 0.01]
    [[block]]                         # where not everything is one product: what a block says goes before the rest

Cells of the same block, preset and axis values make up a table: they differ in method and seed. Everything is checked
before anything runs, and the order is that of the file.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from importlib.resources import files
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from fedmrn.errors import ConfigError
from fedmrn.experiments.config import Experiment, difference, run_name
from fedmrn.experiments.parsing import parse_toml, validate
from fedmrn.experiments.settings import Name, Setting, load_setting
from fedmrn.methods import METHODS
from fedmrn.text import nearest, printable

_MOST = 10_000  # cells
Values = Annotated[list[bool | int | float | str], Field(min_length=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Block:
    """One product: presets x axis values x methods x seeds."""

    preset: Annotated[list[Name], Field(min_length=1)]
    methods: Annotated[list[Name], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(strict=True)]], Field(min_length=1)]
    name: str = ""
    set: dict[str, bool | int | float | str] = Field(default_factory=dict)
    axes: dict[str, Values] = Field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many cells."""
        points = prod(len(values) for values in self.axes.values())
        return len(self.preset) * len(self.methods) * len(self.seeds) * points


@plain_dataclass(frozen=True, slots=True)
class Cell:
    """An experiment and the folder of its run, below that of the sweep."""

    experiment: Experiment
    folder: Path


@plain_dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep whose experiments are known: what a file says, with presets and changes applied.

    Attributes:
        name: of the file.
        description: in words.
        cells: what is to be run, each experiment once.
        tables: name -> cells that differ in method and seed only; a cell may stand in several.
    """

    name: str
    description: str
    cells: list[Cell]
    tables: Mapping[str, list[Cell]]


def sweeps() -> dict[str, str]:
    """Return the names of the sweeps that ship with the package, and what each is."""
    folder = files("fedmrn.experiments") / "sweeps"
    found = {entry.name: entry.read_text("utf-8") for entry in folder.iterdir() if entry.name.endswith(".toml")}
    return {name.removesuffix(".toml"): tomllib.loads(found[name])["description"] for name in sorted(found)}


def load_sweep(source: str, changes: Sequence[str] = ()) -> Sweep:
    """Read a sweep by name, or a TOML file by path, and resolve it.

    Args:
        source: a name of `sweeps`, or a path that ends in .toml.
        changes: `--set key=value`, for all cells; not of what the sweep varies.

    Raises:
        ConfigError: says which key or value is wrong, or which cells contradict each other.
    """
    values, beside = _read(source)
    name = Path(source).stem
    blocks = [_block(values, table, where) for table, where in _parts(values, name)]
    if sum(block.size for block in blocks) > _MOST:
        raise ConfigError(
            f"sweep {name} has {sum(block.size for block in blocks):,} cells; at most {_MOST:,} are taken"
        )
    for block in blocks:
        for preset in block.preset:
            load_setting(_beside(preset, beside), changes)  # a mistake in --set is told as one
        for change in changes:
            for axis in block.axes:
                if _overlap(change.partition("=")[0].strip(), axis):
                    raise ConfigError(f"--set {change}: {axis} is what sweep {name} varies; change the file")
    try:
        tables = _tables(blocks, changes, beside)
        cells = _unique(tables)
    except ConfigError as error:
        raise ConfigError(f"sweep {name}: {error}") from error
    return Sweep(name, printable(str(values.get("description", ""))), *cells)


def _overlap(one: str, other: str) -> bool:
    """Whether two keys set the same option: of one method, of all, or one of each."""
    (*first, option), (*second, other_option) = one.split("."), other.split(".")
    general = sorted([len(first), len(second)]) == [1, 2] and first[0] == second[0]
    return one == other or (option == other_option and general)


def _read(source: str) -> tuple[dict[str, Any], Path]:
    """Return what a file says, and the folder beside which its presets are looked for."""
    known = sweeps()
    path = Path(source)
    if source.endswith(".toml"):
        if not path.is_file():
            raise ConfigError(f"there is no sweep file {source}")
        data = path.read_bytes()
    elif source in known:
        data = (files("fedmrn.experiments") / "sweeps" / f"{source}.toml").read_bytes()
    else:
        raise ConfigError(f"sweep {source!r} does not exist{nearest(source, known)} (a file must end in .toml)")
    try:
        return parse_toml(data.decode("utf-8"), source), path.parent
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source} is not a text file in UTF-8") from error


def _parts(values: dict[str, Any], name: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each block of a file and its name for messages; a file without blocks is one block."""
    blocks = values.get("block", [{}])
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks) or not blocks:
        raise ConfigError(f"sweep {name}: block must be written as [[block]]")
    for number, block in enumerate(blocks, 1):
        yield block, f"sweep {name}, block {number}" if "block" in values else f"sweep {name}"


def _block(whole: Mapping[str, Any], table: Mapping[str, Any], where: str) -> Block:
    """Return a block: the keys of its table, and those of the whole file that it does not repeat."""
    merged = {k: v for k, v in whole.items() if k not in ("block", "description")} | dict(table)
    for key in ("set", "axes"):
        tables = [dict(_flat(part.get(key, {}), f"{where}: {key}")) for part in (whole, table)]
        merged[key] = tables[0] | tables[1]
    if isinstance(merged.get("preset"), str):
        merged["preset"] = [merged["preset"]]
    if merged.get("methods") == "all":
        merged["methods"] = list(METHODS)
    block = validate(Block, merged, where)
    lists = {key: getattr(block, key) for key in ("preset", "methods", "seeds")}
    for key, listed in (lists | {f"axes.{key}": values for key, values in block.axes.items()}).items():
        if len(set(listed)) != len(listed):
            raise ConfigError(f"{where}: {printable(key, 60)} has the same value twice")
    return block


def _flat(table: Any, where: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested tables: TOML reads train.rounds = 5 as a table in a table."""
    if not isinstance(table, dict):
        raise ConfigError(f"{where} must be a table of keys such as train.rounds")
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, where, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _beside(preset: str, folder: Path) -> str:
    return str(folder / preset) if preset.endswith(".toml") else preset


def _tables(blocks: Sequence[Block], changes: Sequence[str], beside: Path) -> dict[str, dict[str, Experiment]]:
    """Return for each table its experiments, by the text that identifies each."""
    several = len({preset for block in blocks for preset in block.preset}) > 1
    short = _short_names({key for block in blocks for key in block.axes})
    tables: dict[str, dict[str, Experiment]] = {}
    for block in blocks:
        seen: dict[str, str] = {}
        for preset, point in product(block.preset, product(*block.axes.values())):
            values = dict(zip(block.axes, point, strict=True))
            parts = [f"{short[key]}={_word(value)}" for key, value in values.items()]
            words = filter(None, (block.name, Path(preset).stem if several else "", *parts))
            table = ",".join(re.sub(r"[^\w.+=-]", "-", word) for word in words)
            if table in (".", "..", "tune"):  # a report passes over tuning runs
                raise ConfigError(f"{table!r} cannot be the folder of a block: give it another name")
            setting = _setting(_beside(preset, beside), block.set, changes, values)
            for experiment in (setting.experiment(method, seed) for method in block.methods for seed in block.seeds):
                key = _identity(experiment)
                if seen.setdefault(key, table) != table:
                    raise ConfigError(
                        f"{experiment.method} is the same in {seen[key]} and in {table}, as it has nothing that this "
                        "changes: give it a [[block]] of its own"
                    )
                tables.setdefault(table, {})[key] = experiment
    return tables


def _identity(experiment: Experiment) -> str:
    return json.dumps(experiment.as_dict(), sort_keys=True)


def _setting(preset: str, common: Mapping[str, Any], changes: Sequence[str], values: Mapping[str, Any]) -> Setting:
    """Return a preset with what the sweep, `--set` and the axes say, the last of them first.

    A cell has one thread unless something says otherwise: results must not depend on how many cores a machine has.
    """
    texts = [*_texts(common), *changes, *_texts(values)]
    setting = load_setting(preset, texts, "set or axes:")
    said = any(text.partition("=")[0].strip() == "train.threads" for text in texts)
    return setting if said or setting.train.threads else replace(setting, train=replace(setting.train, threads=1))


def _texts(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={_toml(value)}" for key, value in values.items()]


def _toml(value: Any) -> str:
    return tomli_w.dumps({"v": value}).removeprefix("v = ").strip()


def _word(value: Any) -> str:
    return value if isinstance(value, str) else _toml(value)


def _short_names(keys: set[str]) -> dict[str, str]:
    """Return a short name for each dotted key: its last parts, as few as tell it from the other keys."""

    def ends(key: str) -> list[str]:
        parts = key.split(".")
        return [".".join(parts[i:]) for i in reversed(range(len(parts)))]

    return {k: next(e for e in ends(k) if e == k or all(e not in ends(o) for o in keys - {k})) for k in keys}


def _unique(tables: Mapping[str, Mapping[str, Experiment]]) -> tuple[list[Cell], dict[str, list[Cell]]]:
    """Give each experiment one cell, in the folder of the first table that lists it; return cells and tables."""
    cells: dict[str, Cell] = {}
    taken: dict[Path, Experiment] = {}
    for table, experiments in tables.items():
        first = next(iter(experiments.values()))
        for key, e in experiments.items():
            if (e.data, e.model, e.train) != (first.data, first.model, first.train):
                raise ConfigError(_clash(f"the table {table or 'without a name'}", first, e))
            if key not in cells:
                cells[key] = cell = Cell(e, Path(table) / run_name(e))
                if taken.setdefault(cell.folder, e) is not e:
                    raise ConfigError(_clash(f"the folder {cell.folder}", taken[cell.folder], e))
    return list(cells.values()), {table: [cells[key] for key in keys] for table, keys in tables.items()}


def _clash(where: str, one: Experiment, other: Experiment) -> str:
    differs = difference(one.as_dict(), other.as_dict(), ("in one", "in another"))
    return f"two cells would share {where}: {differs}; give their blocks names"
