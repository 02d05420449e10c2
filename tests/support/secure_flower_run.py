"""Secure sums on Flower's simulation engine, as a script: two rounds of five nodes, of which one fails in the second.

`python secure_flower_run.py FOLDER` - the node fails after it has shared; files are as `secure_sums_on_flower` says.
"""

import json
import sys
from pathlib import Path

import secure_sums_on_flower as shared
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from fedmrn.flower.member import secure_sum

NODES, VICTIM = 5, 3
FOLDER = Path(sys.argv[1])
server, client = ServerApp(), ClientApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    plan = shared.strategy(FOLDER, threshold=4, nodes=NODES + 1)
    plan.start(grid, shared.initial(), num_rounds=2)
    told = [{"asked": r.asked, "folded": r.folded, "failed": len(r.failed)} for r in plan.reports]
    (FOLDER / "told.json").write_text(json.dumps(told))


@client.train("secure")
def secure(message: Message, context: Context) -> Message:
    return secure_sum(message, context)


@client.train()
def train(message: Message, context: Context) -> Message:
    place = int(context.node_config["partition-id"])
    if place == VICTIM and shared.round_of(message) == 2:
        raise RuntimeError("out of memory")
    return shared.train(message, context, place, FOLDER)


if __name__ == "__main__":
    settings = {"init_args": {"num_cpus": 2, "include_dashboard": False}, "client_resources": {"num_cpus": 1}}
    run_simulation(server, client, NODES, backend_config=settings)  # type: ignore[arg-type]
