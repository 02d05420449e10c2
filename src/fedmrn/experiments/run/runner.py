"""The runner: an experiment -> a run folder, resumable at any round.

config.toml        the resolved experiment
rounds.jsonl       one JSON line a round
checkpoint.bin     the server's state after the last whole round (see `checkpoint`)
carried-N.bin      what the server keeps beside the state after round N, where it keeps something (see `carried`)
memory/            what clients keep from their last round, for methods whose clients do
last-update.bin    one client's frame of the last round, for `fedmrn inspect`
partition.json     who holds what: images by client and label
partition.png      the same as a picture
.lock              held by the process that writes here

Each file is replaced at once, or grows by a line that is on disk before the checkpoint that counts it: a run that is
killed at any moment goes on to the files that it would have written undisturbed, but for `seconds`.
"""

import json
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tomli_w
import torch
from numpy.typing import NDArray
from torch import nn

from fedmrn.data import (
    Dataset,
    PartitionSpec,
    augment,
    by_role,
    find_source,
    holdings,
    load_source,
    partition,
    plot_partition,
    subset,
)
from fedmrn.errors import ConfigError, RunError
from fedmrn.experiments.config import DataConfig, Experiment, difference, parse_toml
from fedmrn.experiments.run.carried import restore_carried, save_carried
from fedmrn.experiments.run.checkpoint import restore, save, saved_round, tidy
from fedmrn.experiments.run.engines import Engine
from fedmrn.experiments.run.record import Record, read_records
from fedmrn.federation.engine import Account, Federation, RoundResult, simulate, total
from fedmrn.federation.warmup import warm_up
from fedmrn.files import append, locked, write_atomic
from fedmrn.methods import method
from fedmrn.models.catalogue import build_model
from fedmrn.server import Server
from fedmrn.torch import RULES, ModelLayout, attach
from fedmrn.torch.objectives import OBJECTIVES


class Progress(Protocol):
    """Who is told how far a run is."""

    def wait(self, text: str) -> AbstractContextManager[None]:
        """Something without a measure of its own is going on."""

    def start(self, experiment: Experiment, done: int) -> None:
        """A run starts, or goes on after `done` rounds."""

    def client(self, place: int) -> None:
        """The place-th client of the current round has answered."""

    def round(self, record: Record) -> None:
        """A round is complete and on disk."""


@dataclass(frozen=True)
class Prepared:
    """An experiment with its data and model built."""

    dataset: Dataset
    federation: Federation
    model: nn.Module


def prepare(experiment: Experiment, data_dir: Path) -> Prepared:
    """Load the data, share it out, build the model.

    Raises:
        UsageError: data that is missing or damaged, a setting that does not fit it.
    """
    data, options = experiment.data, experiment.options
    row, source, device = method(experiment.method), find_source(data.name), find_device(experiment.train.device)
    model = build_model(
        experiment.model.name,
        shape=source.shape,
        classes=source.classes,
        seed=experiment.seed,
        init_std=experiment.model.init_std or None,
        task=source.task,
    ).to(device)
    dataset = load_source(source, data_dir).with_tests(data.max_test)
    own: dict[str, Any] = {name: options.options[name] for name in RULES[row.local].options if name in options.options}
    federation = Federation(
        scheme=experiment.scheme(),
        rule=partial(attach, **own),
        optimizer=options.optimizer,
        train_x=dataset.normalised_train(),
        train_y=dataset.train_y,
        parts=share_out(dataset, data, experiment.seed),
        test_x=dataset.normalised_test(),
        test_y=dataset.test_y,
        rounds=experiment.train.rounds,
        clients_per_round=experiment.train.clients_per_round,
        local_epochs=experiment.train.local_epochs,
        batch_size=experiment.train.batch_size,
        lr=options.lr,
        seed=experiment.seed,
        by_batches=experiment.train.weight_by == "batches",
        augment=partial(augment, fill=dataset.black()) if dataset.augment else None,
        bfloat16=experiment.train.autocast == "bfloat16",
        graphs=experiment.train.graphs,
        objective=OBJECTIVES[source.task],
    )
    return Prepared(dataset, federation, model)


def share_out(dataset: Dataset, data: DataConfig, seed: int) -> list[NDArray[np.int64]]:
    """Return the indices of each client's training samples.

    Raises:
        ConfigError: the data set cannot be shared so.
    """
    if data.partition == "roles":
        parts = by_role(dataset.roles, data.clients, data.min_size, seed)
    else:
        spec = PartitionSpec(data.partition, data.alpha, data.min_size, data.share)
        parts = partition(dataset.labels(), spec, data.clients, seed)
    return [subset(part, data.max_samples, seed, client) for client, part in enumerate(parts)]


