"""Run folders -> what is compared: settings, and in each the groups of runs that differ in nothing but the seed."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmrn.data import DATASETS, SCORES
from fedmrn.errors import RunError
from fedmrn.experiments.config import Experiment
from fedmrn.experiments.run.record import Record
from fedmrn.methods import METHODS
from fedmrn.report.reading import read_holdings, read_rounds, read_setting
from fedmrn.server.optimizer import SERVER, server_options
from fedmrn.text import printable, spans

Key = tuple[tuple[str, Any], ...]
TUNING = "tune"
_OWN: Mapping[str, tuple[str, ...]] = {
    "iid": (),
    "dirichlet": ("alpha", "min_size"),
    "labels": ("share",),
    "roles": ("min_size",),
}
"""The options that each partition has."""
_SHOWN = {"data.name", "data.partition", "data.clients", "train.clients_per_round", "train.rounds"}  # in every title


@dataclass(frozen=True)
class Run:
    """A run folder, read.

    Attributes:
        path: the folder.
        name: what figures call it: its path below what all runs share.
        experiment: its configuration.
        records: of its whole rounds, at least one.
        held: who holds what, shape (clients, labels); None for a run from before that was written.
    """

    path: Path
    name: str
    experiment: Experiment
    records: Sequence[Record]
    held: NDArray[np.int64] | None

    @property
    def finished(self) -> bool:
        """Whether every round is there."""
        return len(self.records) == self.experiment.train.rounds


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed, in the order of their seeds.

    The numbers are of `used`: the finished runs, or all of them if none is; up to the round that all of these have.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def experiment(self) -> Experiment:
        """The configuration; the seed is the first run's."""
        return self.runs[0].experiment

    @cached_property
    def used(self) -> tuple[Run, ...]:
        """The runs that the numbers are of."""
        return tuple(run for run in self.runs if run.finished) or self.runs

    @cached_property
    def records(self) -> list[Sequence[Record]]:
        """For each run used, the records of the rounds that all of them have."""
        rounds = min(len(run.records) for run in self.used)
        return [run.records[:rounds] for run in self.used]

    @cached_property
    def beyond(self) -> list[Run]:
        """Runs that are not finished and not used, or go on after the round that all have."""
        return [r for r in self.runs if r not in self.used or len(r.records) > len(self.records[0])]

    @property
    def whole(self) -> bool:
        """Whether the numbers are of all rounds."""
        return len(self.records[0]) == self.experiment.train.rounds

    @property
    def progress(self) -> str:
        """The rounds that the numbers are of, such as 30, or 12 of 30."""
        done = f"{len(self.records[0])}"
        return done if self.whole else f"{done} of {self.experiment.train.rounds}"

    @property
    def folders(self) -> str:
        """The names of the folders, seeds taken together: digits/fedmrn-seed1-3."""
        stems = {run.name.removesuffix(str(run.experiment.seed)) for run in self.runs}
        if len(stems) == 1 and all(run.name.endswith(str(run.experiment.seed)) for run in self.runs):
            return stems.pop() + spans(run.experiment.seed for run in self.runs).replace(" ", "")
        return ", ".join(run.name for run in self.runs)

    def notes(self) -> list[str]:
        """Say what is not finished, and what the numbers are of then."""
        late = [run for run in self.runs if not run.finished]
        if not late:
            return []
        stand = ", ".join(f"seed {r.experiment.seed} at round {len(r.records)}" for r in late)
        which = f"seed{'s' * (len(self.used) > 1)} {spans(r.experiment.seed for r in self.used)}"
        rounds = f"up to round {len(self.records[0])}"
        return [f"{self.label}: {stand} of {self.experiment.train.rounds}; its numbers are of {which} {rounds}"]


@dataclass(frozen=True)
class Section:
    """One setting (data, split, model, training): everything in it can be compared.

    Attributes:
        title: what the setting is.
        name: what distinguishes it from the other settings; empty if there is one only.
        groups: what ran in it, in the order of the table of methods.
    """

    title: str
    name: str
    groups: tuple[Group, ...]

    @property
    def experiment(self) -> Experiment:
        """A configuration with this setting."""
        return self.groups[0].experiment

    @property
    def runs(self) -> list[Run]:
        """All of its runs."""
        return [run for group in self.groups for run in group.runs]

    def notes(self) -> list[str]:
        """What is not finished."""
        return [note for group in self.groups for note in group.notes()]


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the run folders (those with a config.toml) among these folders and in them, but not in a folder `tune`.

    Raises:
        RunError: a folder holds none.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        mine = []
        for place, inside, files in os.walk(folder):
            if "config.toml" in files:
                mine.append(Path(place))
                inside.clear()
            inside[:] = sorted(name for name in inside if name != TUNING)
        if not mine:
            raise RunError(f"{folder} holds no run: neither it nor a folder in it has a config.toml")
        found |= {path.resolve(): path for path in mine}
    return list(found.values())


