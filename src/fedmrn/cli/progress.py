"""Progress on the screen: bars on a terminal, a line a round elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fedmrn.cli.say import ERR, say
from fedmrn.experiments.config import Experiment
from fedmrn.experiments.run.record import WAYS, Record


class Bars:
    """A context manager that shows how far one or several runs are.

    Args:
        console: where to show it.
        runs: how many runs there will be.
    """

    def __init__(self, console: Console, runs: int) -> None:
        self._console, self._runs = console, runs
        self._run = 0
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._label = ""
        self._rounds = self._clients = 1

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    @contextmanager
    def wait(self, text: str) -> Iterator[None]:
        """Show `text` while a step of unknown length runs."""
        started = time.perf_counter()
        task = self._bars.add_task(self._escape(text), total=None, unit="")
        try:
            yield
        finally:
            self._bars.remove_task(task)
        seconds = time.perf_counter() - started
        if seconds > 2 and not self._console.is_terminal:
            self._console.print(f"{text}: {seconds:.0f} s", markup=False, highlight=False)

    def start(self, experiment: Experiment, done: int) -> None:
        """Show that a run starts, or goes on after `done` rounds."""
        self._run += 1
        self._rounds, self._clients = experiment.train.rounds, experiment.train.clients_per_round
        place = f"[{self._run}/{self._runs}] " if self._runs > 1 else ""
        self._label = f"{place}{experiment.method} seed {experiment.seed}"
        if self._task is not None:
            self._bars.update(self._task, visible=self._console.is_terminal)
        self._task = self._bars.add_task(
            self._escape(self._label),
            total=self._rounds * self._clients,
            completed=done * self._clients,
            unit="clients",
        )
        if done and not self._console.is_terminal:
            self._console.print(f"{self._label}: {done} of {self._rounds} rounds were done before", markup=False)

    def note(self, text: str) -> None:
        """Show what is to be known before a run starts."""
        say(ERR, text)

    def client(self, done: int) -> None:
        """Show that a client has answered."""
        if self._task is not None:
            self._bars.advance(self._task)

    def round(self, record: Record) -> None:
        """Show a round that is done."""
        up, down = (f"{record.total(way) / 1e6:.2f} MB" for way in WAYS)
        tested = "not tested" if record.accuracy is None else f"accuracy {record.accuracy:.2%}"
        text = f"{tested}, {up} up, {down} down"
        if self._task is not None:
            self._bars.update(self._task, description=self._escape(f"{self._label}: {text}"))
        if not self._console.is_terminal:
            stamp = time.strftime("%H:%M:%S")
            line = f"{stamp} {self._label} round {record.round}/{self._rounds}: {text}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Show what went wrong beside the run, which goes on."""
        say(ERR, f"{self._label}: {text}", "yellow")

    @staticmethod
    def _escape(text: str) -> str:
        return text.replace("[", r"\[")
