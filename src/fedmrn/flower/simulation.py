"""Flower's simulation engine (Ray) behind the same iterator of rounds as `fedmrn.federation.engine.simulate`.

Clients train in Ray's processes, the strategy is `FedMRN`, and the numbers are those of the in-process engine, given
the same threads for each client. Flower decides which node holds which partition, so each is asked first; a client's
noise key is made from its partition.
"""

import pickle
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from importlib.util import find_spec
from logging import ERROR, getLogger
from queue import Queue
from typing import NamedTuple, Protocol

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray
from torch import nn

from fedmrn.errors import ConfigError, EncodeError, WorkerError
from fedmrn.federation.account import Exchange
from fedmrn.federation.clients import Answer, Client, Task
from fedmrn.federation.engine import Federation, Memory, RoundResult, Trained, conclude, secret_of
from fedmrn.flower.client import update_reply
from fedmrn.flower.records import broadcast_bytes, records_of, update_bytes
from fedmrn.flower.strategy import FedMRN
from fedmrn.server import Carried, Server
from fedmrn.torch import ModelLayout
from fedmrn.wire.frame import Frame
from fedmrn.wire.messages import plain


class Built(Protocol):
    """A setting and the architecture."""

    @property
    def federation(self) -> Federation:
        """The setting."""

    @property
    def model(self) -> nn.Module:
        """The architecture; its values are overwritten."""


Make = Callable[[], Built]
"""Builds the same in any process; it is sent to others, so it lies at the top of a module."""
_POLL = 0.02
_DIVERGED, _MEMORY, _PARTITION = "diverged", "memory", "partition-id"


def simulate_on_flower(
    make: Make,
    federation: Federation,
    model: nn.Module,
    state: NDArray[np.float32],
    *,
    first: int = 1,
    memory: Memory | None = None,
    carried: Carried | None = None,
    on_client: Callable[[int], None] = lambda _: None,
    workers: int = 1,
    starting: AbstractContextManager[None] | None = None,
) -> Generator[RoundResult]:
    """Run rounds first..rounds on Flower's simulation engine, yielding each result.

    Args:
        make: builds the setting and the architecture anew, in each of Ray's processes.
        federation, model, state, first, memory, carried, on_client: as for `simulate`.
        workers: Ray's processes that train clients, each with the framework's present number of threads.
        starting: entered while Flower starts, which takes seconds.

    Raises:
        ConfigError: Ray is not installed.
        EncodeError: a client's training diverged.
        WorkerError: a client failed, or Flower did.
    """
    check_ray()
    strategy = _Watched(federation, model, state, carried)
    federation = federation.tested_on(ModelLayout.of(model).device)
    memory = dict(memory or {})
    app, clients = _client_app(pickle.dumps(make), torch.get_num_threads()), len(federation.parts)
    with _running(app, clients, workers) as running:
        with starting or nullcontext():
            nodes = _partitions(running, clients)
        for number in range(first, federation.rounds + 1):
            started = time.perf_counter()
            chosen = federation.sampled(number)
            messages = strategy.broadcasts(number, {nodes[client]: client for client in chosen}, ConfigRecord())
            for client, message in zip(chosen, messages, strict=True):
                if client in memory:
                    message.content["config"] = ConfigRecord({_MEMORY: memory[client].tobytes()})
            strategy.aggregate_train(number, _progress(running.answers(messages), on_client))
            report = strategy.reports[-1]
            if report.refused:
                raise WorkerError(f"round {number}: {report.refused[0]}")
            trained = strategy.trained(chosen)
            memory.update(trained.kept)
            yield conclude(federation, model, strategy.server, number, trained, started)


def check_ray() -> None:
    """Raise ConfigError if Ray is not installed."""
    if find_spec("ray") is None:
        raise ConfigError('--engine flower needs Flower\'s simulation engine: pip install "flwr[simulation]"')


class _Watched(FedMRN):
    """The strategy, keeping what a result needs to know of each client."""

    def __init__(
        self,
        federation: Federation,
        model: nn.Module,
        state: NDArray[np.float32],
        carried: Carried | None,
    ) -> None:
        view = ModelLayout.of(model)
        super().__init__(view)
        self.scheme = federation.scheme
        secret = secret_of(federation.seed)
        self.server = self._server = Server(view.layout, federation.scheme, state, secret, carried=carried)
        self._found: dict[int, tuple[Exchange, Answer]] = {}
        self._down: dict[int, tuple[dict[str, int], dict[str, int]]] = {}

    def sent(self, node: int, frame: Frame) -> None:
        self._down[node] = frame.account(), plain(frame).account()

    def folded(self, node: int, message: Message, frame: Frame) -> None:
        loss = float(records_of(message.content, MetricRecord)["metrics"]["train_loss"])  # type: ignore[arg-type]
        update = update_bytes(message.content, self.arrayrecord_key)
        answer = Answer(update, *self._down[node], loss, _memory(message))
        self._found[self._clients[node]] = Exchange.of(frame, answer), answer

    def trained(self, chosen: Iterable[int]) -> Trained:
        """Return what came of these clients, and forget it."""
        trained = Trained()
        for client in chosen:
            trained.add(client, *self._found[client])
        self._found, self._down = {}, {}
        return trained


