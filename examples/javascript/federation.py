"""A federation on this machine: a server, and two clients in Python; node and a page take part beside them.

python examples/javascript/make_digits.py --clients 4
python examples/javascript/federation.py --clients 4 --rounds 10

It prints what to start the other clients with, serves the page, and waits until all are there.
"""

import argparse
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import torch
from torch import nn

from fedmrn import ModelLayout
from fedmrn.http import HttpServer, Outcome, Plan, Tokens, new_tokens, open_server
from fedmrn.methods import method

ROOT = Path(__file__).parents[2]


class Pages(SimpleHTTPRequestHandler):
    """Serves the repository's files to the page, on this machine alone, and logs nothing."""

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".js": "text/javascript"}

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving_pages(port: int, root: Path = ROOT) -> Iterator[str]:
    """Serve files while the block runs; yield the address."""
    with ThreadingHTTPServer(("127.0.0.1", port), partial(Pages, directory=str(root))) as pages:
        thread = threading.Thread(target=pages.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{pages.server_port}"
        finally:
            pages.shutdown()
            thread.join()


def build_model(hidden: int = 32) -> nn.Module:
    """Return a network that `fedmrn/mlp.js` trains too: linear layers with ReLU between them."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def say(outcome: Outcome) -> None:
    """Print a line about a round."""
    report = outcome.report
    accuracy = outcome.evaluation.get("accuracy")
    shown = "" if accuracy is None else f", accuracy {accuracy:.4f}"
    print(f"round {report.round}: {len(report.folded)} updates{shown}, {report.total_down} B down, {report.total_up} B up")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description="A federation for clients in JavaScript, on this machine.")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--method", default="fedmrn-s")
    parser.add_argument("--down", default="grid")
    parser.add_argument("--lr", type=float, default=0.3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--pages", type=int, default=8080)
    parser.add_argument("--folder", type=Path, default=Path("runs/javascript"))
    options = parser.parse_args()
    start = ModelLayout.of(build_model())
    server = open_server(
        options.folder, start.layout, method(options.method).scheme(down=options.down), start.read()
    )
    config = {"lr": options.lr, "epochs": options.epochs, "batch_size": 32}
    plan = Plan(rounds=options.rounds, clients_per_round=options.clients, config=config, deadline=60, evaluate_every=1)
    tokens = new_tokens(options.clients)
    with serving_pages(options.pages) as pages:
        address = f"http://127.0.0.1:{options.port}"
        for client, token in tokens.items():
            fields = urlencode({"server": address, "token": token, "data": f"digits/{client}.json"})
            print(f"client {client}, one of:")
            print(f"    python examples/javascript/python_client.py {address} {client} {token}")
            print(f"    FEDMRN_TOKEN={token} node examples/javascript/node-client.js {address} examples/javascript/digits/{client}.json")
            print(f"    {pages}/examples/javascript/#{fields}")
        http = HttpServer(server, plan, Tokens(tokens), options.folder, on_round=say, origins=[pages])
        http.run(port=options.port)


if __name__ == "__main__":
    main()