def find_device(name: str) -> torch.device:
    """Return the device of `train.device`: cpu, cuda, or with auto CUDA where torch finds it.

    Raises:
        ConfigError: it is cuda and torch finds none.
    """
    cuda = torch.cuda.is_available()
    if name == "cuda" and not cuda:
        raise ConfigError(
            f'train.device = "cuda", but torch {torch.__version__} finds no CUDA device here; "auto" takes the CPU then'
        )
    return torch.device("cuda" if cuda and name != "cpu" else "cpu")


def run(
    experiment: Experiment,
    folder: Path,
    *,
    data_dir: Path,
    resume: bool,
    progress: Progress,
    engine: Engine = Engine.PROCESS,
) -> list[Record]:
    """Run an experiment to its end and return its records; a stopped run keeps every whole round.

    A wrong setting or missing data is found before the folder is made. Either engine goes on with a run of the other.

    Raises:
        RunError: the folder is in use by another configuration or process, holds a run and `resume` is not set, or a
            round cannot be written.
        UsageError: as `prepare`, or what the engine needs is not installed.
    """
    check_folder(folder, experiment, resume)
    check_engine(engine)
    if finished(folder, experiment):
        tidy(folder, saved_round(folder))
        records = read_records(folder)
        progress.start(experiment, len(records))
        return records[: experiment.train.rounds]
    if folder.exists():
        with locked(folder):  # if another process has it, that is told before the data is read
            pass
    with progress.wait(f"reading {experiment.data.name}"):
        prepared = prepare(experiment, data_dir)
    with progress.wait("preparing the kernels (compiled once for an installation)"):
        warm_up(prepared.federation.scheme)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        check_folder(folder, experiment, resume)  # another process may have been here meanwhile
        return _go_on(experiment, folder, prepared, data_dir=data_dir, progress=progress, engine=engine)


def finished(folder: Path, experiment: Experiment) -> bool:
    """Whether a folder holds all rounds of its experiment.

    Raises:
        RunError: the checkpoint is damaged.
    """
    return min(saved_round(folder), len(read_records(folder))) >= experiment.train.rounds


def _go_on(
    experiment: Experiment, folder: Path, prepared: Prepared, *, data_dir: Path, progress: Progress, engine: Engine
) -> list[Record]:
    """Run what is missing, in a folder that is this process's."""
    records = read_records(folder)
    write_atomic(folder / "config.toml", tomli_w.dumps(experiment.as_dict()).encode())
    held = holdings(prepared.dataset.labels(), prepared.federation.parts)
    write_atomic(folder / "partition.json", json.dumps(held.tolist()).encode())
    view = ModelLayout.of(prepared.model)
    layout = view.layout

    def taken_part(round_: int) -> dict[int, int]:
        return {client: record["round"] for record in records[:round_] for client in record["clients"]}

    remembers = RULES[method(experiment.method).local].remembers
    done, state, memory = restore(folder, len(records), layout, taken_part if remembers else lambda _: {})
    if state is None:
        state = Server.initial(layout, prepared.federation.scheme, view.read())
        plot_partition(
            prepared.dataset.labels(),
            prepared.federation.parts,
            folder / "partition.png",
            f"{experiment.data.name}, {experiment.data.partition}, {experiment.data.clients} clients: who holds what",
        )
    carried = restore_carried(folder, layout, done, prepared.federation.scheme)
    tidy(folder, done)
    records = records[:done]
    write_atomic(folder / "rounds.jsonl", "".join(json.dumps(r) + "\n" for r in records).encode())
    progress.start(experiment, done)
    train = experiment.train
    with (
        _threads(train.threads, train.workers),
        closing(
            _results(
                engine,
                partial(prepare, experiment, data_dir.resolve()),
                prepared,
                state,
                progress.wait("starting Flower's simulation engine"),
                first=done + 1,
                memory=memory,
                carried=carried,
                on_client=progress.client,
                workers=train.workers,
            )
        ) as results,
    ):
        for result in results:
            record = to_record(result)
            try:
                append(folder / "rounds.jsonl", (json.dumps(record) + "\n").encode())
                write_atomic(folder / "last-update.bin", result.sample)
                save_carried(folder, layout, method(experiment.method).id, result.round, result.carried)
                save(folder, layout, method(experiment.method).id, result)
            except OSError as error:
                raise RunError(
                    f"{error.filename}: {error.strerror}; the {len(records)} rounds before are kept; put that right, "
                    "and the same command goes on (run and compare with --resume)"
                ) from error
            records.append(record)
            progress.round(record)
    return records


