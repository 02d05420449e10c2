"""Tuning: every method tries the same grid of one option, and takes the value with the best accuracy.

The tuning runs are the first rounds of the runs that follow (a schedule keeps its full length), with a seed of their
own. What they compare is the accuracy on the test samples: say so where the result is reported.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path

from fedmrn.errors import ConfigError, RunError
from fedmrn.experiments.config import Experiment, Setting
from fedmrn.experiments.runner import read_records, run_name
from fedmrn.files import write_atomic
from fedmrn.methods import method

FILE = "tuning.json"


@dataclass(frozen=True, slots=True)
class Grid:
    """What is tried: values of one option, for some rounds, with one seed.

    Raises:
        ConfigError: there are fewer than two values, or one twice.
    """

    option: str
    values: tuple[float, ...]
    rounds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.values) < 2 or len(set(self.values)) != len(self.values):
            raise ConfigError(f"--tune needs at least two values of {self.option}, each once")

    @classmethod
    def parse(cls, text: str, rounds: int, seed: int) -> "Grid":
        """Return the grid of a text such as lr=0.01,0.03,0.1,0.3.

        Raises:
            ConfigError: it is not of that form.
        """
        option, equals, values = text.partition("=")
        try:
            numbers = tuple(float(value) for value in values.split(","))
        except ValueError:
            numbers = ()
        if not equals or not option.strip() or not numbers or not all(isfinite(n) for n in numbers):
            raise ConfigError(f"--tune {text!r} is not of the form option=numbers, such as lr=0.01,0.03,0.1,0.3")
        return cls(option.strip(), numbers, rounds, seed)


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came of it for one method.

    Attributes:
        method: its name.
        tried: value -> accuracy after the last tuning round; None where training diverged.
        chosen: the value with the best accuracy, the smaller of equal ones.
    """

    method: str
    tried: Mapping[float, float | None]
    chosen: float

    @property
    def at_the_edge(self) -> bool:
        """Whether a larger grid might hold a better value."""
        return self.chosen in (min(self.tried), max(self.tried))


def with_option(experiment: Experiment, option: str, value: float) -> Experiment:
    """Return the experiment with one option of its method changed.

    Raises:
        ConfigError: the method has no such option, or the value is unusable.
    """
    values = experiment.as_dict()
    options = values["options"]
    (options if option == "lr" else options["options"])[option] = value
    return Experiment.from_dict(values, f"--tune {option}={value:g}")


def trials(
    setting: Setting, names: Sequence[str], grid: Grid, folder: Path
) -> dict[str, dict[float, tuple[Experiment, Path]]]:
    """Return, for each method that has the option, the experiment and the folder of each value.

    Raises:
        ConfigError: no method has the option, or a value is unusable.
    """
    mine = [name for name in names if grid.option == "lr" or grid.option in method(name).options]
    if not mine:
        raise ConfigError(f"--tune: none of these methods has an option {grid.option}")
    found: dict[str, dict[float, tuple[Experiment, Path]]] = {}
    for name in mine:
        base = setting.experiment(name, grid.seed)
        base = replace(base, train=replace(base.train, rounds=grid.rounds))
        cells = ((value, with_option(base, grid.option, value)) for value in grid.values)
        found[name] = {v: (e, folder / f"{run_name(e)}-{grid.option}{v:g}") for v, e in cells}
    return found


def choose(cells: Mapping[str, Mapping[float, tuple[Experiment, Path]]]) -> list[Tuned]:
    """Return each method's choice, from the run folders; a run without its last round has diverged.

    Raises:
        RunError: every value of a method diverged.
    """
    found = []
    for name, values in cells.items():
        tried: dict[float, float | None] = {}
        for value, (experiment, folder) in values.items():
            records = read_records(folder)[: experiment.train.rounds]
            tried[value] = records[-1]["accuracy"] if len(records) == experiment.train.rounds else None
        finished = {value: accuracy for value, accuracy in tried.items() if accuracy is not None}
        if not finished:
            raise RunError(
                f"{name} diverged with every value of {', '.join(f'{v:g}' for v in tried)}; try smaller ones"
            )
        found.append(Tuned(name, tried, max(finished, key=lambda v: (finished[v], -v))))
    return found


def write_tuning(folder: Path, grid: Grid, changes: Sequence[str], found: Sequence[Tuned]) -> None:
    """Write tuning.json: the grid, what the tuning runs changed, and what each method tried and chose."""
    methods = {
        t.method: {"tried": {f"{v:g}": a for v, a in t.tried.items()}, "chosen": t.chosen, "at_the_edge": t.at_the_edge}
        for t in found
    }
    text = json.dumps({**asdict(grid), "changes": list(changes), "methods": methods}, indent=1)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / FILE, text.encode())


def tuning_cells(grid: Grid, found: Sequence[Tuned]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the header and the rows of a table for a person: accuracies in percent, and the choice."""
    header = ("method", *(f"{grid.option}={v:g}" for v in grid.values), "takes")
    rows = []
    for t in found:
        cells = ("diverged" if (a := t.tried[v]) is None else f"{100 * a:.2f}" for v in grid.values)
        rows.append((t.method, *cells, f"{t.chosen:g}" + (" (edge of the grid)" if t.at_the_edge else "")))
    return header, rows
