"""A run of the strategy that is killed (SIGKILL) at given moments and started again each time, until it ends.

`python kept_flower_run.py CASE FOLDER WHEN,WHEN,...` - WHEN is in seconds from the start of an attempt, or (marked +)
from the next line that it writes to run.jsonl. The nodes are functions that draw nothing by chance, so that they give
the same answers again; what they keep is below FEDMRN_CACHE, as on Flower, where each message has a process of its own.
Each attempt is forked from this process, which has imported everything. At the end one line says how each attempt
ended, and what the last one told.
"""

import json
import os
import signal
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from flower_clients import SECRET, grid, initial, small_model
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from flwr.supercore.task_identity import TaskIdentity

from fedmrn.flower import FedMRN
from fedmrn.numerics import rng
from fedmrn.server.optimizer import Adam
from fedmrn.torch import ModelLayout
from fedmrn.torch.rules import base

_ADAM = Adam(0.01, 0.9, 0.99, 1e-3)
CASES: dict[str, dict[str, Any]] = {
    "topk-ef": {"method": "topk-ef", "optimizer": _ADAM, "down": "grid"},
    "fedpm": {"method": "fedpm"},
    "fedmrn": {"method": "fedmrn", "optimizer": _ADAM, "down": "grid"},
}
"""What clients keep, moments, public models and who holds them; a state that is no model; caps."""
ROUNDS = 6


def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
    """A number that any bit of the model changes."""
    return MetricRecord({"digest": int.from_bytes(bytes.fromhex(digest(arrays))[:7], "big")})


def digest(arrays: ArrayRecord) -> str:
    return sha256(b"".join(arrays[name].data for name in sorted(arrays))).hexdigest()


def told(result: Result) -> dict[str, Any]:
    """What a run says; the last bits of means of clients' numbers depend on the order of the replies."""
    return {
        "model": digest(result.arrays),
        "test": _rounded(result.evaluate_metrics_serverapp),
        "eval": _rounded(result.evaluate_metrics_clientapp),
        "train": _rounded(result.train_metrics_clientapp),
    }


def _rounded(found: dict[int, MetricRecord]) -> dict[int, dict[str, Any]]:
    return {
        number: {name: round(value, 9) if isinstance(value, float) else value for name, value in record.items()}
        for number, record in found.items()
    }


def run(case: str, folder: Path, rounds: int = ROUNDS, over: Grid | None = None, **more: Any) -> Result:
    plan = FedMRN(ModelLayout.of(small_model()), checkpoint=folder, secret=SECRET, **CASES[case], **more)
    return plan.start(over or grid(), initial(), num_rounds=rounds, evaluate_fn=evaluate)


def attempt(case: str, folder: Path, out: Path) -> int:
    """Run in a process of its own, and return its id."""
    child = os.fork()
    if child:
        return child
    try:
        text = json.dumps(told(run(case, folder)))
        out.write_text(text)
    except BaseException:  # a traceback, as of any process
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        os._exit(1)
    os._exit(0)


def written(folder: Path) -> int:
    """How many lines are on record."""
    return (folder / "run.jsonl").read_bytes().count(b"\n")


def draw_nothing() -> None:
    """Let nodes of this process draw nothing by chance."""
    torch.set_num_threads(1)
    base.fresh_key = lambda: rng.derive_key(SECRET, "not by chance")


def prepared() -> None:
    """Nodes draw nothing by chance, and Flower knows which task this is."""
    draw_nothing()
    for name in ("_task_id", "_run_id", "_node_id"):
        setattr(TaskIdentity, name, 1)


def main() -> None:
    case, folder = sys.argv[1], Path(sys.argv[2])
    out, ends = folder.with_suffix(".json"), []
    prepared()
    for when in filter(None, sys.argv[3].split(",")):
        before = written(folder)
        child, ended, status = attempt(case, folder, out), 0, 0
        while when[0] == "+" and written(folder) <= before and not ended:
            time.sleep(0.005)
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            time.sleep(float(when))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        ends.append(os.waitstatus_to_exitcode(status))
    _, status = os.waitpid(attempt(case, folder, out), 0)
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(code)
    print(json.dumps({"ends": ends, "told": json.loads(out.read_text())}))  # noqa: T201


if __name__ == "__main__":
    main()
