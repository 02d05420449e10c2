"""Run folders -> the runs of a collection, and the commands that run them again."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedmrn.errors import ConfigError
from fedmrn.experiments.config import Experiment
from fedmrn.experiments.run.folder import read_experiment
from fedmrn.experiments.run.machine import read_machines
from fedmrn.experiments.run.record import Record
from fedmrn.experiments.settings import load_setting
from fedmrn.report import find_runs
from fedmrn.report.reading import read_rounds
from fedmrn.results.records import Collection, Plain, Provenance, StoredRun, shortened
from fedmrn.server.publisher import Sent
from fedmrn.text import spans

_UNKNOWN = Provenance()
_WITHOUT_EFFECT = ("train.workers",)


def import_runs(collection: Collection, folders: Sequence[Path], told: Provenance = _UNKNOWN) -> Collection:
    """Return a collection with the runs of these folders; runs that it has already are replaced.

    Args:
        collection: what is there.
        folders: run folders, or folders with run folders in them. Runs without a whole round are left out.
        told: what is known of the runs' origin that their folders do not say.

    Raises:
        RunError: a folder holds no run, or cannot be read.
    """
    found = {run.key: run for run in collection.runs}
    for folder in find_runs(folders):
        run = _stored(folder, told)
        if run is not None:
            found[run.key] = run
    origins = [run.origin or collection.origin for run in found.values()]
    common = max(origins, key=origins.count, default=collection.origin)
    runs = [
        replace(run, origin=None if origin == common else origin)
        for run, origin in zip(found.values(), origins, strict=True)
    ]
    runs.sort(key=_order)
    return replace(collection, runs=runs, origin=common)


def _order(run: StoredRun) -> tuple[Any, ...]:
    return run.setting, run.method, run.label, sorted((k, str(v)) for k, v in run.set.items()), str(run.seed)


def _stored(folder: Path, told: Provenance) -> StoredRun | None:
    experiment = read_experiment(folder)
    records = read_rounds(folder, experiment)
    if not records:
        return None
    first = records[0]
    return StoredRun(
        setting=experiment.preset,
        method=experiment.method,
        seed=experiment.seed,
        lr=experiment.options.lr,
        set=changes(experiment),
        accuracy=[None if record.accuracy is None else round(record.accuracy, 6) for record in records],
        up=shortened([record.total("up") for record in records]),
        down=shortened([record.total("down") for record in records]),
        mask=shortened([record.up.coded for record in records]),
        again=_again(records),
        clients=shortened([len(record.clients) for record in records]),
        parameters=round(8 * first.up.total / (first.bits_per_parameter * len(first.clients))),
        origin=_origin(folder, experiment, told),
    )


def _again(records: Sequence[Record]) -> tuple[Any, Any] | None:
    """Return bytes and clients of each round that were sent the difference to a public model that they hold."""
    if any(record.public is None or record.by_client is None for record in records):
        return None
    sent = [
        [
            size
            for size, how in zip((r.by_client or {})["down"]["total"], r.public or [], strict=True)
            if _comes_again(how)
        ]
        for r in records
    ]
    return shortened([sum(sizes) for sizes in sent]), shortened([len(sizes) for sizes in sent])


def _comes_again(how: Sent) -> bool:
    return how in (Sent.DIFFERENCE, Sent.SHORTER)


def _origin(folder: Path, experiment: Experiment, told: Provenance) -> Provenance:
    machines = read_machines(folder)
    last = machines[-1] if machines else None
    train = experiment.train
    precision = "bfloat16 autocast" if train.autocast == "bfloat16" else "float32"
    found = Provenance(precision=precision)
    if last is not None:
        on_gpu = last.device != "cpu"
        found = Provenance(
            processor=last.device if on_gpu else last.processor,
            torch=last.torch,
            precision=f"{precision}, convolutions in TF32" if on_gpu and train.autocast == "off" else precision,
            date=last.date,
            code=f"fedmrn {last.fedmrn}",
        )
    said = {name: value for name, value in _fields(told).items() if value}
    return replace(found, **said)


def _fields(origin: Provenance) -> dict[str, str]:
    return {name: getattr(origin, name) for name in Provenance.__dataclass_fields__}


def changes(experiment: Experiment) -> dict[str, Plain]:
    """Return what an experiment has otherwise than its preset, as `--set` takes it; of no preset, everything."""
    values = _flat(experiment.as_dict())
    try:
        plain = load_setting(experiment.preset)
        found = _differing(values, plain.experiment(experiment.method, experiment.seed))
        # Options that follow the rounds or the seed are not changed by hand.
        setting = load_setting(experiment.preset, [f"{k}={_toml(v)}" for k, v in found.items() if k[:6] != "method"])
        followed = _differing(values, setting.experiment(experiment.method, experiment.seed))
        found = {k: v for k, v in found.items() if k[:6] != "method" or k in followed}
    except ConfigError:
        found = values
    return {name: value for name, value in found.items() if name not in _WITHOUT_EFFECT}


def _differing(values: dict[str, Plain], experiment: Experiment) -> dict[str, Plain]:
    other = _flat(experiment.as_dict())
    return {name: value for name, value in values.items() if other.get(name) != value}


def _flat(values: dict[str, Any]) -> dict[str, Plain]:
    """Return data, model, train and options of an experiment by the names that `--set` knows."""
    found: dict[str, Plain] = {}
    for part in ("data", "model", "train"):
        found |= {f"{part}.{name}": value for name, value in values[part].items()}
    options = values["options"]
    return found | {f"method.{k}": v for k, v in (options | options["specific"]).items() if k != "specific"}


def _toml(value: Plain) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def commands(runs: Iterable[StoredRun], name: str) -> list[str]:
    """Return the commands that run these runs: one for each setting, of as many methods and seeds as have it alike.

    Their folders are named after the records.
    """
    seeds: dict[tuple[str, str, tuple[tuple[str, Plain], ...]], list[int]] = {}
    for run in runs:
        if isinstance(run.seed, int):
            seeds.setdefault((run.setting, run.method, tuple(run.set.items())), []).append(run.seed)
    methods: dict[tuple[str, tuple[tuple[str, Plain], ...], str], list[str]] = {}
    for (setting, method, said), numbers in seeds.items():
        methods.setdefault((setting, said, spans(numbers).replace(" ", "")), []).append(method)
    found = []
    for i, ((setting, said, numbered), names) in enumerate(methods.items(), 1):
        words = ["fedmrn", "compare", setting, "--methods", ",".join(names), "--seeds", numbered]
        words += [word for key, value in said for word in ("--set", f"{key}={_toml(value)}")]
        found.append(shlex.join([*words, "--out", f"runs/{name}" if len(methods) == 1 else f"runs/{name}-{i}"]))
    return found
