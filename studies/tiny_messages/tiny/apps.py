"""Sends each node a tiny message, some times, and writes what that took.

The nodes are those of `scale_flower.py`, which answer themselves: the ClientApp has nothing to do.
"""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable.inflatable_object import get_object_tree

server = ServerApp()
client = ClientApp()
STATES = (100, 4_000_000, 400_000_000)
"""Bytes of a tiny message, and of models in float32."""


def content(node: int, number: int, size: int) -> RecordDict:
    """Return a tiny content, another for each node."""
    array = Array(np.full(size, node % 251, np.uint8))
    return RecordDict({"a": ArrayRecord({"frame": array}), "c": ConfigRecord({"round": number})})


def asked(node: int, state: int) -> int:
    """Return the bytes of one broadcast in the request by which all of a round are announced.

    Args:
        node: any.
        state: bytes of the model in it; they travel later, but the names of their parts are here.
    """
    array = Array("uint8", (state,), "x", np.random.default_rng(1).bytes(state))
    content = RecordDict({"a": ArrayRecord({"state": array}), "c": ConfigRecord({"round": 1})})
    message = Message(content, dst_node_id=node, message_type="train")
    message.metadata.__dict__["_message_id"] = message.object_id
    proto, tree = message_to_proto(remove_content_from_message(message)), get_object_tree(message)
    return int(PushAppMessagesRequest(messages_list=[proto], message_object_trees=[tree]).ByteSize())


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
    told = {"cpu": time.process_time() - cpu, "bytes": {str(state): asked(nodes[0], state) for state in STATES}}
    Path(str(config["out"])).write_text(json.dumps(told))
