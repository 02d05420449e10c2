"""Cells in worker processes: a worker that is lost is its cell's failure, and nothing is left behind."""

import multiprocessing
import os
import signal
import threading
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from fedmrn.experiments.many.cells import Event, check, run_cells
from fedmrn.experiments.many.sweep import Cell, load_sweep
from fedmrn.experiments.run.record import read_records
from fedmrn.experiments.settings import load_setting

TEXT = """
preset = "digits"
methods = ["fedmrn"]
seeds = [1, 2, 3]
[set]
train.rounds = 2
train.local_epochs = 1
train.clients_per_round = 1
"""


@pytest.mark.slow
def test_a_worker_that_is_lost(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(TEXT)
    cells = load_sweep(str(tmp_path / "s.toml")).cells
    events: list[Event] = []
    with closing(run_cells(cells, tmp_path, jobs=1, data_dir=tmp_path)) as found:
        for event in found:
            events.append(event)
            if len(events) == 1:  # the first cell has started
                (worker,) = multiprocessing.active_children()
                os.kill(worker.pid or 0, signal.SIGKILL)
            if (event.cell, event.kind) == (cells[2], "start"):
                break
    assert not multiprocessing.active_children()
    last = {event.cell.folder: event for event in events}
    first, second, third = (cell.folder for cell in cells)
    assert last[first].kind == "failed"
    assert "its process ended (exit code -9)" in last[first].text
    assert [e.kind for e in events if e.cell.folder == second] == ["start", "round", "round", "done"]
    assert [e.round for e in events if e.kind == "round"] == [1, 2]
    assert [r.accuracy for r in read_records(tmp_path / second)] == [e.accuracy for e in events if e.kind == "round"]
    assert last[third].kind == "start"


class Mayfly:
    """In place of a worker process: it does one cell, and is gone, though it passes for alive."""

    exitcode = -9
    started: ClassVar[list[Cell]] = []

    def __init__(self, target: object, args: tuple[Connection, Connection]) -> None:
        self.end = Connection(os.dup(args[0].fileno()))

    def start(self) -> None:
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self) -> None:
        with self.end as end:
            cell, *_ = end.recv()
            self.started.append(cell)
            end.send(Event(cell, "done"))

    def is_alive(self) -> bool:
        self.thread.join(60)
        return True

    def join(self) -> None:
        self.thread.join(60)


def test_workers_that_are_lost_between_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another takes the cell, and at the end there is nobody to be told."""
    (tmp_path / "s.toml").write_text(TEXT)
    cells = load_sweep(str(tmp_path / "s.toml")).cells
    context = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=Mayfly)
    monkeypatch.setattr("fedmrn.experiments.many.cells.get_context", lambda _: context)
    monkeypatch.setattr(Mayfly, "started", started := [])
    events = list(run_cells(cells, tmp_path, jobs=1, data_dir=tmp_path))
    assert [(event.cell, event.kind) for event in events] == [(cell, "done") for cell in cells]
    assert started == cells


def test_each_setting_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr("fedmrn.experiments.many.cells.prepare", lambda experiment, _: built.append(experiment))
    settings = [load_setting("digits", [f"data.partition={kind}"]) for kind in ("iid", "labels")]
    experiments = [s.experiment(name, seed) for s in settings for name in ("fedavg", "fedmrn") for seed in (1, 2)]
    check(experiments, tmp_path)
    assert built == [experiments[0], experiments[4]]
