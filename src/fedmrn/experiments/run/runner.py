"""The runner: an experiment -> a run folder, resumable at any round.

config.toml        the resolved experiment
rounds.jsonl       one JSON line a round (see `record`)
layout.json        the model's tensors: names, shapes and groups in flat order
machine.json       which processor and versions ran it, and when
data.json          which data, where no author publishes their digest (see `data_file`)
checkpoint.bin     what the server keeps after the last whole round (see `checkpoint`)
memory/            what clients keep from their last round, for methods whose clients do
mlflow-run         the id of MLflow's run, and events.out.tfevents..., where the run is tracked (see `tracked`)
last-update.bin    one client's frame of the last round, for `fedmrn inspect`
calibrated.bin     the model with statistics of training data, where `fedmrn calibrate` was asked for it
partition.json     who holds what: images by client and label
partition.png      the same as a picture, drawn in the last round
.lock              held by the process that writes here

Each file is replaced at once, or grows by a line that is on disk before the checkpoint that counts it: a run that is
killed at any moment goes on to the files that it would have written undisturbed, but for `seconds`.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import tomli_w
import torch

from fedmrn.data import holdings
from fedmrn.errors import RunError
from fedmrn.experiments.config import DataConfig, Experiment, TrainConfig
from fedmrn.experiments.run.checkpoint import restore, save_checkpoint, tidy
from fedmrn.experiments.run.data_file import check_data, write_data
from fedmrn.experiments.run.folder import check_folder, finished
from fedmrn.experiments.run.layout_file import write_layout
from fedmrn.experiments.run.machine import note_machine, this_machine
from fedmrn.experiments.run.prepare import Prepared, prepare
from fedmrn.experiments.run.private import before
from fedmrn.experiments.run.record import Record, read_records, to_record
from fedmrn.experiments.run.tracked import measured, tracked
from fedmrn.experiments.run.transports import Setup, Start, find_transport
from fedmrn.federation.simulation import simulate
from fedmrn.federation.warmup import warm_up
from fedmrn.files import append, clear_scraps, locked, refuse_links, write_atomic
from fedmrn.methods import method
from fedmrn.server import Server
from fedmrn.server.saved import saved_round
from fedmrn.torch import ModelLayout, local_rule
from fedmrn.tracking import check_trackers
from fedmrn.wire.private import check_sums_alone


class Progress(Protocol):
    """What a run tells of its progress, and to whom."""

    def wait(self, text: str) -> AbstractContextManager[None]:
        """Show `text` while a step of unknown length runs."""

    def start(self, experiment: Experiment, done: int) -> None:
        """Show that a run starts, or goes on after `done` rounds."""

    def note(self, text: str) -> None:
        """Show what is to be known of a run before it starts, such as the privacy that it will have."""

    def client(self, done: int) -> None:
        """So many clients of the current round have answered."""

    def round(self, record: Record) -> None:
        """Show a round that is complete and on disk."""

    def warn(self, text: str) -> None:
        """Show what went wrong beside the run, which goes on."""


def run(
    experiment: Experiment,
    folder: Path,
    *,
    data_dir: Path,
    resume: bool,
    progress: Progress,
    engine: str = "process",
    track: Sequence[str] = (),
) -> list[Record]:
    """Run an experiment to its end and return its records; a stopped run keeps every whole round.

    A wrong setting or missing data is found before the folder is made. Each engine goes on with a run of another.

    Args:
        experiment: the setting, method and seed.
        folder: of the run.
        data_dir: where data files lie.
        resume: go on with a run that is there; also to a larger number of rounds than it had.
        progress: is told how far the run is.
        engine: what carries messages to clients, a key of `fedmrn.experiments.run.transports.TRANSPORTS`.
        track: to which trackers rounds are told, keys of `fedmrn.tracking.TRACKERS`; also those from before.

    Raises:
        RunError: the folder is in use by another configuration or process, holds a run and `resume` is not set, or a
            round cannot be written.
        UsageError: as `prepare`, or what the engine or a tracker needs is not installed.
    """
    check_folder(folder, experiment, resume)
    check_trackers(track)
    start = find_transport(engine)
    if finished(folder, experiment):
        tidy(folder, saved_round(folder))
        records = read_records(folder)
        progress.start(experiment, len(records))
        if track:
            with locked(folder), tracked(track, folder, experiment, records, progress.warn):
                pass  # what the trackers lack is told now
        return records[: experiment.train.rounds]
    if folder.exists():
        with locked(folder):  # if another process has it, that is told before the data is read
            pass
    with progress.wait(f"reading {experiment.data.name}"):
        prepared = prepare(experiment, data_dir)
    if prepared.federation.scheme.theta:
        layout = ModelLayout.of(prepared.model).layout
        check_sums_alone(layout, prepared.federation.scheme.theta)
        progress.note(before(experiment, layout))
    with progress.wait("preparing the kernels (compiled once for an installation)"):
        warm_up(prepared.federation.scheme)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        check_folder(folder, experiment, resume)  # another process may have been here meanwhile
        return _go_on(experiment, folder, prepared, data_dir=data_dir, progress=progress, start=start, track=track)


def _go_on(
    experiment: Experiment,
    folder: Path,
    prepared: Prepared,
    *,
    data_dir: Path,
    progress: Progress,
    start: Start,
    track: Sequence[str],
) -> list[Record]:
    """Run what is missing, in a folder that is this process's."""
    digest = check_data(folder, prepared.dataset)
    records = read_records(folder)
    held = holdings(prepared.dataset.labels(), prepared.federation.parts)
    write_atomic(folder / "partition.json", json.dumps(held.tolist()).encode())
    view = ModelLayout.of(prepared.model)
    layout = view.layout
    write_layout(folder, layout)

    def taken_part(round_: int) -> dict[int, int]:
        return {client: record.round for record in records[:round_] for client in record.clients}

    remembers = local_rule(method(experiment.method).local).remembers
    scheme = prepared.federation.scheme
    saved, memory = restore(folder, len(records), layout, scheme, taken_part if remembers else lambda _: {})
    done = 0 if saved is None else saved.round
    state = None if saved is None else saved.state
    if state is None:
        state = Server.initial(layout, scheme, view.read())
    refuse_links(folder, folder / "partition.png")  # now, and not when it is drawn, after the last round
    tidy(folder, done)
    clear_scraps(folder)
    records = records[:done]
    write_atomic(folder / "rounds.jsonl", "".join(r.as_line() for r in records).encode())
    progress.start(experiment, done)
    train = experiment.train
    setup = Setup(
        prepared=prepared,
        make=partial(prepare, experiment, data_dir.resolve(), digest=digest),
        workers=train.workers,
        wait=progress.wait,
    )
    with (
        _threads(train.threads, train.workers),
        start(setup) as transport,
        closing(
            simulate(
                prepared.federation,
                prepared.model,
                state,
                transport=transport,
                first=done + 1,
                memory=memory,
                carried=None if saved is None else saved.carried,
                on_client=progress.client,
            )
        ) as results,
    ):
        # Now that all is ready: a run that is to be extended is a finished one until here.
        note_machine(folder, this_machine(_device_name(view.device)))
        write_data(folder, prepared.dataset, digest)
        write_atomic(folder / "config.toml", tomli_w.dumps(experiment.as_dict()).encode())
        if any(record != _as_of(record, train) for record in records):  # after the configuration that says so
            records = [_as_of(record, train) for record in records]
            write_atomic(folder / "rounds.jsonl", "".join(r.as_line() for r in records).encode())
        with tracked(track, folder, experiment, records, progress.warn) as told:
            for result in results:
                record = to_record(result)
                try:
                    if result.round == train.rounds:
                        _draw(prepared, experiment.data, folder / "partition.png")
                    append(folder / "rounds.jsonl", record.as_line().encode())
                    write_atomic(folder / "last-update.bin", result.sample)
                    save_checkpoint(folder, layout, method(experiment.method).id, experiment.seed, result)
                except OSError as error:
                    raise RunError(
                        f"{error.filename}: {error.strerror}; the {len(records)} rounds before are kept; put that "
                        "right, and the same command goes on (run and compare with --resume)"
                    ) from error
                records.append(record)
                progress.round(record)
                told.round(measured(record))
    return records


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _as_of(record: Record, train: TrainConfig) -> Record:
    """Return the record of a round as a run of these rounds has it: the last round of a shorter run was tested."""
    return record if train.tests(record.round) else replace(record, accuracy=None, loss=None)


def _draw(prepared: Prepared, data: DataConfig, path: Path) -> None:
    """Draw who holds what: late, as what draws takes longer to import than a round, and before the run is finished."""
    from fedmrn.data import plot_partition  # noqa: PLC0415

    title = f"{data.name}, {data.partition}, {data.clients} clients: who holds what"
    plot_partition(prepared.dataset.labels(), prepared.federation.parts, path, title)


@contextmanager
def _threads(count: int, workers: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or max(1, before // workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)
