"""A whole federation on this machine: a server and its clients, each a process of its own, over HTTP."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from make_start import write_start

HERE = Path(__file__).parent


def main() -> int:
    """Parse the command line, start everything, and wait for the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=5, metavar="N")
    parser.add_argument("--rounds", type=int, default=10, metavar="N")
    parser.add_argument("--method", default="fedmrn-s")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    url = f"http://127.0.0.1:{args.port}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_start(folder, args.clients)
        tokens = [line.split()[1] for line in (folder / "tokens.txt").read_text().splitlines()]
        options = ["--port", str(args.port), "--rounds", str(args.rounds), "--method", args.method]
        server = subprocess.Popen([sys.executable, str(HERE / "server.py"), str(folder), *options])
        clients = [
            subprocess.Popen(
                [sys.executable, str(HERE / "client.py"), url, f"{client}/{args.clients}"],
                env={**os.environ, "FEDMRN_TOKEN": token},
            )
            for client, token in enumerate(tokens)
        ]
        try:
            return server.wait()
        finally:
            for process in (server, *clients):
                process.terminate()
                process.wait()


if __name__ == "__main__":
    raise SystemExit(main())
