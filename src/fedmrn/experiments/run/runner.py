"""The runner: an experiment -> a run folder, resumable at any round.

config.toml        the resolved experiment
rounds.jsonl       one JSON line a round (see `record`)
layout.json        the model's tensors: names, shapes and groups in flat order
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
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tomli_w
import torch
from numpy.typing import NDArray

from fedmrn.data import (
    holdings,
    plot_partition,
)
from fedmrn.errors import ConfigError, RunError
from fedmrn.experiments.config import Experiment
from fedmrn.experiments.run.carried import restore_carried, save_carried
from fedmrn.experiments.run.checkpoint import restore, save, saved_round, tidy
from fedmrn.experiments.run.engines import Engine
from fedmrn.experiments.run.folder import check_folder, finished
from fedmrn.experiments.run.layout_file import write_layout
from fedmrn.experiments.run.prepare import Prepared, prepare
from fedmrn.experiments.run.record import Record, read_records, to_record
from fedmrn.federation.engine import RoundResult, simulate
from fedmrn.federation.warmup import warm_up
from fedmrn.files import append, locked, write_atomic
from fedmrn.methods import method
from fedmrn.server import Server
from fedmrn.torch import RULES, ModelLayout


class Progress(Protocol):
    """What a run tells of its progress, and to whom."""

    def wait(self, text: str) -> AbstractContextManager[None]:
        """Show `text` while a step of unknown length runs."""

    def start(self, experiment: Experiment, done: int) -> None:
        """Show that a run starts, or goes on after `done` rounds."""

    def client(self, place: int) -> None:
        """Show that the place-th client of the current round has answered."""

    def round(self, record: Record) -> None:
        """Show a round that is complete and on disk."""


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
    write_layout(folder, layout)

    def taken_part(round_: int) -> dict[int, int]:
        return {client: record.round for record in records[:round_] for client in record.clients}

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
    write_atomic(folder / "rounds.jsonl", "".join(r.as_line() for r in records).encode())
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
                append(folder / "rounds.jsonl", record.as_line().encode())
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


@contextmanager
def _threads(count: int, workers: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or max(1, before // workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)
