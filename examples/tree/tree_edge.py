"""An edge server: it folds its clients' updates, and sends their sum to the root. It needs no torch."""

import argparse
from pathlib import Path
from threading import Condition

from doors import Door, deliver, fetch

from fedmrn import Layout
from fedmrn.server import EdgeRound

WAIT = 120.0
"""Seconds that an edge waits for its clients."""


class Edge:
    """The edge's open round; clients' updates are kept as files too, so that the run can be made again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.changed = folder, Condition()
        self.round: EdgeRound | None = None

    def take(self, path: str, data: bytes) -> None:
        """Fold an update: /update/CLIENT/ROUND."""
        _, _, client, number = path.split("/")
        if self.round is None or self.round.number != int(number):
            return
        self.round.add(int(client), data)
        (self.folder / f"{number}-{client}.bin").write_bytes(data)
        with self.changed:
            self.changed.notify()

    def all_answered(self) -> bool:
        """Whether nobody is waited for."""
        return self.round is not None and len(self.round.answered) == len(self.round.clients)


def main() -> None:
    """Parse the command line, and serve until the root says that all is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", help="address of the root")
    parser.add_argument("name")
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path, help="layout.json lies here")
    args = parser.parse_args()
    layout = Layout.from_json((args.folder / "layout.json").read_bytes())
    edge, number, clients = Edge(args.folder), 1, 0
    door = Door(args.port, edge.take)
    while (assigned := fetch(f"{args.root}/assignment/{args.name}/{number}")) is not None:
        edge.round = round_ = EdgeRound.from_bytes(assigned, layout)
        clients = len(round_.clients)
        for client in round_.clients:
            door.parcels[f"/broadcast/{client}/{number}"] = round_.broadcast(client)
        with edge.changed:
            edge.changed.wait_for(edge.all_answered, WAIT)
        deliver(f"{args.root}/partial/{args.name}/{number}", round_.partial())
        door.parcels.clear()
        number += 1
    door.close(clients)


if __name__ == "__main__":
    main()
