"""The root: it begins rounds, assigns clients to edges, and merges their sums. It needs no torch."""

import argparse
from pathlib import Path
from threading import Condition

import numpy as np
from doors import Door

from fedmrn import Layout, Server, method
from fedmrn.server import Round

BEFORE = "start"
"""The server as it was before the first round; `grow.py` makes the run again from it."""
WAIT = 180.0
"""Seconds that the root waits for its edges."""


class Root:
    """The root's open round."""

    def __init__(self) -> None:
        self.round: Round | None = None
        self.came: set[str] = set()
        self.changed = Condition()

    def take(self, path: str, data: bytes) -> None:
        """Merge a partial sum: /partial/EDGE/ROUND."""
        _, _, edge, number = path.split("/")
        if self.round is None or self.round.number != int(number):
            return
        self.round.merge(edge, data)
        with self.changed:
            self.came.add(edge)
            self.changed.notify()


def main() -> None:
    """Parse the command line, and lead the run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="layout.json and start.npy lie here")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--method", default="fedmrn-s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--edges", type=int, default=2)
    parser.add_argument("--clients", type=int, default=10)
    args = parser.parse_args()
    layout = Layout.from_json((args.folder / "layout.json").read_bytes())
    scheme = method(args.method).scheme()
    state = Server.initial(layout, scheme, np.load(args.folder / "start.npy"))
    server = Server(layout, scheme, state, secret=np.random.default_rng().bytes(32))
    (args.folder / BEFORE).mkdir()
    server.save(args.folder / BEFORE)
    root, names = Root(), [f"edge-{i}" for i in range(args.edges)]
    door = Door(args.port, root.take)
    for number in range(1, args.rounds + 1):
        root.came.clear()
        root.round = server.begin(number, range(args.clients))
        assigned = root.round.assign({name: range(i, args.clients, args.edges) for i, name in enumerate(names)})
        for name, data in assigned.items():
            door.parcels[f"/assignment/{name}/{number}"] = data
        with root.changed:
            root.changed.wait_for(lambda: len(root.came) == args.edges, WAIT)
        low, top = root.round.traffic
        sent = sum(len(root.round.broadcast(c)) for c in root.round.clients)
        root.round.finish()
        print(
            f"round {number}: {len(root.round.answered)} clients; to edges {low.bytes:,} bytes up, {sent:,} down; "
            f"to the root {top.bytes:,} up, {sum(map(len, assigned.values())):,} down",
            flush=True,
        )
    np.save(args.folder / "end.npy", server.state)
    door.parcels.clear()
    door.close(args.edges)


if __name__ == "__main__":
    main()