def _client_app(told: bytes, threads: int) -> ClientApp:
    app = ClientApp()

    @app.query()
    def which(message: Message, context: Context) -> Message:
        partition = int(context.node_config[_PARTITION])
        return Message(RecordDict({"config": ConfigRecord({_PARTITION: partition})}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        federation, client = _built(told, threads)
        partition = int(context.node_config[_PARTITION])
        broadcast = broadcast_bytes(message.content, "arrays")
        task = Task(partition, broadcast, *federation.samples(partition), _memory(message))
        try:
            answer = client(task)
        except EncodeError as error:  # errors lose their type on the way; this one is for the caller to tell apart
            return Message(RecordDict({"config": ConfigRecord({_DIVERGED: str(error)})}), reply_to=message)
        back = update_reply(answer.update, message, {"num-examples": 1, "train_loss": answer.loss}, "arrays")
        if answer.memory is not None:
            back.content["config"] = ConfigRecord({_MEMORY: answer.memory.tobytes()})
        return back

    return app


@lru_cache(1)
def _built(told: bytes, threads: int) -> tuple[Federation, Client]:
    """In one of Ray's processes: build the federation, once."""
    torch.set_num_threads(threads)
    make: Make = pickle.loads(told)  # noqa: S301
    built = make()
    return built.federation, Client(built.model, built.federation.training())


class _Running(NamedTuple):
    """Flower's grid, and whether it is still there."""

    grid: Grid
    alive: Callable[[], bool]

    def answers(self, messages: Iterable[Message]) -> Iterator[Message]:
        """Send messages and yield their replies as they come.

        Raises:
            EncodeError, WorkerError: as the clients do; Flower has stopped.
        """
        waiting = set(self.grid.push_messages(messages))
        while waiting:
            if not self.alive():
                raise WorkerError("Flower's simulation engine stopped in the midst of a round; see above")
            for message in self.grid.pull_messages(waiting):
                waiting.discard(message.metadata.reply_to_message_id)
                if message.has_error():
                    raise WorkerError(f"a client failed on Flower: {message.error.reason}")
                if _DIVERGED in _config(message):
                    raise EncodeError(str(_config(message)[_DIVERGED]))
                yield message
            time.sleep(_POLL)


@contextmanager
def _running(client_app: ClientApp, nodes: int, workers: int) -> Iterator[_Running]:
    """Run Flower's engine in a thread of its own, and hand its grid to this one."""
    from flwr.simulation import run_simulation  # noqa: PLC0415 - Ray is imported with it, which takes seconds

    handed: Queue[Grid | BaseException] = Queue()
    done = threading.Event()
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        handed.put(grid)
        done.wait()

    def work() -> None:
        config = {
            "init_args": {
                "num_cpus": workers,
                "include_dashboard": False,
                "log_to_driver": False,
                "logging_level": ERROR,
            },
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        }
        try:
            run_simulation(server_app, client_app, nodes, backend_config=config)  # type: ignore[arg-type]
        except BaseException as error:  # whoever waits for the grid raises it
            handed.put(error)
        finally:
            handed.put(WorkerError("it ended"))

    logger = getLogger("flwr")
    before = logger.level
    thread = threading.Thread(target=work, name="flower")
    try:
        logger.setLevel(ERROR)
        thread.start()
        grid = handed.get()  # long before Ray is there
        if isinstance(grid, BaseException):
            raise WorkerError(f"Flower's simulation engine did not start: {grid}") from grid
        yield _Running(grid, thread.is_alive)
    finally:
        done.set()
        if thread.ident is not None:
            thread.join()
        logger.setLevel(before)


def _partitions(running: _Running, count: int) -> dict[int, int]:
    """Ask every node which partition it holds; return partition -> node."""
    while len(nodes := list(running.grid.get_node_ids())) < count:
        if not running.alive():
            raise WorkerError("Flower's simulation engine stopped before its nodes were there; see above")
        time.sleep(_POLL)
    asked = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
    found = {}
    for message in running.answers(asked):
        partition = _config(message)[_PARTITION]
        found[int(partition)] = message.metadata.src_node_id  # type: ignore[arg-type]
    return found


def _config(message: Message) -> ConfigRecord:
    return records_of(message.content, ConfigRecord).get("config") or ConfigRecord()


def _memory(message: Message) -> NDArray[np.float32] | None:
    kept = _config(message).get(_MEMORY)
    return np.frombuffer(kept, np.float32) if isinstance(kept, bytes) else None


def _progress(answers: Iterable[Message], on_client: Callable[[int], None]) -> Iterator[Message]:
    for place, message in enumerate(answers, 1):
        on_client(place)
        yield message
