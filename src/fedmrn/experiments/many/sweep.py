"""Sweeps: blocks of a file (see `blocks`) -> cells, each an experiment with a folder of its own.

Cells of the same block, preset and axis values make up a table: they differ in method and seed. Everything is checked
before anything runs, and the order is that of the file.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import tomli_w

from fedmrn.errors import ConfigError
from fedmrn.experiments.config import Experiment, difference, run_name
from fedmrn.experiments.many.blocks import Block, beside, blocks_of, read_sweep
from fedmrn.experiments.settings import Setting, check_used, load_setting
from fedmrn.text import printable

_MOST = 10_000  # cells


@dataclass(frozen=True, slots=True)
class Cell:
    """An experiment and the folder of its run, below that of the sweep."""

    experiment: Experiment
    folder: Path


@dataclass(frozen=True, slots=True)
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


def load_sweep(source: str, changes: Sequence[str] = ()) -> Sweep:
    """Read a sweep by name, or a TOML file by path, and resolve it.

    Args:
        source: a name of `sweeps`, or a path that ends in .toml.
        changes: `--set key=value`, for all cells; not of what the sweep varies.

    Raises:
        ConfigError: says which key or value is wrong, or which cells contradict each other.
    """
    values, folder = read_sweep(source)
    name = Path(source).stem
    blocks = blocks_of(values, name)
    if sum(block.size for block in blocks) > _MOST:
        raise ConfigError(
            f"sweep {name} has {sum(block.size for block in blocks):,} cells; at most {_MOST:,} are taken"
        )
    for block in blocks:
        for preset in block.preset:
            load_setting(beside(preset, folder), changes, folder=folder)  # a mistake in --set is told as one
        for change in changes:
            for axis in block.axes:
                if _overlap(change.partition("=")[0].strip(), axis):
                    raise ConfigError(f"--set {change}: {axis} is what sweep {name} varies; change the file")
    try:
        tables = _tables(blocks, changes, folder)
        cells = _unique(tables)
    except ConfigError as error:
        raise ConfigError(f"sweep {name}: {error}") from error
    return Sweep(name, printable(str(values.get("description", ""))), *cells)


def _overlap(one: str, other: str) -> bool:
    """Whether two keys set the same option: of one method, of all, or one of each."""
    (*first, option), (*second, other_option) = one.split("."), other.split(".")
    general = sorted([len(first), len(second)]) == [1, 2] and first[0] == second[0]
    return one == other or (option == other_option and general)


def _tables(blocks: Sequence[Block], changes: Sequence[str], folder: Path) -> dict[str, dict[str, Experiment]]:
    """Return for each table its experiments, by the text that identifies each."""
    several = len({preset for block in blocks for preset in block.preset}) > 1
    short = _short_names({key for block in blocks for key in block.axes})
    tables: dict[str, dict[str, Experiment]] = {}
    check_used(changes, [method for block in blocks for method in block.methods])
    for block in blocks:
        check_used(_texts(block.set), block.methods, "set:")
        seen: dict[str, str] = {}
        for preset, point in product(block.preset, product(*block.axes.values())):
            values = dict(zip(block.axes, point, strict=True))
            parts = [f"{short[key]}={_word(value)}" for key, value in values.items()]
            words = filter(None, (block.name, Path(preset).stem if several else "", *parts))
            table = ",".join(re.sub(r"[^\w.+=-]", "-", word) for word in words)
            if table in (".", "..", "tune"):  # a report passes over tuning runs
                raise ConfigError(f"{table!r} cannot be the folder of a block: give it another name")
            setting = _setting(beside(preset, folder), folder, block.set, changes, values)
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


def _setting(
    preset: str, folder: Path, common: Mapping[str, Any], changes: Sequence[str], values: Mapping[str, Any]
) -> Setting:
    """Return a preset with what the sweep, `--set` and the axes say, the last of them first.

    A cell has one thread unless something says otherwise: results must not depend on how many cores a machine has.
    """
    texts = [*_texts(common), *changes, *_texts(values)]
    setting = load_setting(preset, texts, "set or axes:", folder=folder)
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
