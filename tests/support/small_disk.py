"""A disk under a run of the small federation, watched operation by operation: what is on it at each moment, and what
happens if it is full from some moment on."""

import io
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_federation import SIZES, blobs, federation, small_model

import fedmrn.files
from fedmrn.data import plots
from fedmrn.experiments.run import runner
from fedmrn.experiments.run.prepare import Prepared
from fedmrn.experiments.settings import load_setting
from fedmrn.files import write_atomic
from silent import Silent

METHOD = "topk-ef"  # its clients keep something, and so does the server
CHANGES = ("train.clients_per_round=2", "train.threads=1", "method.server=momentum")
Files = dict[str, bytes]


class Watched:
    """An open file whose every write is an operation of its own, and can be torn."""

    def __init__(self, raw: io.FileIO, operation: Callable[[str, Callable[[], object] | None], None]) -> None:
        self._raw, self._operation = raw, operation
        self.fileno, self.flush = raw.fileno, raw.flush

    def write(self, data: bytes) -> None:
        half = len(data) // 2
        self._operation("write", None)
        self._raw.write(data[:half])
        self._operation("rest", None)
        self._raw.write(data[half:])

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()


class Disk:
    """Calls `before` with the name of each operation that changes something below a folder, before it takes place."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before: Callable[[str], None] = lambda _: None
        self.written: set[str] = set()
        inside, opened = f"{folder}{os.sep}", fedmrn.files._open

        def operation(name: str, _: object = None) -> None:
            self.before(name)

        def watched_open(path: Path, mode: str, *rest: Any, **more: Any) -> Any:
            if "r" in mode or not str(path).startswith(inside):
                return opened(path, mode, *rest, **more)
            operation("open")
            temporary = re.fullmatch(r"\.(.+)\.[0-9a-f]{16}\.part", path.name)
            self.written.add(temporary[1] if temporary else path.name)
            return Watched(io.FileIO(path, mode.replace("b", "")), operation)

        def watch(name: str) -> None:
            real = getattr(os, name) if name != "fsync" else lambda _: None  # it changes nothing here but the time

            def watched(target: Any, *rest: Any, **options: Any) -> Any:
                if isinstance(target, int) or str(target).startswith(inside):
                    operation(name)
                return real(target, *rest, **options)

            monkeypatch.setattr(os, name, watched)

        monkeypatch.setattr(fedmrn.files, "_open", watched_open)
        for name in ("fsync", "replace", "unlink", "mkdir"):
            watch(name)


def small_run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what runs the small federation in a folder, or goes on with it there, as the command line does."""

    experiment = load_setting("digits", CHANGES).experiment(METHOD, 1)
    asked = [3, 1]

    def prepare(*_: object) -> Prepared:
        # One of this seed's clients takes part in rounds 1 and 2 and not again, another in 2 and 3.
        setting = federation(
            METHOD,
            scheme=experiment.scheme(),
            clients_per_round=2,
            local_epochs=1,
            seed=3,
            rounds=asked[0],
            test_every=asked[1],
        )
        labels = SimpleNamespace(labels=blobs(sum(SIZES), 1)[1].numpy, published=True)
        return Prepared(labels, setting, small_model())  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "prepare", prepare)
    monkeypatch.setattr(plots, "plot_partition", lambda _labels, _parts, path, _title: write_atomic(path, b"picture"))

    def run(folder: Path, rounds: int = 3, test_every: int = 1) -> None:
        asked[:] = rounds, test_every
        longer = replace(experiment, train=replace(experiment.train, rounds=rounds, test_every=test_every))
        runner.run(longer, folder, data_dir=folder, resume=True, progress=Silent())

    return run


def files(folder: Path) -> Files:
    """Return everything below a folder as it is, by path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def place(found: Files, folder: Path) -> None:
    """Put files below a folder."""
    for name, data in found.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
