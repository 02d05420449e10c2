"""What tells settings and methods apart, and what a report calls them."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmrn.data import DATASETS, PARTITIONS, SCORES
from fedmrn.experiments.config import OWN_DATA, Experiment
from fedmrn.methods import METHODS
from fedmrn.server.optimizer import SERVER, server_options
from fedmrn.text import printable

Key = tuple[tuple[str, Any], ...]
"""Names and values that identify a setting, or a method with its options."""
_SHOWN = {"data.name", "data.partition", "data.clients", "train.clients_per_round", "train.rounds"}  # in every title


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one, with names such as data.alpha; the options of a method have no prefix."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = "" if key in ("options", "specific") else f"{prefix}{key}."
        found |= _flat(value, name) if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def setting(experiment: Experiment) -> Key:
    """Return what must be equal for two runs to be compared; a preset's name is not part of it."""
    values = experiment.as_dict()
    used = PARTITIONS[experiment.data.partition]
    ignored = {f"data.{name}" for names in PARTITIONS.values() for name in names if name not in used}
    ignored.add("train.workers")  # without effect on the results, as those
    if not experiment.data.source:
        ignored.update(f"data.{name}" for name in OWN_DATA)
    parts = _flat({part: values[part] for part in ("data", "model", "train")})
    return tuple((k, v) for k, v in parts.items() if k not in ignored)


def options(experiment: Experiment) -> Key:
    """Return the method and its options; an option that follows the run's seed does not tell runs apart."""
    options = _flat(experiment.as_dict()["options"])
    every = {name for kind in SERVER for name in server_options(kind)}
    for name in every.difference(server_options(experiment.options.server)):
        options.pop(name)  # without effect
    if options.get("seed") == experiment.seed:
        options["seed"] = "the run's"
    return (("method", experiment.method), *options.items())


def rank(key: Key) -> tuple[Any, ...]:
    """Order methods as in their table, and values as numbers where they are."""
    places = {name: i for i, name in enumerate(METHODS)}
    cells = [(k, places[v] if k == "method" else v) for k, v in key]
    return tuple((k, isinstance(v, str), v) for k, v in cells)


def labels_of(keys: Sequence[Key]) -> dict[Key, str]:
    """Return a label for each key: its method, and what differs where a method is there several times."""
    found: dict[Key, str] = {}
    for method in dict.fromkeys(dict(key)["method"] for key in keys):
        variants = [key for key in keys if dict(key)["method"] == method]
        found |= {key: ", ".join(filter(None, (method, words(what)))) for key, what in differences(variants).items()}
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


_CALIBRATED = {"never": [], "last": ["calibrated at the end"], "every": ["calibrated after every round"]}


def title(experiment: Experiment, differing: Iterable[str] = ()) -> str:
    """Return what a setting is called; `differing` names settings to add if they are not in every title."""
    data, train = experiment.data, experiment.train
    clients = f"{train.clients_per_round} of {data.clients} clients a round"
    values = _flat(experiment.as_dict())
    first = [f"data.{name}" for name in PARTITIONS[data.partition][:1]]
    split = ", ".join([data.partition, *(word(name, values[name]) for name in first)])
    more = [word(name, values[name]) for name in differing if name not in {*_SHOWN, *first}]
    name = score(experiment)
    unusual = [name] * (name != "accuracy") + _CALIBRATED[train.calibrate]
    return ", ".join([printable(data.name, 60), split, clients, f"{train.rounds} rounds", *unusual, *more])


def score(experiment: Experiment) -> str:
    """Return what evaluation reports as accuracy; of a data set that this version does not know, accuracy."""
    return SCORES[DATASETS[experiment.data.name].task] if experiment.data.name in DATASETS else "accuracy"


def folder_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return a name for each run folder: its path below what all share; if all lie in one folder, from that on."""
    parents = {path.resolve().parent for path in paths}
    root = Path(os.path.commonpath(parents))
    if len(parents) == 1:
        root = root.parent
    return {path: printable(path.resolve().relative_to(root).as_posix()) for path in paths}
