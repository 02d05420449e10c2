"""What one SuperLink serves: its CPU seconds for a poll, a heartbeat, and a tiny message with its reply.

    python studies/scale_flower.py [--nodes 64] [--rounds 3] [--data FILE]

The SuperLink and the ServerApp are Flower's own, on loopback, without TLS. The SuperNodes are connections of this
process, by Flower's own client of the Fleet API: each has its key, signs what it sends, and answers itself, so that no
process is started for a message. A message has one array of 100 bytes and a number, as those of FedMRN have.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from scale import DATA, HERE, load, machine, save, tell

SWITCHES = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}
HEARTBEAT = 30.0
SIZE = 100
POLLS = 10
PATIENCE = 0.5
"""Seconds between polls where nothing was found."""


class Tiny:
    """A SuperNode without an app.

    Args:
        address: of the SuperLink.
    """

    def __init__(self, address: str) -> None:
        private, public = generate_key_pairs()
        interceptors = [RuntimeVersionHttpInterceptor(component_name="SuperNode")]
        self.client = FleetHttpClient.from_server_address(
            address, True, None, interceptors=[*interceptors, NodeAuthHttpInterceptor(private, public)]
        )
        key = public_key_to_bytes(public)
        self.client.RegisterNode(RegisterNodeFleetRequest(public_key=key))
        found = self.client.ActivateNode(ActivateNodeRequest(public_key=key, heartbeat_interval=HEARTBEAT))
        self.node = Node(node_id=found.node_id)

    def beat(self) -> None:
        """Say that it is alive."""
        self.client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=self.node, heartbeat_interval=HEARTBEAT))

    def poll(self) -> tuple[Message, ObjectTree] | None:
        """Ask for a message."""
        found = self.client.PullMessages(PullMessagesRequest(node=self.node))
        if not found.messages_list:
            return None
        return message_from_proto(found.messages_list[0]), found.message_object_trees[0]

    def answer(self, asked: Message, tree: ObjectTree) -> None:
        """Take a message off the SuperLink, and reply to it."""
        run, name, contents = asked.metadata.run_id, asked.metadata.message_id, dict[str, bytes]()
        for part in iterate_object_tree(tree):
            pull = PullObjectRequest(node=self.node, run_id=run, object_id=part.object_id)
            while not (found := self.client.PullObject(pull)).object_available:
                time.sleep(PATIENCE)  # the ServerApp has not sent it yet
            contents[part.object_id] = found.object_content
        confirm = ConfirmMessageReceivedRequest(node=self.node, run_id=run, message_object_id=name)
        self.client.ConfirmMessageReceived(confirm)
        message = cast(Message, inflate_object_from_contents(name, contents))
        message.metadata.__dict__["_message_id"] = name
        got = message.content.array_records["a"]["frame"].data
        frame = ArrayRecord({"frame": Array("uint8", (len(got),), "x", got)})
        reply = Message(RecordDict({"a": frame, "m": MetricRecord({"n": 1})}), reply_to=message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        parts, proto = get_all_nested_objects(reply), message_to_proto(remove_content_from_message(reply))
        push = PushMessagesRequest(node=self.node, messages_list=[proto], message_object_trees=[get_object_tree(reply)])
        pushed = self.client.PushMessages(push)
        for part_id in pushed.objects_to_push:
            body = parts[part_id].deflate()
            self.client.PushObject(
                PushObjectRequest(
                    node=self.node, run_id=run, session_id=pushed.session_id, object_id=part_id, object_content=body
                )
            )


def cpu_of(process: int) -> float:
    """Return the CPU seconds of a process so far, user and system."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def tool(name: str) -> str:
    """Return the path of one of Flower's programs."""
    return str(Path(sys.executable).parent / name)


def measured(folder: Path, nodes: int, rounds: int) -> dict[str, Any]:
    """Start a SuperLink, and return its CPU seconds by what they are spent on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address, out = f"127.0.0.1:{port}", folder / "told.json"
    env = {**os.environ, **SWITCHES, "FLWR_HOME": str(folder / "home"), "NO_PROXY": "127.0.0.1"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    command = [tool("flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port", str(port)]
    with ExitStack() as stack, (folder / "link.log").open("wb") as log:
        link = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)  # noqa: S603
        stack.callback(link.wait)
        stack.callback(link.terminate)
        wait_for(port, link)
        spent, at = dict[str, float](), cpu_of(link.pid)

        def since(what: str, times: int) -> None:
            nonlocal at
            now = cpu_of(link.pid)
            spent[what], at = (now - at) / times, now

        connected = [Tiny(address) for _ in range(nodes)]
        since("register", nodes)
        for _ in range(POLLS):
            for node in connected:
                node.poll()
        since("poll", POLLS * nodes)
        for _ in range(POLLS):
            for node in connected:
                node.beat()
        since("heartbeat", POLLS * nodes)
        submit(folder, address, env, {"nodes": nodes, "rounds": rounds + 1, "size": SIZE, "out": f'"{out}"'})
        answered = empty = 0
        began = 0.0
        while not out.exists():
            before = answered
            for node in connected:
                found = node.poll()
                empty += found is None
                if found is not None:
                    node.answer(*found)
                    answered += 1
                if answered == nodes and not began:  # the first round has what comes once
                    empty, at, began = 0, cpu_of(link.pid), time.monotonic()
            if answered == before:
                time.sleep(PATIENCE)
        wall = time.monotonic() - began
        since("message", nodes * rounds)
        spent["message"] -= empty * spent["poll"] / (nodes * rounds)
        told = json.loads(out.read_text())
    return {
        "cpu": {what: round(seconds, 6) for what, seconds in spent.items()},
        "server app": round(told["cpu"] / (nodes * (rounds + 1)), 6),
        "wall a round": round(wall / rounds, 1),
        "request bytes": told["bytes"],
        "nodes": nodes,
        "rounds": rounds,
    }


def wait_for(port: int, link: "subprocess.Popen[bytes]") -> None:
    """Wait until the SuperLink listens.

    Raises:
        RuntimeError: it does not start.
    """
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if link.poll() is not None:
                break
            time.sleep(0.2)
        else:
            return
    raise RuntimeError("the SuperLink did not start")


def submit(folder: Path, address: str, env: dict[str, str], config: dict[str, object]) -> None:
    """Start the app.

    Raises:
        RuntimeError: Flower refuses it.
    """
    app = folder / "app"
    shutil.copytree(HERE / "tiny_messages", app, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HERE.parent / "LICENSE", app / "LICENSE")
    (folder / "home").mkdir(exist_ok=True)
    (folder / "home" / "config.toml").write_text(f'[superlink.lab]\naddress = "{address}"\ninsecure = true\n')
    changes = [word for key, value in config.items() for word in ("-c", f"{key}={value}")]
    command = [tool("flwr"), "run", str(app), "lab", *changes]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"Flower refuses the app: {done.stdout}{done.stderr}")


def main() -> None:
    """Measure, and put the figures into the data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=DATA, metavar="FILE")
    args = parser.parse_args()
    here = machine()
    with tempfile.TemporaryDirectory() as name:
        found = measured(Path(name), args.nodes, args.rounds)
    data = load(args.data)
    data["flower"] = {"machine": here, "flwr": version("flwr"), **found}
    save(data, args.data)
    tell(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
