"""The server runs `kept_flower_run`'s strategy on a folder; clients train as that module's nodes do."""

import json
from pathlib import Path

import kept_flower_run
from flower_clients import honest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    case, folder, rounds = (context.run_config[name] for name in ("case", "folder", "rounds"))
    result = kept_flower_run.run(str(case), Path(str(folder)), int(rounds), grid, fraction_evaluate=0.0)
    Path(str(folder)).with_suffix(".json").write_text(json.dumps(kept_flower_run.told(result)))


def answer(message: Message, context: Context) -> Message:
    kept_flower_run.draw_nothing()
    node = 11 + int(context.node_config["partition-id"])
    return Message(RecordDict(honest(node, context)(message).content), reply_to=message)


@client.train()
def train(message: Message, context: Context) -> Message:
    return answer(message, context)


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    return answer(message, context)
