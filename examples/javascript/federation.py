"""A federation on this machine: a server, some clients in Python; node and a page take part beside them.

python examples/javascript/federation.py --clients 4 --python 2 --rounds 10

It says how to start the clients that are missing, serves the page, and waits until all are there.
"""

import argparse
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import torch
from make_digits import write_digits
from python_client import build_model

from fedmrn import ModelLayout
from fedmrn.http import HttpServer, Outcome, Plan, Tokens, new_tokens, open_server
from fedmrn.methods import method

HERE = Path(__file__).resolve().parent
TABLE = HERE.parents[1] / "src" / "fedmrn" / "numerics" / "gaussian.bin"


class Pages(SimpleHTTPRequestHandler):
    """Serves this folder, and the digits and the table of gaussian noise, which lie elsewhere."""

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".js": "text/javascript"}  # noqa: RUF012 - as its base

    def __init__(self, *args: object, digits: Path, **options: object) -> None:
        self._digits = digits
        super().__init__(*args, directory=str(HERE), **options)  # type: ignore[arg-type]

    def translate_path(self, path: str) -> str:
        """Return the file that a path of an address names."""
        found = Path(super().translate_path(path))
        if found == HERE / "gaussian.bin":
            return str(TABLE)
        return str(self._digits / found.name) if found.parent == HERE / "digits" else str(found)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextmanager
def serving_pages(port: int, digits: Path) -> Iterator[str]:
    """Serve the page while the block runs, to this machine alone; yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", port), partial(Pages, digits=digits)) as pages:
        thread = threading.Thread(target=pages.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{pages.server_port}"
        finally:
            pages.shutdown()
            thread.join()


@contextmanager
def python_clients(url: str, tokens: Mapping[int, str], digits: Path) -> Iterator[None]:
    """Run a client in Python for each token."""
    script, started = str(HERE / "python_client.py"), []
    try:
        for client, token in tokens.items():
            command = [sys.executable, script, url, str(digits / f"{client}.json")]
            started.append(subprocess.Popen(command, env={**os.environ, "FEDMRN_TOKEN": token}))
        yield
    finally:
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            process.kill()
            process.wait()


def say(outcome: Outcome) -> None:
    """Print a line about a round."""
    report, accuracy = outcome.report, outcome.evaluation.get("accuracy")
    shown = "" if accuracy is None else f", accuracy {accuracy:.4f}"
    sizes = f"{report.total_down} bytes down, {report.total_up} up"
    print(f"round {report.round}: {len(report.folded)} updates{shown}, {sizes}", flush=True)


def advise(url: str, pages: str, tokens: Mapping[int, str], digits: Path) -> None:
    """Print how to start each client that is missing."""
    for client, token in tokens.items():
        fields = urlencode({"server": url, "token": token, "data": f"digits/{client}.json"})
        script, file = HERE / "node-client.js", digits / f"{client}.json"
        print(f"Client {client} is missing. Start it with node, or open it in a browser:")
        print(f"  FEDMRN_TOKEN={token} node {script} {url} {file}")
        print(f"  {pages}/#{fields}", flush=True)


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description="A federation for clients in JavaScript, on this machine.")
    parser.add_argument("--clients", type=int, default=4, help="all of them (4)")
    parser.add_argument("--python", type=int, default=2, help="how many of them are started here, in Python (2)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--method", default="fedmrn-s", choices=["fedmrn", "fedmrn-s"])
    parser.add_argument("--down", default="grid", help="how the model travels down: grid, float32, ... (grid)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=WORD", help="such as coding=entropy")
    parser.add_argument("--lr", type=float, default=0.3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--port", type=int, default=8000, help="of the server; 0: any (8000)")
    parser.add_argument("--pages", type=int, default=8080, help="of the page; 0: any (8080)")
    parser.add_argument("--folder", type=Path, default=Path("runs/javascript"), help="where the server is saved")
    return parser.parse_args()


def main() -> None:
    """Run it."""
    options = parse()
    torch.manual_seed(1)
    start = ModelLayout.of(build_model())
    told = dict(word.split("=", 1) for word in options.set)
    scheme = method(options.method).scheme(told, down=options.down)
    server = open_server(options.folder, start.layout, scheme, start.read())
    config = {"lr": options.lr, "epochs": options.epochs, "batch_size": 32}
    plan = Plan(rounds=options.rounds, clients_per_round=options.clients, config=config, deadline=60, evaluate_every=1)
    tokens = new_tokens(options.clients)
    digits = options.folder.resolve() / "digits"
    write_digits(digits, options.clients)
    missing = {client: token for client, token in tokens.items() if client >= options.python}
    here = {client: token for client, token in tokens.items() if client < options.python}
    with socket.create_server(("127.0.0.1", options.port)) as listener, serving_pages(options.pages, digits) as pages:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        http = HttpServer(server, plan, Tokens(tokens), options.folder, on_round=say, origins=[pages])
        advise(url, pages, missing, digits)
        with python_clients(url, here, digits):
            http.run(listener=listener)


if __name__ == "__main__":
    main()
