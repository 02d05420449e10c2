"""A transport of one's own, over a pipe to another process: the same federation, the same results to the bit."""

import multiprocessing
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import pytest
import torch
from small_federation import federation, records, run, small_model

from fedmrn.federation.conduct import Conduct
from fedmrn.federation.secrets import run_of, secret_of
from fedmrn.federation.transport import Message, Reply
from fedmrn.server import Server
from fedmrn.torch import ModelLayout


class Pipe:
    """Carries messages over a connection; replies come in the order of asking, to whoever asked."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._asked, self._arrived = connection, 0, dict[int, Reply]()

    def ask(self, messages: Iterable[Message]) -> Iterator[Reply]:
        numbers = []
        for message in messages:
            self._connection.send((self._asked, message.client, message.kind, message.data, message.kept))
            numbers.append(self._asked)
            self._asked += 1
        return map(self._wait, reversed(numbers))  # in any order

    def _wait(self, number: int) -> Reply:
        while number not in self._arrived:
            arrived, reply = self._connection.recv()
            self._arrived[arrived] = reply
        return self._arrived.pop(number)


def serve(connection: Connection, name: str) -> None:
    """The clients' side, in a process of its own."""
    torch.set_num_threads(1)
    setting = federation(name)
    client = setting.client(small_model())()
    while (asked := connection.recv()) is not None:
        number, who, kind, data, kept = asked
        message = Message(client=who, kind=kind, content=data, kept=kept)
        connection.send((number, client.answer(message, setting.samples(who))))


@contextmanager
def piped(name: str) -> Iterator[Pipe]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, name), daemon=True)
    process.start()
    there.close()  # so that its end is noticed here
    yield Pipe(here)
    here.send(None)
    process.join()


@pytest.mark.parametrize("name", ["fedmrn", "topk-ef"])
def test_the_results_are_those_of_this_process(name: str) -> None:
    """What clients keep from round to round (topk-ef) included."""
    with piped(name) as transport:
        assert records(run(federation(name), transport=transport)) == records(run(federation(name)))


def test_a_second_ask_while_replies_are_pending() -> None:
    setting, view = federation(rounds=1), ModelLayout.of(small_model())
    server = Server(view.layout, setting.scheme, view.read(), secret_of(setting.seed), run=run_of(setting.seed))
    one, *others = setting.sampled(1)
    conduct = Conduct(server.begin(1, [one, *others]), view.layout.trainable)
    with piped("fedmrn") as transport:
        first = transport.ask(map(conduct.train, others))
        for reply in (*transport.ask([conduct.train(one)]), *first):
            conduct.take(reply)
    assert conduct.finish().tobytes() == run(setting)[0].state.tobytes()
