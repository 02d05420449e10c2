"""One edge of the tree of `scale.py`, a process: it makes its clients' frames, folds them, and leaves their sum.

    python studies/scale_edge.py FOLDER NUMBER

FOLDER has `case.json` and `edge-NUMBER.assigned`; `edge-NUMBER.partial` and `edge-NUMBER.json` are left there. Each
second a line says how many frames are folded. Where it is asked to end (SIGTERM), or nobody reads its lines any more,
it leaves what it has as the partial sum of an edge below it, and the next start goes on from there.
"""

import fcntl
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from time import monotonic, process_time
from typing import Any

from scale_frames import Case, Clock, Maker, forget_peak, peak, warm_up

from fedmrn.files import write_atomic
from fedmrn.server import EdgeRound
from fedmrn.server.assignment import Assignment
from fedmrn.wire.frame import Frame, Kind

CHECKED = 16
"""One of so many frames is checked once more before it is folded, to know what that alone takes."""
BELOW = "before"
"""The edge below, which stands for what was folded before a stop."""
STOPPED = 3
"""Exit status of an edge that will go on."""


@dataclass
class Stop:
    """Whether the edge is asked to end."""

    asked: bool = False

    def ask(self, *_: object) -> None:
        """Ask; a signal handler."""
        self.asked = True


class Edge:
    """An edge's work.

    Args:
        folder: of the case.
        number: of the edge.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.case = Case(**json.loads((folder / "case.json").read_text()))
        self._folder, self._number = folder, number
        self._assigned = self._named("assigned").read_bytes()
        self.digest = blake2b(self._assigned, digest_size=16).hexdigest()
        found = Assignment.from_bytes(self._assigned, self.case.layout)
        self.clients = [(int(client), key) for _, client, key in found.clients]
        self.state: dict[str, Any] = {"assignment": self.digest, "folded": 0, "cpu": {}, "bytes": 0, "partial": 0}
        if self._named("json").is_file():
            kept = json.loads(self._named("json").read_text())
            self.state = kept if kept["assignment"] == self.digest else self.state
        self.clock = Clock(self.state["cpu"])

    def _named(self, kind: str) -> Path:
        return self._folder / f"edge-{self._number}.{kind}"

    def run(self, stop: Stop) -> int:
        """Work until all is folded, or a stop is asked for; return the exit status."""
        if self.state["partial"]:
            return 0
        warm_up(self.case)
        edge = self._open()
        maker = Maker(self.case, Frame.from_bytes(edge.broadcast(self.clients[0][0])))
        forget_peak()
        said = monotonic()
        for client, key in self.clients[self.state["folded"] :]:
            self._fold(edge, maker, client, key)
            if monotonic() > said + 1:
                said = monotonic()
                say(self.state["folded"], stop)
            if stop.asked:
                return self._leave(edge)
        with self.clock.on("fold"):
            edge.aggregator.sums.settle()
        with in_turn(self._folder):
            with self.clock.on("partial"):
                partial = edge.partial()
            self._keep("partial", partial)
        self.state |= {"partial": len(partial), "memory": peak()}
        self._note()
        return 0

    def _open(self) -> EdgeRound:
        """Return the round, with what was folded before."""
        layout, done = self.case.layout, self.state["folded"]
        if not done:
            with self.clock.on("open"):
                return EdgeRound.from_bytes(self._assigned, layout, threads=1)
        edge = EdgeRound.from_bytes(self._assigned, layout, threads=1)
        edge.assign({BELOW: [client for client, _ in self.clients[:done]]})
        edge.merge(BELOW, self._named("below").read_bytes())
        return edge

    def _fold(self, edge: EdgeRound, maker: Maker, client: int, key: int) -> None:
        begun = process_time()
        data = maker.frame(client, key)
        made = process_time()
        self.clock.add("make", made - begun)
        if self.state["folded"] % CHECKED == 0:
            frame = Frame.from_bytes(data, kind=Kind.UPDATE, limits=edge.aggregator.plan.limits)
            edge.aggregator.admission.open(frame, key, key)
            self.clock.add("checked", process_time() - made)
            self.state["checked"] = self.state.get("checked", 0) + 1
            made = process_time()
        edge.add(client, data)
        self.clock.add("fold", process_time() - made)
        self.state["folded"] += 1
        self.state["bytes"] += len(data)

    def _leave(self, edge: EdgeRound) -> int:
        """Keep what was folded as the sum of an edge below."""
        fresh = EdgeRound.from_bytes(self._assigned, self.case.layout, threads=1)
        clients = [client for client, _ in self.clients[: self.state["folded"]]]
        below = EdgeRound.from_bytes(fresh.assign({BELOW: clients})[BELOW], self.case.layout, threads=1)
        del fresh
        below.aggregator.merge(edge.aggregator)
        self._keep("below", below.partial())
        self._note()
        return STOPPED

    def _keep(self, kind: str, data: bytes) -> None:
        write_atomic(self._named(kind), data)

    def _note(self) -> None:
        self.state["cpu"] = self.clock.spent
        self._keep("json", json.dumps(self.state).encode())


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Wait for other edges that are here: each needs memory for what it leaves."""
    with (folder / "turn").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(folded: int, stop: Stop) -> None:
    """Tell how many frames are folded."""
    try:
        sys.stdout.write(f"{folded}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # whoever started it is gone
        stop.ask()


def main() -> None:
    """Work in a folder."""
    stop = Stop()
    signal.signal(signal.SIGTERM, stop.ask)
    code = Edge(Path(sys.argv[1]), int(sys.argv[2])).run(stop)
    with suppress(OSError):
        sys.stdout.close()
    sys.exit(code)


if __name__ == "__main__":
    main()
