"""Replies as they come: order, time-outs, messages that could not be sent."""

import time
from collections.abc import Iterable

import pytest
from fake_grid import FakeGrid, reply_from
from flwr.app import Message, MessageType, RecordDict
from google.protobuf.message import DecodeError

from fedmrn.flower import streaming
from fedmrn.flower.streaming import Streaming


class Slow(FakeGrid):
    """A reply is there at the second look; the one of node 3 never is."""

    looks = 0
    asked: list[int]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        names = list(message_ids)
        self.asked = [*getattr(self, "asked", []), len(names)]
        self.looks += 1
        return [] if self.looks == 1 else super().pull_messages(n for n in names if self._to(n) != 3)

    def _to(self, name: str) -> int:
        return self._sent[name].metadata.dst_node_id if name in self._sent else 0


def messages(nodes: Iterable[int]) -> list[Message]:
    return [Message(RecordDict(), node, MessageType.TRAIN) for node in nodes]


def answer(message: Message) -> Message:
    return reply_from(message, RecordDict())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "POLL", 0.01)


def test_messages_are_sent_at_once_and_replies_come_while_others_are_awaited() -> None:
    grid = Slow(dict.fromkeys((1, 2), answer))
    replies = Streaming(grid).send_and_receive(messages((1, 2)))
    assert len(grid._sent) == 2
    assert grid.looks == 0
    assert {m.metadata.src_node_id for m in replies} == {1, 2}


def test_a_silent_node_ends_the_round_by_the_clock() -> None:
    grid = Slow(dict.fromkeys((1, 2, 3), answer))
    started = time.monotonic()
    replies = Streaming(grid).send_and_receive(messages((1, 2, 3)), timeout=0.3)
    assert {m.metadata.src_node_id for m in replies} == {1, 2}
    assert time.monotonic() - started >= 0.3


def test_replies_are_asked_for_one_at_a_time() -> None:
    grid = Slow(dict.fromkeys(range(10, 20), answer))
    assert len(list(Streaming(grid).send_and_receive(messages(range(10, 20))))) == 10
    assert set(grid.asked) == {1}


@pytest.mark.parametrize("error", [TypeError, ValueError, IndexError, KeyError, AttributeError, DecodeError])
def test_a_reply_that_flower_cannot_read_costs_no_other(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    def unreadable(message: Message) -> Message:
        raise error("as Flower does over a reply that is not well formed")

    grid = FakeGrid({1: answer, 2: unreadable, 3: answer})
    replies = Streaming(grid).send_and_receive(messages((1, 2, 3)), timeout=60)
    assert {m.metadata.src_node_id for m in replies} == {1, 3}
    assert "a reply could not be read" in caplog.text


def test_what_the_network_raises_passes_on() -> None:
    def lost(message: Message) -> Message:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        list(Streaming(FakeGrid({1: lost})).send_and_receive(messages((1,))))


def test_what_could_not_be_sent_is_not_waited_for() -> None:
    class Full(FakeGrid):
        def push_messages(self, messages: Iterable[Message]) -> list[str]:
            return [*super().push_messages(messages), None]  # type: ignore[list-item]

    grid = Full({1: answer})
    assert len(list(Streaming(grid).send_and_receive(messages((1,))))) == 1
