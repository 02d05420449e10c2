"""Flower without a network: a grid whose nodes are functions."""

from collections.abc import Callable, Iterable
from uuid import uuid4

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

Node = Callable[[Message], Message | list[Message] | None]
"""A message -> its reply, several, or none."""
SUPERLINK = 1


class FakeGrid(Grid):
    """Nodes answer when their reply is asked for; of a message sent, only that is kept which `sent` returns."""

    def __init__(self, nodes: dict[int, Node]) -> None:
        self.nodes = nodes
        self._sent: dict[str, Message] = {}

    def sent(self, message: Message) -> Message:
        return message

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        names = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = name = str(uuid4())
            self._sent[name] = self.sent(message)
            names.append(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        found: list[Message] = []
        for name in message_ids:
            if name in self._sent:
                message = self._sent.pop(name)
                reply = self.nodes[message.metadata.dst_node_id](message)
                found += [reply] if isinstance(reply, Message) else reply or []
        return found

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def get_nodes(self) -> list[object]:
        raise NotImplementedError

    def set_run(self, run: object) -> None:
        raise NotImplementedError

    @property
    def run(self) -> object:
        raise NotImplementedError

    def create_message(self, *args: object, **kwargs: object) -> Message:
        raise NotImplementedError


def reply_from(message: Message, content: RecordDict | Error, node: int | None = None) -> Message:
    """What a SuperLink would hand over: by default from the node that was asked."""
    back = Message(content, reply_to=message)
    back.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id if node is None else node
    return back
