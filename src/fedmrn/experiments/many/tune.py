"""Tuning: every method tries the same grid of one option, and takes the value with the best accuracy.

The tuning runs are the first rounds of the runs that follow (a schedule keeps its full length), with a seed of their
own. What they compare is the accuracy on the test samples; the report says so.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from fedmrn.errors import ConfigError, RunError
from fedmrn.experiments.config import COMMON, Experiment, run_name
from fedmrn.experiments.parsing import parse_value
from fedmrn.experiments.run.record import read_records
from fedmrn.experiments.settings import Setting
from fedmrn.files import clear_scraps, read_file, write_atomic
from fedmrn.methods import method
from fedmrn.parsed import parse_json
from fedmrn.text import printable

FILE = "tuning.json"
_MOST = 1 << 24  # bytes that are read at most
Trials = Mapping[str, Mapping[str, tuple[Experiment, Path]]]
"""Method -> value as text -> the experiment, and its folder."""
Tuning = Mapping[str, Any]
"""What tuning.json holds."""


@pydantic_dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class _Tried:
    tried: dict[str, Annotated[float, Field(ge=0, le=1)] | None]
    chosen: str | None
    at_the_edge: bool


@pydantic_dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class _Tuning:
    option: str
    values: list[str]
    rounds: int
    seed: int
    changes: list[str]
    methods: dict[str, _Tried]


_FILE = TypeAdapter(_Tuning)


@dataclass(frozen=True, slots=True)
class Grid:
    """What is tried: values of one option as TOML (a bare word is a string), for some rounds, with one seed.

    Raises:
        ConfigError: there are fewer than two values, or one twice.
    """

    option: str
    values: tuple[str, ...]
    rounds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        values = [parse_value(v) for v in self.values]
        if len(values) < 2 or any(value in values[:i] for i, value in enumerate(values)):
            raise ConfigError(f"--tune needs at least two values of {self.option}, each once")

    @classmethod
    def parse(cls, text: str, rounds: int, seed: int) -> "Grid":
        """Return the grid of a text such as lr=0.01,0.03,0.1,0.3.

        Raises:
            ConfigError: it is not of that form.
        """
        option, equals, rest = text.partition("=")
        values = tuple(value.strip() for value in rest.split(","))
        if not equals or not option.strip() or not all(values) or "/" in rest:
            raise ConfigError(f"--tune {text!r} is not of the form option=values, such as lr=0.01,0.03,0.1,0.3")
        return cls(option.strip(), values, rounds, seed)


def _with_option(setting: Setting, name: str, seed: int, option: str, value: str) -> Experiment:
    """Return the experiment of one method with one of its options changed; defaults that depend on it follow.

    Raises:
        ConfigError: the method has no such option, or the value is unusable.
    """
    options = {**setting.method.get(name, {}), option: parse_value(value)}
    try:
        return replace(setting, method={**setting.method, name: options}).experiment(name, seed)
    except ConfigError as error:
        raise ConfigError(f"--tune {option}={value}: {error}") from error


def trials(setting: Setting, names: Sequence[str], grid: Grid, folder: Path) -> Trials:
    """Return what to run, for each method that has the option.

    Raises:
        ConfigError: no method has the option, or a value is unusable.
    """
    having = [name for name in names if grid.option in COMMON or grid.option in method(name).options]
    if not having:
        raise ConfigError(f"--tune: none of these methods has an option {grid.option}")
    found: dict[str, dict[str, tuple[Experiment, Path]]] = {}
    for name in having:
        found[name] = {}
        for value in grid.values:
            whole = _with_option(setting, name, grid.seed, grid.option, value)
            cut = replace(whole, train=replace(whole.train, rounds=grid.rounds))
            found[name][value] = cut, folder / f"{run_name(cut)}-{grid.option}{value}"
    return found


def choose(grid: Grid, cells: Trials, changes: Sequence[str]) -> Tuning:
    """Return what each method tried and chose, from the run folders.

    A run without its last round has diverged. Of equal accuracies the earlier value is taken; the choice is None where
    every value diverged.
    """
    methods = {}
    for name, values in cells.items():
        tried: dict[str, float | None] = {}
        for value, (experiment, folder) in values.items():
            records = read_records(folder)[: experiment.train.rounds]
            tried[value] = records[-1].accuracy if len(records) == experiment.train.rounds else None
        best = max((a for a in tried.values() if a is not None), default=None)
        chosen = next((v for v, a in tried.items() if a is not None and a == best), None)
        methods[name] = {"tried": tried, "chosen": chosen, "at_the_edge": chosen in (grid.values[0], grid.values[-1])}
    return {**asdict(grid), "changes": list(changes), "methods": methods}


def tuned(setting: Setting, plan: Sequence[Experiment], tuning: Tuning) -> tuple[list[Experiment], list[str]]:
    """Return the plan of a setting with each method's choice, and the methods left out because they chose nothing."""
    option, taken = tuning["option"], {name: choice["chosen"] for name, choice in tuning["methods"].items()}
    dropped = [name for name, value in taken.items() if value is None]
    kept = [e for e in plan if e.method not in dropped]
    chosen = [
        _with_option(setting, e.method, e.seed, option, taken[e.method]) if e.method in taken else e for e in kept
    ]
    return chosen, dropped


def write_tuning(folder: Path, tuning: Tuning) -> None:
    """Write tuning.json."""
    folder.mkdir(parents=True, exist_ok=True)
    clear_scraps(folder)
    write_atomic(folder / FILE, json.dumps(tuning, indent=1).encode())


def read_tuning(folder: Path) -> Tuning | None:
    """Return what tuning.json of this folder holds, or None if there is none.

    Raises:
        RunError: it cannot be read.
    """
    path = folder / FILE
    data = read_file(path, _MOST, "; delete it")
    if data is None:
        return None
    try:
        parse_json(data)
        tuning = _FILE.validate_json(data)
    except ConfigError as error:
        raise RunError(f"{path} cannot be read ({error}); delete it") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(printable(f"{path} cannot be read ({where} {first['msg']}); delete it", 500)) from error
    for name, choice in tuning.methods.items():
        if list(choice.tried) != tuning.values or choice.chosen not in (None, *tuning.values):
            raise RunError(printable(f"{path}: methods.{name} did not try the values that it names; delete it", 500))
    return asdict(tuning)


def is_of(tuning: Tuning, experiment: Experiment) -> bool:
    """Whether an experiment agrees with a tuning: its method has the chosen value, or was not tuned."""
    choice = tuning["methods"].get(experiment.method)
    if choice is None or choice["chosen"] is None:
        return choice is None
    options = experiment.options.specific | asdict(experiment.options)
    return bool(options.get(tuning["option"]) == parse_value(choice["chosen"]))


def tuning_title(tuning: Tuning) -> str:
    """Return the title of a tuning's table."""
    changes = "".join(f", {change}" for change in tuning["changes"])
    return (
        f"tuning of {tuning['option']}: accuracy in % after {tuning['rounds']} rounds, seed {tuning['seed']}{changes}; "
        "chosen on the test samples"
    )


def tuning_cells(tuning: Tuning) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the header and the rows of a table for a person: accuracies in percent, and the choice."""
    rows = []
    for name, choice in tuning["methods"].items():
        cells = ("diverged" if a is None else f"{100 * a:.2f}" for a in choice["tried"].values())
        edge = " (edge of the grid)" if choice["at_the_edge"] else ""
        rows.append((name, *cells, "nothing" if choice["chosen"] is None else choice["chosen"] + edge))
    return ("method", *(f"{tuning['option']}={value}" for value in tuning["values"]), "takes"), rows
