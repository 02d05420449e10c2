"""A sweep's TOML file -> its blocks.

description = "what is asked"
preset = "fmnist-iid"             # or several; a file of your own, beside this one, ends in .toml
methods = ["fedmrn", "fedmrn-s"]  # or "all"
seeds = [1, 2, 3]
[set]                             # what --set knows, for all cells
train.rounds = 20
[axes]                            # each value with each of the other axes
method.scale = [0.005, 0.01]
[[block]]                         # where not everything is one product: what a block says goes before the rest
"""

import tomllib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from math import prod
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from fedmrn.errors import ConfigError
from fedmrn.experiments.parsing import parse_toml, validate
from fedmrn.experiments.settings import MOST_OF_A_SETTING, Name
from fedmrn.files import read_file
from fedmrn.methods import METHODS
from fedmrn.text import nearest, printable

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


def sweeps() -> dict[str, str]:
    """Return the names of the sweeps that ship with the package, and what each is."""
    folder = files("fedmrn.experiments") / "sweeps"
    found = {entry.name: entry.read_text("utf-8") for entry in folder.iterdir() if entry.name.endswith(".toml")}
    return {name.removesuffix(".toml"): tomllib.loads(found[name])["description"] for name in sorted(found)}


def blocks_of(values: dict[str, Any], name: str) -> list[Block]:
    """Return the blocks of a sweep's file.

    Raises:
        ConfigError: says which key or value is wrong.
    """
    return [_block(values, table, where) for table, where in _parts(values, name)]


def read_sweep(source: str) -> tuple[dict[str, Any], Path]:
    """Return what a file says, and the folder beside which its presets are looked for."""
    known = sweeps()
    path = Path(source)
    if source.endswith(".toml"):
        found = read_file(path, MOST_OF_A_SETTING, "; give a TOML file", error=ConfigError, links=True)
        if found is None:
            raise ConfigError(f"there is no sweep file {source}")
        data = found
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


def beside(preset: str, folder: Path) -> str:
    """Return the source of a preset that a sweep in this folder names: a file lies beside the sweep's."""
    return str(folder / preset) if preset.endswith(".toml") else preset
