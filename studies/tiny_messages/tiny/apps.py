"""Sends each node a tiny message, some times, and writes what that took.

The nodes are those of `scale_flower.py`, which answer themselves: the ClientApp has nothing to do.
"""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

server = ServerApp()
client = ClientApp()


def content(node: int, number: int, size: int) -> RecordDict:
    """Return a tiny content, another for each node."""
    array = Array(np.full(size, node % 251, np.uint8))
    return RecordDict({"a": ArrayRecord({"frame": array}), "c": ConfigRecord({"round": number})})


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Have some rounds of messages with all nodes."""
    config = context.run_config
    rounds, size, wanted = int(config["rounds"]), int(config["size"]), int(config["nodes"])
    while len(nodes := list(grid.get_node_ids())) < wanted:
        time.sleep(0.2)
    cpu = time.process_time()
    for number in range(rounds):
        messages = [Message(content(node, number, size), dst_node_id=node, message_type="train") for node in nodes]
        replies = list(grid.send_and_receive(messages, timeout=600))
        if len(replies) != len(nodes):
            raise RuntimeError(f"{len(replies)} of {len(nodes)} nodes replied")
    Path(str(config["out"])).write_text(json.dumps({"cpu": time.process_time() - cpu}))