def _results(
    engine: Engine,
    make: Callable[[], Prepared],
    prepared: Prepared,
    state: NDArray[np.float32],
    starting: AbstractContextManager[None],
    **options: Any,
) -> Generator[RoundResult]:
    if engine == Engine.PROCESS:
        return simulate(prepared.federation, prepared.model, state, **options)
    from fedmrn.flower.simulation import simulate_on_flower  # noqa: PLC0415 - an extra, and seconds to import

    return simulate_on_flower(make, prepared.federation, prepared.model, state, starting=starting, **options)


def check_engine(engine: Engine) -> None:
    """Raise ConfigError if what an engine needs is not installed."""
    if engine == Engine.PROCESS:
        return
    # Read when Flower and Ray are imported: no telemetry, no advice on what Ray will do in future.
    for switch in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        os.environ.setdefault(switch, "0")
    try:
        from fedmrn.flower.simulation import check_ray  # noqa: PLC0415 - an extra, and seconds to import
    except ModuleNotFoundError as error:
        raise ConfigError('--engine flower needs Flower: pip install "fedmrn[flower]" "flwr[simulation]"') from error
    check_ray()


def to_record(result: RoundResult) -> Record:
    """Return a round as plain values: everything but `seconds` is a function of the configuration and the seed.

    `up` and `down` hold the bytes of all clients together by part, `raw` what the same would have taken without coding
    (`fedmrn.wire.messages.plain`), and `by_client` the bytes of each client, in the order of `clients`. `density` is
    the share of ones in the masks, a coded tensor; other methods have none. `noise_scale` is the geometric
    mean of the scales that clients chose for their noise, a coded tensor, where they choose.
    """
    exchanges = result.exchanges
    return {
        "round": result.round,
        "accuracy": result.accuracy,
        "loss": result.loss,
        "train_loss": result.train_loss,
        "up": _with_total(result.up),
        "down": _with_total(result.down),
        "raw": {
            "up": _with_total(total(e.raw_up for e in exchanges)),
            "down": _with_total(total(e.raw_down for e in exchanges)),
        },
        "by_client": {"up": _columns([e.up for e in exchanges]), "down": _columns([e.down for e in exchanges])},
        "bits_per_parameter": result.bits_per_parameter,
        **({"density": result.density} if result.density else {}),
        **({"noise_scale": result.noise_scale} if result.noise_scale else {}),
        "clients": result.clients,
        "seconds": round(result.seconds, 3),
    }


def _columns(accounts: Sequence[Account]) -> dict[str, list[int]]:
    return {"coded": [a["coded"] for a in accounts], "total": [sum(a.values()) for a in accounts]}


def _with_total(account: Account) -> Account:
    return {**account, "total": sum(account.values())}


def read_experiment(folder: Path) -> Experiment:
    """Return the experiment of a run folder.

    Raises:
        RunError: the folder holds no run, or its configuration cannot be read.
    """
    path = folder / "config.toml"
    try:
        return Experiment.from_dict(parse_toml(path.read_text("utf-8"), "it"), str(path))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise RunError(f"{path} cannot be read ({error}); mend it, or --out FOLDER for a new run") from error


def check_folder(folder: Path, experiment: Experiment, resume: bool) -> None:
    """Refuse a folder that this run cannot use.

    Raises:
        RunError: it is in use by another configuration, or holds a run and `resume` is not set.
    """
    if not (folder / "config.toml").exists():
        return
    found = read_experiment(folder)
    if found != experiment:
        raise RunError(
            f"{folder} holds another configuration: {difference(found.as_dict(), experiment.as_dict())}; "
            "use the same, or --out FOLDER for a new run"
        )
    if not resume:
        refuse_any(folder)


def refuse_any(folder: Path) -> None:
    """Refuse a folder that holds a run, of whatever configuration.

    Raises:
        RunError: it does.
    """
    if (folder / "config.toml").exists():
        rounds = read_experiment(folder).train.rounds
        raise RunError(
            f"{folder} holds a run already ({len(read_records(folder))} of {rounds} rounds): "
            "add --resume to go on with it, or --out FOLDER to start another"
        )


@contextmanager
def _threads(count: int, workers: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or max(1, before // workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)
