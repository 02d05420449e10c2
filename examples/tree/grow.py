"""A tree of servers on this machine: a root, edges and clients, each a process of its own.

In the end a single server is given the same updates, and must come to the same model.
"""

import argparse
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tree_root import BEFORE
from tree_task import make_model, share

from fedmrn import Layout, ModelLayout, Server, method

HERE = Path(__file__).parent


def again(folder: Path, layout: Layout, name: str, rounds: int, clients: int) -> np.ndarray:
    """Return the state that one server comes to with the same updates, which come in any order."""
    server = Server.load(folder / BEFORE, layout, method(name).scheme())
    for number in range(1, rounds + 1):
        round_ = server.begin(number, range(clients))
        sent = [(c, folder / f"{number}-{c}.bin") for c in range(clients)]
        for client, path in random.sample(sent, clients):
            if path.exists():
                round_.add(client, path.read_bytes())
        round_.finish()
    return server.state


def main() -> int:
    """Parse the command line, start everything, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edges", type=int, default=2, metavar="N")
    parser.add_argument("--clients", type=int, default=10, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--method", default="fedmrn-s")
    parser.add_argument("--port", type=int, default=8100, help="of the root; edges take those after it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_model()
        view = ModelLayout.of(model)
        (folder / "layout.json").write_text(view.layout.to_json())
        np.save(folder / "start.npy", view.read())
        root = f"http://127.0.0.1:{args.port}"
        edges = [f"http://127.0.0.1:{args.port + 1 + i}" for i in range(args.edges)]
        counts = ["--clients", args.clients, "--edges", args.edges, "--rounds", args.rounds]
        started = [start("tree_root.py", folder, "--port", args.port, "--method", args.method, *counts)]
        started += [start("tree_edge.py", root, f"edge-{i}", args.port + 1 + i, folder) for i in range(args.edges)]
        started += [start("leaf.py", edges[i % args.edges], i, args.clients) for i in range(args.clients)]
        try:
            if any(process.wait(300) for process in started):
                return 1
        finally:
            for process in started:
                process.terminate()
                process.wait()
        end = np.load(folder / "end.npy")
        same = np.array_equal(end, again(folder, view.layout, args.method, args.rounds, args.clients))
    view.write(end)
    x, y = share(0, 1)
    right = float((model(x).argmax(1) == y).float().mean())
    print(f"accuracy on all samples: {right:.3f}")
    print("one server with the same updates: " + ("the same model, to the bit" if same else "ANOTHER MODEL"))
    return 0 if same else 1


def start(script: str, *args: object) -> subprocess.Popen[bytes]:
    """Start a process of this folder."""
    return subprocess.Popen([sys.executable, str(HERE / script), *map(str, args)])


if __name__ == "__main__":
    raise SystemExit(main())
