"""A grid that hands over replies while others are still awaited, a few at a time.

Flower's own waits for all of them and holds them in a list: with masks, a thirty-second of a model for each client.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

AT_A_TIME = 8
"""Replies that are held together."""
POLL = 1.0
"""Seconds between two looks."""


class Streaming(Grid):
    """Another grid, but `send_and_receive` sends at once and returns an iterator of the replies."""

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
            for start in range(0, len(waiting), AT_A_TIME):
                for message in self._grid.pull_messages(waiting[start : start + AT_A_TIME]):
                    answered.add(message.metadata.reply_to_message_id)
                    yield message
            waiting = [name for name in waiting if name not in answered]
            if waiting and end is not None and time.monotonic() >= end:
                return
            if waiting:
                time.sleep(POLL)

    def set_run(self, run: Any) -> None:
        """As the other grid."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """As the other grid."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """As the other grid."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """As the other grid."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Any:
        """As the other grid."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As the other grid."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As the other grid."""
        return self._grid.pull_messages(message_ids)
