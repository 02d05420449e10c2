"""The server: it needs numpy, no torch. Killed and started again, it goes on where it was."""

import argparse
import logging
from pathlib import Path

import numpy as np

from fedmrn import Layout, method
from fedmrn.http import HttpServer, Outcome, Plan, open_server, read_tokens


def show(outcome: Outcome) -> None:
    """Print a line for a round."""
    report = outcome.report
    print(
        f"round {report.round}: accuracy {outcome.evaluation.get('accuracy', float('nan')):.3f}, "
        f"{len(report.folded)} of {len(outcome.clients)} updates, "
        f"{report.total_up:,} bytes up, {report.total_down:,} down",
        flush=True,
    )


def main() -> None:
    """Parse the command line, and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what make_start.py wrote; the server is saved here too")
    parser.add_argument("--method", default="fedmrn-s")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--lr", type=float, default=0.3)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--certificate", type=Path, help="of TLS, a file in PEM; clients elsewhere need it")
    parser.add_argument("--key", type=Path, help="of the certificate")
    parser.add_argument("--origin", action="append", default=[], help="of a web page that may take part; * for any")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("fedmrn.http.server").setLevel(logging.INFO)
    layout = Layout.from_json((args.folder / "layout.json").read_bytes())
    tokens = read_tokens(args.folder / "tokens.txt")
    scheme = method(args.method).scheme(down="grid")
    server = open_server(args.folder, layout, scheme, np.load(args.folder / "start.npy"))
    plan = Plan(
        rounds=args.rounds,
        clients_per_round=len(tokens.clients),
        config={"lr": args.lr, "epochs": 2, "batch_size": 32},
        deadline=60.0,
        evaluate_every=1,
    )
    http = HttpServer(server, plan, tokens, args.folder, on_round=show, origins=args.origin)
    try:
        http.run(args.host, args.port, args.certificate, args.key)
    except KeyboardInterrupt as stopped:
        raise SystemExit(f"{stopped}") from None
    print(f"all bodies, both ways: {http.traffic.up:,} bytes up, {http.traffic.down:,} down")


if __name__ == "__main__":
    main()
