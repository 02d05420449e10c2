"""The root of the tree of `scale.py`, a process: it begins a round, starts the edges, and merges their sums.

    python studies/scale_root.py FOLDER [--single]

FOLDER has `case.json`; `result.json` is left there. Ctrl-C asks the edges to leave what they have, one by one: the
next start goes on from there.
"""

import argparse
import json
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path
from signal import SIGTERM
from threading import Thread
from time import monotonic, sleep
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from scale_edge import STOPPED
from scale_frames import ROUND, Case, Clock, Maker, forget_peak, peak, warm_up

from fedmrn.files import write_atomic
from fedmrn.server import Round

EDGES = 3
HERE = Path(__file__).parent


class StoppedError(Exception):
    """The edges have left what they had, and can go on from it."""


def work(folder: Path, case: Case, edges: int = EDGES) -> None:
    """Run the edges until all have left their sums.

    Raises:
        StoppedError: one was asked to end.
        RuntimeError: one failed.
    """
    folded = [0] * edges

    def read(number: int) -> None:
        for line in running[number].stdout or ():
            folded[number] = int(line)

    command = [sys.executable, str(HERE / "scale_edge.py"), str(folder)]
    running = [
        subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, text=True, start_new_session=True)  # noqa: S603
        for i in range(edges)
    ]
    for number in range(edges):
        Thread(target=read, args=(number,), daemon=True).start()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(case.name, total=case.clients)
            while any(process.poll() is None for process in running):
                sleep(0.1)
                progress.update(task, completed=sum(folded))
    finally:
        for process in running:  # one by one: each needs memory for what it leaves
            process.terminate()
            process.wait()
    codes = {process.returncode for process in running}
    if codes == {0}:
        return
    if codes <= {0, STOPPED, -SIGTERM}:  # the last one had not begun
        raise StoppedError
    raise RuntimeError(f"an edge of {case.name} failed")


def measured(folder: Path, case: Case) -> dict[str, Any]:
    """Run the round, and return what it took; CPU in seconds, sizes and memory in bytes.

    Raises:
        StoppedError, RuntimeError: as `work`.
    """
    clock, names = Clock(), [f"edge-{i}" for i in range(EDGES)]
    warm_up(case)
    server = case.server()
    forget_peak()
    with clock.on("begin"):
        round_ = server.begin(ROUND, range(case.clients))
    down = 0
    for i, name in enumerate(names):  # one by one: each assignment has the whole state
        with clock.on("assign"):
            assigned = round_.assign({name: range(i, case.clients, EDGES)})[name]
        write_atomic(folder / f"{name}.assigned", assigned)
        down += len(assigned)
        del assigned
    began = monotonic() - float(kept.read_text() if (kept := folder / "wall").is_file() else 0)
    try:
        work(folder, case)
    except (KeyboardInterrupt, StoppedError):
        write_atomic(kept, str(monotonic() - began).encode())
        raise
    for name in names:
        data = (folder / f"{name}.partial").read_bytes()
        with clock.on("merge"):
            round_.merge(name, data)
        del data
    edges = [json.loads((folder / f"{name}.json").read_text()) for name in names]
    broadcast = len(round_.broadcast(0))
    with clock.on("finish"):
        state = round_.finish()
    for edge in edges:
        for what, seconds in edge["cpu"].items():
            clock.add(what, seconds)
    return {
        "cpu": {what: round(seconds, 6) for what, seconds in clock.spent.items()},
        "checked": sum(edge["checked"] for edge in edges),
        "wall": round(monotonic() - began, 2),
        "bytes": {
            "updates": sum(edge["bytes"] for edge in edges),
            "broadcast": broadcast,
            "assignments": down,
            "partials": sum(edge["partial"] for edge in edges),
        },
        "memory": {"root": peak(), "edge": max(edge["memory"] for edge in edges)},
        "state": blake2b(state.tobytes(), digest_size=16).hexdigest(),
    }


def single(case: Case) -> str:
    """Return the digest of the state that one server comes to with the same frames."""
    server = case.server()
    round_: Round = server.begin(ROUND, range(case.clients))
    maker = Maker(case, round_.broadcast_frame(0))
    keys = {client: round_.broadcast_frame(client).noise_key for client in range(case.clients)}
    for client in np.random.default_rng(1).permutation(case.clients).tolist():
        round_.add(client, maker.frame(client, keys[client]))
    return blake2b(round_.finish().tobytes(), digest_size=16).hexdigest()


def main() -> None:
    """Measure a case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--single", action="store_true", help="give one server the same frames, and compare")
    args = parser.parse_args()
    case = Case(**json.loads((args.folder / "case.json").read_text()))
    try:
        result = measured(args.folder, case)
        if args.single:
            result["single server"] = single(case)
        write_atomic(args.folder / "result.json", json.dumps(result).encode())
    except (KeyboardInterrupt, StoppedError):
        sys.exit(130)


if __name__ == "__main__":
    main()
