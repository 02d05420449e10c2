"""Flower's quickstarts of examples/quickstarts, in one process: their own apps, on a grid of functions."""

import importlib
import shutil
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fake_grid import FakeGrid, reply_from
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import Result, Strategy

HERE = Path(__file__).parents[2] / "examples" / "quickstarts"
PAGE = Path(__file__).parents[2] / "docs" / "quickstarts.md"
APPS = {
    "pytorch": "pytorchexample",
    "lightning": "pytorchlightning_example",
    "transformers": "huggingface_example",
}
"""Folder -> package of the app."""


def changed(app: str) -> list[str]:
    """Names of the files that differ from the stock app."""
    folder = HERE / app / "fedmrn"
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix in {".py", ".toml"})


@dataclass(frozen=True)
class Outcome:
    """What a run left: metrics of the server's test before and after, and the bytes that nodes sent in training."""

    start: dict[str, float]
    metrics: dict[str, float]
    uplink: int
    reported: int


@contextmanager
def imported(app: str, kind: str, folder: Path) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """Yield (server app, client app, their configuration) of the stock app, or of it with the changed files."""
    shutil.copytree(HERE / app / "stock", folder, dirs_exist_ok=True)
    if kind == "fedmrn":
        shutil.copytree(HERE / app / "fedmrn", folder, dirs_exist_ok=True)
    package = APPS[app]
    sys.path.insert(0, str(folder))
    try:
        server = importlib.import_module(f"{package}.server_app").app
        client = importlib.import_module(f"{package}.client_app").app
        settings = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
        yield server, client, settings["tool"]["flwr"]["app"]["config"]
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]


def arrays_of(message: Message) -> int:
    """The bytes of a message's arrays."""
    records = message.content.array_records.values()
    return sum(len(array.data) for record in records for array in record.values())


def run(app: str, kind: str, folder: Path, data: Path, seed: int, nodes: int, **changes: Any) -> Outcome:
    """Run an app from its server app's main function to its end, in the present folder."""
    sent: list[int] = []
    ran: list[tuple[Any, Result]] = []
    start = Strategy.start

    def noted(self: Strategy, *args: Any, **options: Any) -> Result:
        ran.append((self, start(self, *args, **options)))
        return ran[-1][1]

    with imported(app, kind, folder) as (server, client, config):
        config |= {"data-dir": str(data), **changes}
        contexts = {
            node: Context(1, node, {"partition-id": node - 1, "num-partitions": nodes}, RecordDict(), config)
            for node in range(1, nodes + 1)
        }

        def answer(message: Message) -> Message:
            node = message.metadata.dst_node_id
            back = client(message, contexts[node])
            if message.metadata.message_type == "train":
                sent.append(arrays_of(back))
            return reply_from(message, back.content)

        torch.manual_seed(seed)
        Strategy.start = noted  # type: ignore[method-assign]
        try:
            server(FakeGrid(dict.fromkeys(contexts, answer)), Context(1, 0, {}, RecordDict(), config))
        finally:
            Strategy.start = start  # type: ignore[method-assign]
    ((strategy, result),) = ran
    tests = sorted(result.evaluate_metrics_serverapp.items())
    first, last = ({name: float(value) for name, value in tests[k][1].items()} for k in (0, -1))  # type: ignore[arg-type]
    reported = sum(report.up for report in getattr(strategy, "reports", ()))
    assert isinstance(result.arrays, ArrayRecord)
    return Outcome(first, last, sum(sent), reported)
