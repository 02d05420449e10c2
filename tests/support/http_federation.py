"""A federation over real sockets on the loopback: a server in a thread, clients in threads, trained one at a time."""

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np
import small_federation
import torch
from numpy.typing import NDArray

from fedmrn.federation.client import Client
from fedmrn.federation.secrets import run_of, secret_of
from fedmrn.federation.setting import Federation
from fedmrn.federation.transport import Message, MessageKind
from fedmrn.http import HttpServer, Outcome, Plan, Tokens, new_tokens, open_server
from fedmrn.http.connection import Connection, Given
from fedmrn.server import Server
from fedmrn.torch import ModelLayout


def of_many(clients: int, name: str = "fedmrn", **changes: Any) -> Federation:
    """The small federation with so many clients, a handful of samples each, all of them in each round."""
    x, y = small_federation.blobs(4 * clients, 1)
    parts = [np.arange(4 * client, 4 * client + 4) for client in range(clients)]
    setting = small_federation.federation(name, **changes)
    return replace(setting, parts=parts, train_x=x, train_y=y, clients_per_round=clients)


def server_of(setting: Federation, folder: Path) -> Server:
    """The server that a simulation of this setting has, saved in a folder or new."""
    view = ModelLayout.of(small_federation.small_model())
    return open_server(
        folder,
        view.layout,
        setting.scheme,
        view.read(),
        secret=secret_of(setting.seed),
        run=run_of(setting.seed),
        clipping=setting.clipping,
    )


def plan_of(setting: Federation, **changes: Any) -> Plan:
    """The plan that draws clients as a simulation of this setting does."""
    values = {"rounds": setting.rounds, "clients_per_round": setting.clients_per_round, "seed": setting.seed}
    return Plan(**{**values, "wait_for": len(setting.parts), "deadline": 60.0, **changes})


class Trainer:
    """Trains clients as a simulation does, one at a time."""

    def __init__(self, setting: Federation) -> None:
        self._setting, self._lock = setting, Lock()
        self._client: Client = setting.client(small_federation.small_model())()
        self.held: dict[int, bytes] = {}
        self.kept: dict[int, Any] = {}

    def __call__(self, client: int, data: bytes) -> tuple[bytes, dict[str, float]]:
        """A client's update and metrics."""
        with self._lock:
            message = Message(
                client=client,
                kind=MessageKind.TRAIN,
                content=data,
                kept=self.kept.get(client),
                held=self.held.get(client, b""),
            )
            reply = self._client.answer(message, self._setting.samples(client))
            self.held[client], self.kept[client] = reply.held, reply.kept
            return reply.data, dict(reply.metrics)


Answer = Callable[[Connection, int, Given], None]


class Running:
    """A server that runs."""

    def __init__(
        self,
        server: HttpServer | None,
        tokens: Mapping[int, str],
        port: int,
        scheme: str = "http",
        patience: float = 10.0,
    ) -> None:
        self.tokens, self.url, self._patience = tokens, f"{scheme}://127.0.0.1:{port}", patience
        self._server = server
        self.outcomes: list[Outcome] = []
        self.raised: BaseException | None = None

    @property
    def server(self) -> HttpServer:
        assert self._server is not None
        return self._server

    def connect(self, client: int, **options: Any) -> Connection:
        return Connection(self.url, self.tokens[client], patience=self._patience, **options)


@contextmanager
def serving(
    setting: Federation,
    folder: Path,
    *,
    plan: Plan | None = None,
    tokens: Mapping[int, str] | None = None,
    run: Mapping[str, Any] | None = None,
    **options: Any,
) -> Iterator[Running]:
    """A server on a free port, until the block ends."""
    tokens = tokens or new_tokens(len(setting.parts))
    outcomes: list[Outcome] = []
    options = {"linger": 1.0, "max_wait": 5, "on_round": outcomes.append, **options}
    server = HttpServer(server_of(setting, folder), plan or plan_of(setting), Tokens(tokens), folder, **options)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        scheme = "https" if run and "certificate" in run else "http"
        running = Running(server, tokens, listener.getsockname()[1], scheme)
        running.outcomes = outcomes

        def serve() -> None:
            try:
                server.run(listener=listener, **(run or {}))
            except BaseException as error:
                running.raised = error

        thread = Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield running
        finally:
            server.stop()
            thread.join(20)
            assert not thread.is_alive()


def take_part(running: Running, client: int, train: Trainer, **options: Any) -> None:
    """Be a client until the run is over."""
    with running.connect(client, **options) as connection:
        connection.about()
        while (task := connection.task(5)) is not None:
            answer(connection, client, task, train)


def answer(connection: Connection, client: int, task: Given, train: Trainer) -> None:
    """Do what a task asks."""
    if task.kind == "evaluate":
        connection.answer(task, b"", {"num-examples": 4, "accuracy": client / 10})
        return
    data, metrics = train(client, task.data)
    connection.answer(task, data, metrics)


def in_threads(running: Running, clients: list[int], train: Trainer, **options: Any) -> list[Thread]:
    """Start clients in threads."""
    threads = [
        Thread(target=take_part, args=(running, client, train), kwargs=options, daemon=True) for client in clients
    ]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[Thread], seconds: float = 60.0) -> None:
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive()


torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def folded_without(setting: Federation, absent: set[int]) -> NDArray[np.float32]:
    """The state after the rounds of a server in this process, to which some of a round's clients never answer."""
    train, view = Trainer(setting), ModelLayout.of(small_federation.small_model())
    state = Server.initial(view.layout, setting.scheme, view.read())
    secret, run = secret_of(setting.seed), run_of(setting.seed)
    server = Server(view.layout, setting.scheme, state, secret, run=run, clipping=setting.clipping)
    for number in range(1, setting.rounds + 1):
        round_ = server.begin(number, setting.sampled(number))
        for client in round_.clients:
            if client not in absent:
                round_.add(client, train(int(client), round_.broadcast(client))[0])
        round_.finish()
    return server.state
