"""One round as a conversation: who was asked what, what came of it, and every byte both ways by kind of message."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict

import numpy as np
import pytest

from fedmrn.errors import (
    ChecksumError,
    ConfigError,
    DuplicateFrameError,
    EmptyRoundError,
    TruncatedFrameError,
    UnknownClientError,
    WrongKeyError,
    WrongRoundError,
)
from fedmrn.federation.account import total
from fedmrn.federation.conduct import Conduct
from fedmrn.federation.transport import Message, MessageKind, Reply
from fedmrn.methods import method
from fedmrn.server import Server
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update
from fedmrn.wire.plain import plain

LAYOUT = Layout.of([TensorSpec("w", (300,), Group.CODED), TensorSpec("b", (5,), Group.DENSE)])
TRAIN, EVALUATE = MessageKind.TRAIN, MessageKind.EVALUATE
QUESTION = b"how good is it?"


def server(**options: str) -> Server:
    state = np.linspace(-1, 1, LAYOUT.size).astype(np.float32)
    return Server(LAYOUT, method("fedmrn").scheme({}, **options), state, bytes(16), run=bytes(16))


def begun(*clients: int, noun: str = "client", by_client: bool = False) -> Conduct:
    return Conduct(server().begin(1, clients), LAYOUT.trainable, noun=noun, by_client=by_client)


def update(message: Message) -> bytes:
    """What an honest client answers: an update that is its number everywhere."""
    broadcast = Frame.from_bytes(message.data)
    vector = np.full(LAYOUT.size, message.client / 1000, np.float32)
    return encode_update(broadcast, LAYOUT, vector, weight=message.client, sampling_key=message.client).to_bytes()


def answer(message: Message) -> Reply:
    data = update(message) if message.kind is TRAIN else b"0.9"
    return Reply(client=message.client, kind=message.kind, data=data)


class Post:
    """Clients that answer when somebody waits for it."""

    def ask(self, messages: Iterable[Message]) -> Iterator[Reply]:
        return map(answer, list(messages))


def test_a_second_ask_while_replies_are_pending_changes_nothing_of_the_mean() -> None:
    expected = begun(1, 2, 3)
    for reply in Post().ask(map(expected.train, (1, 2, 3))):
        expected.take(reply)
    conduct, post = begun(1, 2, 3), Post()
    pending = post.ask(map(conduct.train, (1, 2)))
    conduct.take(next(pending))
    assert conduct.report.silent == 1
    for reply in post.ask([conduct.train(3)]):
        conduct.take(reply)
    for reply in pending:
        conduct.take(reply)
    assert conduct.report.folded == [1, 3, 2]
    assert conduct.finish().tobytes() == expected.finish().tobytes()


def test_a_client_asked_twice_gets_the_same_bytes_and_is_folded_once() -> None:
    conduct = begun(1, 2)
    first, second = conduct.train(1), conduct.train(1)
    assert first.data == second.data
    report, stage = conduct.report, conduct.report.stages[TRAIN]
    assert (report.asked, stage.asked, stage.again) == ([1], {1: 2}, [1])
    assert report.down == 2 * len(first.data)
    conduct.take(answer(first))
    with pytest.raises(DuplicateFrameError):
        conduct.take(answer(second))
    assert report.folded == [1]
    assert report.refused == ["client 1: DuplicateFrameError: client 1 answered already in round 1"]


def test_refused_failed_and_silent_clients_are_told_apart() -> None:
    conduct = begun(1, 2, 3, 4, noun="node")
    messages = {client: conduct.train(client) for client in (1, 2, 3, 4)}
    good, bad = update(messages[1]), update(messages[2])[:-1]
    frame = conduct.fold(1, good)
    assert frame.weight == 1
    with pytest.raises(TruncatedFrameError):
        conduct.fold(2, bad)
    assert conduct.take(Reply(client=3, kind=TRAIN, error="out of memory")) is None
    report = conduct.report
    assert report.folded == [1]
    assert [line.split(": ")[:2] for line in report.refused] == [["node 2", "TruncatedFrameError"]]
    assert report.failed == ["node 3: out of memory"]
    assert (report.answered, report.silent, report.stages[TRAIN].waiting) == ({1, 2, 3}, 1, [4])
    counts = "1 of 4 updates folded, 1 refused, 1 failed, 1 silent"
    assert str(report) == f"round 1: {counts}; {len(good):,} bytes up, {report.down:,} down"
    assert report.up == len(good)  # of what is in the mean
    assert report.stages[TRAIN].received == frame.account() | {"refused": len(bad)}
    conduct.fold(2, update(messages[2]))  # whoever was refused may send again
    assert report.folded == [1, 2]


def test_what_answers_no_message_is_refused_and_its_sender_may_still_answer() -> None:
    conduct = begun(1, 2)
    message = conduct.train(1)
    conduct.refuse(1, UnknownClientError("this reply answers no message"), answers=False)
    assert conduct.report.silent == 1
    with pytest.raises(UnknownClientError, match="client 2 was not asked"):  # it is one of the round's, and not asked
        conduct.fold(2, update(message))
    with pytest.raises(UnknownClientError, match="client 9 was not asked"):
        conduct.train(9)
    assert len(conduct.report.refused) == 2
    assert conduct.report.answered == set()
    conduct.fold(1, update(message))
    assert conduct.report.silent == 0


def test_a_stolen_or_damaged_frame_is_refused_and_nothing_has_changed() -> None:
    expected, conduct = begun(1, 2), begun(1, 2)
    for message in map(expected.train, (1, 2)):
        expected.take(answer(message))
    one, two = map(conduct.train, (1, 2))
    with pytest.raises(WrongKeyError):
        conduct.fold(2, update(one))
    damaged = bytearray(update(one))
    damaged[-9] ^= 1
    with pytest.raises(ChecksumError):
        conduct.fold(1, bytes(damaged))
    conduct.fold(2, update(two))
    conduct.fold(1, update(one))
    assert conduct.finish().tobytes() == expected.finish().tobytes()


def test_bytes_are_counted_by_kind_and_part_in_both_directions() -> None:
    conduct = begun(1, 2)
    post, broadcasts = Post(), [conduct.train(client) for client in (1, 2)]
    updates = list(post.ask(broadcasts))
    for reply in updates:
        conduct.take(reply)
    questions = [conduct.ask(client, EVALUATE, QUESTION) for client in (1, 2)]
    assert [message.data for message in questions] == [QUESTION, QUESTION]
    conduct.take(next(post.ask(questions)))
    conduct.take(Reply(client=2, kind=EVALUATE, error="no test data"))
    train, evaluate = conduct.report.stages[TRAIN], conduct.report.stages[EVALUATE]
    assert train.sent == total(Frame.from_bytes(message.data).account() for message in broadcasts)
    assert train.received == total(Frame.from_bytes(reply.data).account() for reply in updates)
    assert sum(train.sent.values()) == conduct.report.down == sum(len(message.data) for message in broadcasts)
    assert sum(train.received.values()) == conduct.report.up
    assert (evaluate.sent, evaluate.received) == ({"body": 2 * len(QUESTION)}, {"body": 3})
    assert (evaluate.answered, evaluate.waiting) == ({1, 2}, [])
    report = conduct.report
    assert (report.failed, report.failed_otherwise) == ([], ["client 2: evaluate: no test data"])
    assert report.metrics()["updates-failed"] == 0
    with pytest.raises(UnknownClientError, match="not asked to evaluate"):
        conduct.take(Reply(client=3, kind=EVALUATE, data=b"0.9"))
    assert json.loads(json.dumps(asdict(report) | {"stages": 0}, default=list))["up"] == report.up


def test_answers_that_nobody_asked_for_are_refused_and_their_bytes_counted() -> None:
    conduct, late = begun(1, 2), Reply(client=1, kind=EVALUATE, data=b"0.9")
    with pytest.raises(UnknownClientError, match="client 1 was not asked to evaluate"):
        conduct.take(late)
    conduct.take(Reply(client=2, kind=EVALUATE, error="no data"))
    assert not conduct.report.stages[EVALUATE].asked
    conduct.ask(1, EVALUATE, QUESTION)
    conduct.take(late)
    with pytest.raises(DuplicateFrameError, match="client 1 answered evaluate already"):
        conduct.take(late)
    stage, report = conduct.report.stages[EVALUATE], conduct.report
    assert stage.received == {"body": 3, "refused": 6}
    assert (report.refused, report.up, len(report.failed_otherwise)) == ([], 0, 3)
    conduct.ask(1, EVALUATE, QUESTION)
    conduct.take(late)
    assert stage.received == {"body": 6, "refused": 6}


def test_a_client_that_failed_and_then_answered_is_not_among_those_that_failed() -> None:
    """As one that lost its model, and answers from the whole one; an error of somebody else stays."""
    conduct = begun(1, 2, 3)
    messages = {client: conduct.train(client) for client in (1, 2, 3)}
    for reason in ("LostModelError: none", "LostModelError: none again"):
        for client in (1, 2):
            conduct.fail(client, reason, lost=True)
    conduct.fail(1, "says another", answers=False)
    report = conduct.report
    again = [f"client {client}: LostModelError: none again" for client in (1, 2)]
    assert report.failed == [*again, "client 1: says another"]
    conduct.fold(1, update(messages[1]))
    assert (report.folded, report.failed) == ([1], [again[1], "client 1: says another"])
    assert (report.answered, report.silent) == ({1, 2}, 1)
    conduct.ask(3, EVALUATE, QUESTION)
    conduct.fail(3, "no data", EVALUATE)
    conduct.take(Reply(client=3, kind=EVALUATE, data=b"0.9"))
    assert report.failed_otherwise == []
    with pytest.raises(TruncatedFrameError):
        conduct.fold(2, update(messages[2])[:-1])
    assert report.failed == [again[1], "client 1: says another"]  # what is refused takes nothing back


def test_training_is_asked_for_by_its_own_message() -> None:
    conduct = begun(1)
    with pytest.raises(ConfigError, match=r"Conduct\.train"):
        conduct.ask(1, TRAIN, b"train!")
    assert conduct.report.down == 0


def test_a_broadcast_holds_views_of_the_state() -> None:
    """No bytes are joined before a transport sends them."""
    at_start = server()
    conduct = Conduct(at_start.begin(1, [1, 2]), LAYOUT.trainable)
    for client in (1, 2):
        content = conduct.train(client).content
        assert isinstance(content, Frame)
        views = [np.frombuffer(s.body, np.uint8) for s in content.sections if s.body]
        assert all(np.shares_memory(view, at_start.state) for view in views)
        assert sum(view.size for view in views) == 4 * LAYOUT.size


@pytest.mark.parametrize("down", ["float32", "float16", "eden4"])
def test_each_clients_bytes_are_kept_as_they_travel_and_in_plain(down: str) -> None:
    at_start = server(down=down, side="float16")
    conduct = Conduct(at_start.begin(1, [1, 2]), LAYOUT.trainable, by_client=True)
    for message in map(conduct.train, (1, 2)):
        broadcast, answered = Frame.from_bytes(message.data), Frame.from_bytes(update(message))
        conduct.take(answer(message))
        found = conduct.exchanges[message.client]
        assert (found.down, found.raw_down) == (broadcast.account(), plain(broadcast).account())
        assert (found.up, found.raw_up) == (answered.account(), plain(answered).account())
    again = conduct.train(2)
    assert sum(conduct.exchanges[2].down.values()) == 2 * len(again.data)
    assert begun(1).exchanges == {}


def test_a_round_ends_once() -> None:
    conduct = begun(1)
    message = conduct.train(1)
    conduct.fold(1, update(message))
    assert not conduct.finished
    conduct.finish()
    assert conduct.finished
    with pytest.raises(WrongRoundError, match="round 1 is finished"):
        conduct.fold(1, update(message))
    for late in (conduct.finish, lambda: conduct.train(1)):
        with pytest.raises(WrongRoundError, match="round 1 is finished"):
            late()
    with pytest.raises(EmptyRoundError):
        begun(1).finish()
    conduct.ask(1, EVALUATE, QUESTION)  # others may follow
    assert conduct.report.stages[EVALUATE].waiting == [1]
