"""How far a sweep is: a live table on a terminal, a line a finished cell elsewhere."""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedmrn.cli.say import say
from fedmrn.experiments.many.cells import Event
from fedmrn.experiments.many.sweep import Cell, Sweep
from fedmrn.experiments.run.record import accuracies, read_records


class Board:
    """A live display of a sweep: a context manager that is told the events of its cells.

    Args:
        console: where to show it.
        sweep: what is run.
        folder: of the sweep; what is there already counts.
        jobs: how many cells run at a time.
    """

    def __init__(self, console: Console, sweep: Sweep, folder: Path, jobs: int) -> None:
        self._console, self._sweep, self._jobs = console, sweep, jobs
        records_of = {cell.folder: read_records(folder / cell.folder) for cell in sweep.cells}
        self._rounds = {path: len(records) for path, records in records_of.items()}
        self._seconds = {path: [r.seconds for r in records] for path, records in records_of.items()}
        self._accuracy = {path: found[-1] for path, r in records_of.items() if (found := accuracies(r))}
        self._running: dict[Path, Cell] = {}
        self._done = {c.folder for c in sweep.cells if self._rounds[c.folder] >= c.experiment.train.rounds}
        self._failed: set[Path] = set()
        self._live = Live(self, console=console, auto_refresh=console.is_terminal, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def tell(self, event: Event) -> None:
        """Bring the display up to date with what has become of a cell."""
        cell = event.cell
        path = cell.folder
        self._done.discard(path)
        self._running[path] = cell
        if event.kind == "start":
            self._rounds[path] = event.round
        elif event.kind == "round":
            self._rounds[path] = event.round
            if event.accuracy is not None:
                self._accuracy[path] = event.accuracy
            self._seconds[path].append(event.seconds)
        elif event.kind == "warning":
            self._say(f"{path}: {event.text}", "yellow")
        else:
            del self._running[path]
            (self._done if event.kind == "done" else self._failed).add(path)
            self._ended(event)

    def _ended(self, event: Event) -> None:
        path = event.cell.folder
        place = f"[{len(self._done) + len(self._failed)}/{len(self._sweep.cells)}] {path}"
        if event.kind == "failed":
            self._say(f"{place}: failed after {self._rounds[path]} rounds: {event.text}", "red")
        else:
            accuracy = self._accuracy.get(path, float("nan"))
            self._say(f"{place}: {self._rounds[path]} rounds, accuracy {accuracy:.2%}{self._left()}")

    def _say(self, text: str, style: str | None = None) -> None:
        stamp = time.strftime("%H:%M:%S")
        say(self._console, f"{stamp} {text}", style)

    def _left(self) -> str:
        seconds = remaining(self._sweep.cells, self._rounds, self._seconds, self._done | self._failed, self._jobs)
        return f", about {_duration(seconds)} left" if seconds else ""

    def __rich__(self) -> Group:
        """Return the table as it is now."""
        total, ended = len(self._sweep.cells), len(self._done) + len(self._failed)
        waiting = total - ended - len(self._running)
        failed = f", {len(self._failed)} failed" if self._failed else ""
        counts = f"{len(self._done)} of {total} cells done, {len(self._running)} running, {waiting} waiting{failed}"
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("cell", "round", "accuracy"):
            table.add_column(name, justify="left" if name == "cell" else "right", overflow="fold")
        for path, cell in self._running.items():
            accuracy = f"{self._accuracy[path]:.2%}" if path in self._accuracy else "-"
            table.add_row(Text(str(path)), f"{self._rounds[path]}/{cell.experiment.train.rounds}", accuracy)
        return Group(Text(f"{self._sweep.name}: {counts}{self._left()}"), table)


def remaining(
    cells: Sequence[Cell],
    rounds: dict[Path, int],
    seconds: dict[Path, list[float]],
    ended: set[Path],
    jobs: int,
) -> float:
    """Return the seconds that a sweep will still take, 0 if that is not known.

    A round takes what those of its cell took, else those of its method, else those of all: means of what was measured.
    """
    by_method: dict[str, list[float]] = {}
    for cell in cells:
        by_method.setdefault(cell.experiment.method, []).extend(seconds[cell.folder])
    everything = [s for measured in by_method.values() for s in measured]
    if not everything:
        return 0.0
    mean, means = fmean(everything), {name: fmean(taken) for name, taken in by_method.items() if taken}
    left = [
        (cell.experiment.train.rounds - rounds[cell.folder])
        * (fmean(taken) if (taken := seconds[cell.folder]) else means.get(cell.experiment.method, mean))
        for cell in cells
        if cell.folder not in ended
    ]
    return max(sum(left) / jobs, *left, 0.0)


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
