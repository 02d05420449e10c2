"""Each client writes its plain update beside the one with pads; the server what it looked for, and when.

`secure_sums_on_flower` has the strategy and the training.
"""

import json
import time
from pathlib import Path

import secure_sums_on_flower as shared
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedmrn.flower.member import secure_sum

server = ServerApp()
client = ClientApp()


def folder_of(context: Context) -> Path:
    return Path(str(context.run_config["folder"]))


@server.main()
def main(grid: Grid, context: Context) -> None:
    folder, threshold = folder_of(context), int(context.run_config["threshold"])
    counted = shared.Counted(grid)
    plan = shared.strategy(folder, threshold)
    plan.start(counted, shared.initial(), num_rounds=int(context.run_config["rounds"]))
    told = {
        "rounds": [
            {"asked": r.asked, "folded": r.folded, "failed": r.failed, "stages": shared.stages(r)} for r in plan.reports
        ],
        "exchanges": counted.exchanges,
    }
    (folder / "told.json").write_text(json.dumps(told))


@client.train("secure")
def secure(message: Message, context: Context) -> Message:
    return secure_sum(message, context)


@client.train()
def train(message: Message, context: Context) -> Message:
    place = int(context.node_config["partition-id"])
    if place == context.run_config["victim"] and shared.round_of(message) == 2:
        (folder_of(context) / "training").touch()
        time.sleep(3600)
    return shared.train(message, context, place, folder_of(context))