def collect(paths: Sequence[Path]) -> tuple[list[Section], list[str]]:
    """Read run folders, and return their settings and what was left out, a sentence each.

    Raises:
        RunError: a folder cannot be read, or none holds a whole round.
    """
    if not paths:
        raise RunError("there is no finished run to report")
    names = _names(paths)
    runs: dict[tuple[Key, int], Run] = {}
    notes = []
    for path in sorted(paths, key=lambda p: names[p]):
        experiment = read_setting(path)
        run = Run(path, names[path], experiment, read_rounds(path, experiment), read_holdings(path, experiment))
        key = (setting(experiment) + options(experiment), experiment.seed)
        if not run.records:
            notes.append(f"{run.name} holds no whole round yet")
        elif key in runs:
            first, second = sorted((runs[key], run), key=lambda r: -len(r.records))
            notes.append(f"{second.name} is left out: it has the configuration and seed of {first.name}")
            runs[key] = first
        else:
            runs[key] = run
    if not runs:
        raise RunError(f"{paths[0]} holds no finished round yet; run it with --resume")
    return _sections(list(runs.values())), notes


def _sections(runs: Sequence[Run]) -> list[Section]:
    settings: dict[Key, dict[Key, list[Run]]] = {}
    for run in runs:
        groups = settings.setdefault(setting(run.experiment), {})
        groups.setdefault(options(run.experiment), []).append(run)
    names = differences(settings)
    every = sorted({key for groups in settings.values() for key in groups}, key=_rank)
    labels = _labels(every)
    return [
        Section(
            title=title(_one(groups).experiment, names[key]),
            name=words(names[key]),
            groups=tuple(
                Group(labels[own], tuple(sorted(groups[own], key=lambda r: r.experiment.seed)))
                for own in every
                if own in groups
            ),
        )
        for key, groups in sorted(settings.items(), key=lambda item: _rank(item[0]))
    ]


def _one(groups: Mapping[Key, Sequence[Run]]) -> Run:
    return next(iter(groups.values()))[0]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one, with names such as data.alpha; the options of a method have no prefix."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = "" if key == "options" else f"{prefix}{key}."
        found |= flat(value, name) if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def setting(experiment: Experiment) -> Key:
    """What must be equal for two runs to be compared; a preset's name is not part of it."""
    values = experiment.as_dict()
    own = _OWN[experiment.data.partition]
    others = {f"data.{name}" for names in _OWN.values() for name in names if name not in own}  # without effect
    parts = flat({part: values[part] for part in ("data", "model", "train")})
    others.add("train.workers")
    return tuple((k, v) for k, v in parts.items() if k not in others)


def options(experiment: Experiment) -> Key:
    """The method and its options; an option that follows the run's seed does not tell runs apart."""
    options = flat(experiment.as_dict()["options"])
    every = {name for kind in SERVER for name in server_options(kind)}
    for name in every.difference(server_options(experiment.options.server)):
        options.pop(name)  # without effect
    if options.get("seed") == experiment.seed:
        options["seed"] = "the run's"
    return (("method", experiment.method), *options.items())


def _rank(key: Key) -> tuple[Any, ...]:
    """Order methods as in their table, and values as numbers where they are."""
    places = {name: i for i, name in enumerate(METHODS)}
    cells = [(k, places[v] if k == "method" else v) for k, v in key]
    return tuple((k, isinstance(v, str), v) for k, v in cells)


def _labels(keys: Sequence[Key]) -> dict[Key, str]:
    """Name each by its method, and by what differs where one method is there several times."""
    found: dict[Key, str] = {}
    for method in dict.fromkeys(dict(key)["method"] for key in keys):
        mine = [key for key in keys if dict(key)["method"] == method]
        found |= {key: ", ".join(filter(None, (method, words(own)))) for key, own in differences(mine).items()}
    return found


def differences(keys: Iterable[Key]) -> dict[Key, dict[str, Any]]:
    """Return for each key what is not the same in all of them."""
    every = [dict(key) for key in keys]
    names = dict.fromkeys(name for values in every for name in values)
    missing = object()
    differ = [n for n in names if any(values.get(n, missing) != every[0].get(n, missing) for values in every)]
    return {tuple(values.items()): {n: values[n] for n in differ if n in values} for values in every}


def words(values: Mapping[str, Any]) -> str:
    """Return settings as people say them."""
    return ", ".join(word(name, value) for name, value in values.items())


def word(name: str, value: Any) -> str:
    """Return a setting as people say it: data.alpha and 0.3 are alpha 0.3."""
    shown = f"{value:g}" if isinstance(value, float) else printable(str(value), 60)
    table, _, key = name.rpartition(".")
    return f"{table if key == 'name' else key.replace('_', ' ')} {shown}"


def title(experiment: Experiment, differing: Iterable[str] = ()) -> str:
    """Return what a setting is called; `differing` names settings to add if they are not in every title."""
    data, train = experiment.data, experiment.train
    clients = f"{train.clients_per_round} of {data.clients} clients a round"
    values = flat(experiment.as_dict())
    own = [f"data.{name}" for name in _OWN[data.partition][:1]]
    split = ", ".join([data.partition, *(word(name, values[name]) for name in own)])
    more = [word(name, values[name]) for name in differing if name not in {*_SHOWN, *own}]
    name = score(experiment)
    known = [name] * (name != "accuracy")
    return ", ".join([printable(data.name, 60), split, clients, f"{train.rounds} rounds", *known, *more])


def score(experiment: Experiment) -> str:
    """Return what evaluation reports as accuracy; of a data set that this version does not know, accuracy."""
    return SCORES[DATASETS[experiment.data.name].task] if experiment.data.name in DATASETS else "accuracy"


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """Name run folders by what distinguishes them; if all lie in one folder, with its name."""
    parents = {path.resolve().parent for path in paths}
    root = Path(os.path.commonpath(parents))
    if len(parents) == 1:
        root = root.parent
    return {path: printable(path.resolve().relative_to(root).as_posix()) for path in paths}
