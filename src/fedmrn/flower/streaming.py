"""A grid that hands over replies while others are still awaited, one at a time.

Flower's own waits for all of them and holds them in a list: with masks, a thirty-second of a model for each client.
"""

import time
from collections.abc import Iterable, Iterator
from logging import WARNING, getLogger
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from google.protobuf.message import DecodeError

log = getLogger("flwr").log

_UNREADABLE = (TypeError, ValueError, LookupError, AttributeError, DecodeError)
"""What Flower raises over a reply that is well signed and not well formed; what the network raises passes on."""
POLL = 2.0
"""Seconds between two looks."""


class Streaming(Grid):
    """A wrapper of a grid whose `send_and_receive` sends at once and returns an iterator of the replies."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Send all messages, and return an iterator that ends when all are answered or the time (seconds) is over."""
        waiting = [name for name in self._grid.push_messages(messages) if name]  # None: it could not be sent
        end = None if timeout is None else time.monotonic() + timeout
        return self._replies(waiting, end)

    def _replies(self, waiting: list[str], end: float | None) -> Iterator[Message]:
        while waiting:
            answered = set()
            for name in waiting:
                try:  # one at a time: Flower forgets what it has handed over, and so what came with a bad one
                    found = list(self._grid.pull_messages([name]))
                except _UNREADABLE as error:
                    log(WARNING, "a reply could not be read (%s): its node counts as silent", type(error).__name__)
                    answered.add(name)
                    continue
                answered.update(message.metadata.reply_to_message_id for message in found)
                yield from found
            waiting = [name for name in waiting if name not in answered]
            if waiting and end is not None and time.monotonic() >= end:
                return
            if waiting:
                time.sleep(POLL)

    def set_run(self, run: Any) -> None:
        """Hand on to the wrapped grid."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """Hand on to the wrapped grid."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Hand on to the wrapped grid."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Hand on to the wrapped grid."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Any:
        """Hand on to the wrapped grid."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand on to the wrapped grid."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand on to the wrapped grid."""
        return self._grid.pull_messages(message_ids)
