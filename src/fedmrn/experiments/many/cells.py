"""Runs side by side, each in one of several worker processes.

A worker is started once (importing the framework takes seconds) and runs one cell after another. It ends when the
process that started it does, however that ends: a run may be killed at any moment.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Literal

from fedmrn.errors import FedmrnError
from fedmrn.experiments.config import Experiment
from fedmrn.experiments.many.sweep import Cell
from fedmrn.experiments.run.prepare import find_device, prepare
from fedmrn.experiments.run.record import Record
from fedmrn.experiments.run.runner import run
from fedmrn.federation.workers import end_with, uninterrupted
from fedmrn.numerics.threads import cores

_Order = tuple[Cell, Path, Path, Sequence[str]]
"""What a worker is told to run: a cell, the folder of all runs, the folder of data, who is told of rounds."""


@dataclass(frozen=True, slots=True)
class Event:
    """What has become of a cell.

    Attributes:
        cell: which.
        kind: it has started, finished a round, ended well, ended otherwise, or goes on after what `text` says.
        round: how many rounds are done.
        accuracy, seconds: of the round, if it is one; no accuracy where it was not tested.
        text: why it failed, or what else went wrong.
    """

    cell: Cell
    kind: Literal["start", "round", "done", "failed", "warning"]
    round: int = 0
    accuracy: float | None = None
    seconds: float = 0.0
    text: str = ""


def check(experiments: Iterable[Experiment], data_dir: Path) -> None:
    """Build data and model of each setting once, so that what is missing is told, or fetched, before anything runs.

    Raises:
        UsageError: as `fedmrn.experiments.run.prepare.prepare`.
    """
    checked = []
    for experiment in experiments:
        parts = (experiment.data, experiment.model, experiment.train.device, experiment.folder)
        if parts not in checked:
            checked.append(parts)
            prepare(experiment, data_dir)


def default_jobs(experiments: Sequence[Experiment]) -> int:
    """Return how many cells the cores can run at a time; one where any of them trains on a GPU."""
    if any(find_device(e.train.device).type == "cuda" for e in experiments):
        return 1
    needs = max((max(1, e.train.threads) * e.train.workers for e in experiments), default=1)
    return max(1, cores() // needs)


def run_cells(
    cells: Sequence[Cell], folder: Path, *, jobs: int, data_dir: Path, track: Sequence[str] = ()
) -> Generator[Event]:
    """Run cells below a folder, or go on with them, and yield what becomes of them, as it comes.

    A cell that fails is told by an event, and the others go on. Close the iterator to stop: every whole round is kept.
    """
    context = get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    waiting, busy = deque(cells), dict[Connection, tuple[SpawnProcess, Cell]]()
    idle: list[tuple[Connection, SpawnProcess]] = []
    everyone: list[SpawnProcess] = []

    def worker() -> tuple[Connection, SpawnProcess]:
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, watched))
        with uninterrupted():
            process.start()
        there.close()  # so that its end is noticed here
        everyone.append(process)
        return here, process

    def taker(order: _Order) -> tuple[Connection, SpawnProcess]:
        while idle:
            connection, process = idle.pop()
            if process.is_alive() and _sent(connection, order):  # it may have been killed since its last cell
                return connection, process
        connection, process = worker()
        _sent(connection, order)  # if it is lost already, its end is noticed where events are waited for
        return connection, process

    try:
        while waiting or busy:
            while waiting and len(busy) < jobs:
                cell = waiting.popleft()
                connection, process = taker((cell, folder, data_dir, track))
                busy[connection] = (process, cell)
            ready = wait(list(busy))
            for connection in [c for c in busy if c in ready]:
                process, cell = busy[connection]
                try:
                    event: Event = connection.recv()
                except (EOFError, ConnectionResetError):
                    process.join()
                    code = f"exit code {process.exitcode}"
                    event = Event(cell, "failed", text=f"its process ended ({code}): killed, or out of memory")
                if event.kind in ("done", "failed"):
                    del busy[connection]
                    if process.is_alive():
                        idle.append((connection, process))
                yield event
        for connection, _ in idle:
            _sent(connection, None)
            connection.close()
        for process in everyone:
            process.join()
    finally:
        held.close()  # the workers end at once
        for process in everyone:
            process.join()
        watched.close()


def _sent(connection: Connection, order: _Order | None) -> bool:
    """Send an order, or the end, to a worker; return whether there was one to take it."""
    try:
        connection.send(order)
    except OSError:
        return False
    return True


class _Told:
    """Passes on how far a run is."""

    def __init__(self, cell: Cell, connection: Connection) -> None:
        self._cell, self._connection = cell, connection

    def wait(self, text: str) -> AbstractContextManager[None]:
        return nullcontext()

    def start(self, experiment: Experiment, done: int) -> None:
        self._connection.send(Event(self._cell, "start", done))

    def note(self, text: str) -> None:
        self._connection.send(Event(self._cell, "warning", text=text))

    def client(self, done: int) -> None: ...

    def round(self, record: Record) -> None:
        event = Event(self._cell, "round", record.round, record.accuracy, record.seconds)
        self._connection.send(event)

    def warn(self, text: str) -> None:
        self._connection.send(Event(self._cell, "warning", text=text))


def _work(connection: Connection, watched: Connection) -> None:
    """Run the cells that come, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with, args=(watched,), daemon=True).start()
    try:
        while (asked := connection.recv()) is not None:
            cell, folder, data_dir, track = asked
            told, text = _Told(cell, connection), ""
            try:
                where = folder / cell.folder
                run(cell.experiment, where, data_dir=data_dir, resume=True, progress=told, track=track)
            except (FedmrnError, OSError) as error:
                text = str(error)
            except Exception as error:  # a fault of ours: told as the cell's, so that the others go on
                text = f"{type(error).__name__}: {error}"
            connection.send(Event(cell, "failed" if text else "done", text=" ".join(text.split())))
    except (EOFError, OSError):  # nobody listens any more
        os._exit(1)
