"""Run the Flower app of ../flower-app on a real deployment, all of it on this machine.

Makes certificates and a key pair for each node, starts a SuperLink (TLS, node authentication) and N SuperNodes on
loopback, registers the nodes, runs the app, shows its log, and stops everything again, also on Ctrl-C.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from deployment import Deployment, DeploymentError

APP = Path(__file__).resolve().parents[1] / "flower-app"


def main() -> int:
    """Parse the command line, and run."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  %(prog)s                                               digits, fedmrn, 3 nodes, 5 rounds: about two minutes
  %(prog)s -c 'method="fedmrn-s"' -c num-server-rounds=3
  %(prog)s -c stock=true                                 Flower's own FedAvg, to compare with
  %(prog)s --nodes 5 --result-dir runs/deployed          also result.json and model.pt

The keys of -c are those of [tool.flwr.app.config] in the app's pyproject.toml; words need quotes, as in TOML.
docs/deployment.md says what to change between machines.""",
    )
    parser.add_argument("--nodes", type=int, default=3, metavar="N", help="SuperNodes, at least 2 (default 3)")
    parser.add_argument("--app", type=Path, default=APP, metavar="DIR", help="the app (default: ../flower-app)")
    parser.add_argument("-c", "--run-config", action="append", default=[], metavar="KEY=VALUE", help="as for flwr run")
    parser.add_argument("--result-dir", type=Path, metavar="DIR", help="where the app writes its results")
    parser.add_argument("--state", type=Path, metavar="DIR", help="keep certificates, keys and logs in this new folder")
    args = parser.parse_args()
    if args.nodes < 2:
        parser.error(f"--nodes is {args.nodes}; a federation has at least 2")
    if not (args.app / "pyproject.toml").is_file():
        parser.error(f"--app is {args.app}, which has no pyproject.toml; name the folder of a Flower app")
    if args.state is not None and args.state.exists():
        parser.error(f"--state is {args.state}, which exists already; name a new folder, or remove it")
    changes = list(args.run_config)
    if args.result_dir is not None:
        changes.append(f"result-dir={json.dumps(str(args.result_dir.resolve()))}")
    folder = args.state or Path(tempfile.mkdtemp(prefix="fedmrn-deployment-"))
    # So that what was started is stopped on the way out; a shell may have its background jobs ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    status = ""
    try:
        print(f"Starting a SuperLink and {args.nodes} SuperNodes on 127.0.0.1; logs in {folder}/logs", flush=True)
        with Deployment(args.nodes, folder) as deployment:
            run = deployment.submit(args.app, changes)
            deployment.follow(run)
            status = deployment.status(run)
    except DeploymentError as error:
        print(f"error: {error}\nlogs are kept in {folder}/logs", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        status = "interrupted"
        print("stopped: everything that was started has ended", file=sys.stderr)
        return 130
    finally:
        if args.state is None and status in ("finished:completed", "interrupted"):
            shutil.rmtree(folder, ignore_errors=True)
    if status != "finished:completed":
        print(f"error: the run is {status or 'lost'}; what happened is in {folder}/logs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
