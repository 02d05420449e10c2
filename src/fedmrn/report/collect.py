"""Run folders -> what is compared: comparisons, each of one setting, and in each the variants that ran in it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedmrn.errors import RunError
from fedmrn.experiments.run.folder import read_experiment
from fedmrn.experiments.run.layout_file import read_layout
from fedmrn.experiments.run.record import accuracies
from fedmrn.report.naming import Key, differences, folder_names, labels_of, options, rank, setting, title, words
from fedmrn.report.reading import read_holdings, read_rounds
from fedmrn.report.runs import Comparison, Run, Variant

_TUNING = "tune"


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the run folders (those with a config.toml) among these folders and in them, but not in a folder `tune`.

    Raises:
        RunError: a folder holds none.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        inner = []
        for place, inside, files in os.walk(folder):
            if "config.toml" in files:
                inner.append(Path(place))
                inside.clear()
            inside[:] = sorted(name for name in inside if name != _TUNING)
        if not inner:
            raise RunError(f"{folder} holds no run: neither it nor a folder in it has a config.toml")
        found |= {path.resolve(): path for path in inner}
    return list(found.values())


def collect(paths: Sequence[Path]) -> tuple[list[Comparison], list[str]]:
    """Read run folders, and return their settings and what was left out, a sentence each.

    Raises:
        RunError: a folder cannot be read, or none holds a whole round.
    """
    if not paths:
        raise RunError("there is no finished run to report")
    names = folder_names(paths)
    runs: dict[tuple[Key, int], Run] = {}
    notes = []
    for path in sorted(paths, key=lambda p: names[p]):
        experiment = read_experiment(path)
        run = Run(
            path=path,
            name=names[path],
            experiment=experiment,
            records=read_rounds(path, experiment),
            held=read_holdings(path, experiment),
            layout=read_layout(path),
        )
        key = (setting(experiment) + options(experiment), experiment.seed)
        if not run.records:
            notes.append(f"{run.name} holds no whole round yet")
        elif not accuracies(run.records):
            notes.append(f"{run.name} has tested none of its {len(run.records)} rounds yet")
        elif key in runs:
            first, second = sorted((runs[key], run), key=lambda r: -len(r.records))
            notes.append(f"{second.name} is left out: it has the configuration and seed of {first.name}")
            runs[key] = first
        else:
            runs[key] = run
    if not runs:
        raise RunError(f"{paths[0]} holds no tested round yet; run it with --resume")
    return _compare(list(runs.values())), notes


def _compare(runs: Sequence[Run]) -> list[Comparison]:
    settings: dict[Key, dict[Key, list[Run]]] = {}
    for run in runs:
        variants = settings.setdefault(setting(run.experiment), {})
        variants.setdefault(options(run.experiment), []).append(run)
    names = differences(settings)
    every = sorted({key for variants in settings.values() for key in variants}, key=rank)
    labels = labels_of(every)
    return [
        Comparison(
            title=title(_one(variants).experiment, names[key]),
            name=words(names[key]),
            variants=tuple(
                Variant(labels[chosen], tuple(sorted(variants[chosen], key=lambda r: r.experiment.seed)))
                for chosen in every
                if chosen in variants
            ),
        )
        for key, variants in sorted(settings.items(), key=lambda item: rank(item[0]))
    ]


def _one(variants: Mapping[Key, Sequence[Run]]) -> Run:
    return next(iter(variants.values()))[0]
