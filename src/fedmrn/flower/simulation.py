"""Flower's simulation engine (Ray) as a transport: `simulate` runs over it as over any other.

Clients train in Ray's processes, and the numbers are those of this process, given the same threads for each client.
Flower decides which node holds which partition, so each is asked first.
"""

import pickle
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from importlib.util import find_spec
from logging import ERROR, getLogger
from queue import Queue
from typing import NamedTuple, Protocol

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MessageType, MetricRecord, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray
from torch import nn

from fedmrn.errors import ConfigError, EncodeError, WorkerError
from fedmrn.federation.client import Client
from fedmrn.federation.setting import Federation
from fedmrn.federation.transport import Message, MessageKind, Reply, Transport
from fedmrn.flower.client import update_reply
from fedmrn.flower.records import CALIBRATE, FRAME, STATE, Cutter, broadcast_bytes, records_of, update_bytes


class Built(Protocol):
    """What a process of Ray's builds once: the federation, and a model for its clients to train."""

    @property
    def federation(self) -> Federation:
        """The setting."""

    @property
    def model(self) -> nn.Module:
        """The architecture; its values are overwritten."""


Make = Callable[[], Built]
"""Builds the same in any process; it is sent to others, so it lies at the top of a module."""
_POLL = 0.02
_DIVERGED, _ERROR, _MEMORY, _HELD, _PARTITION = "diverged", "error", "memory", "held", "partition-id"
_TYPES = {
    MessageKind.TRAIN: MessageType.TRAIN,
    MessageKind.EVALUATE: MessageType.EVALUATE,
    MessageKind.CALIBRATE: CALIBRATE,
}


@contextmanager
def on_flower(
    make: Make, clients: int, *, workers: int = 1, starting: AbstractContextManager[None] | None = None
) -> Iterator[Transport]:
    """Start Flower's simulation engine, and yield the transport to its nodes; it ends with the context.

    Args:
        make: builds the setting and the architecture anew, in each of Ray's processes.
        clients: of the federation, a node each.
        workers: Ray's processes that train clients, each with the framework's present number of threads.
        starting: entered while Flower starts, which takes seconds.

    Raises:
        ConfigError: Ray is not installed.
        WorkerError: Flower did not start.
    """
    check_ray()
    with running(client_app(pickle.dumps(make), torch.get_num_threads()), clients, workers) as engine:
        with starting or nullcontext():
            nodes = engine.partitions(clients)
        yield OnFlower(engine, nodes)


def check_ray() -> None:
    """Raise ConfigError if Ray is not installed."""
    if find_spec("ray") is None:
        raise ConfigError('--engine flower needs Flower\'s simulation engine: pip install "flwr[simulation]"')


class Engine(NamedTuple):
    """A running simulation engine of Flower: its grid, and whether it still runs."""

    grid: Grid
    alive: Callable[[], bool]

    def push(self, messages: Iterable[FlowerMessage]) -> list[str]:
        """Send messages, and return their ids in the same order."""
        return list(self.grid.push_messages(messages))

    def replies(self, names: Iterable[str]) -> Iterator[FlowerMessage]:
        """Yield the replies to messages that were sent, by their ids, as they come.

        Raises:
            WorkerError: a client failed, or Flower has stopped.
        """
        waiting = set(names)
        while waiting:
            if not self.alive():
                raise WorkerError("Flower's simulation engine stopped in the midst of a round; see above")
            for message in self.grid.pull_messages(waiting):
                waiting.discard(message.metadata.reply_to_message_id)
                if message.has_error():
                    raise WorkerError(f"a client failed on Flower: {message.error.reason}")
                yield message
            time.sleep(_POLL)

    def partitions(self, count: int) -> dict[int, int]:
        """Wait for so many nodes, ask each which partition it holds, and return partition -> node.

        Raises:
            WorkerError: Flower has stopped.
        """
        while len(nodes := list(self.grid.get_node_ids())) < count:
            if not self.alive():
                raise WorkerError("Flower's simulation engine stopped before its nodes were there; see above")
            time.sleep(_POLL)
        asked = self.push(FlowerMessage(RecordDict(), node, MessageType.QUERY) for node in nodes)
        found = {}
        for message in self.replies(asked):
            partition = _config(message)[_PARTITION]
            found[int(partition)] = message.metadata.src_node_id  # type: ignore[arg-type]
        return found


class OnFlower:
    """Carries messages over Flower's grid.

    Args:
        engine: that runs.
        nodes: client -> the node that holds its partition.
    """

    def __init__(self, engine: Engine, nodes: Mapping[int, int]) -> None:
        self._engine, self._nodes = engine, nodes

    def ask(self, messages: Iterable[Message]) -> Iterator[Reply]:
        """Send all messages at once, and return their replies as they come.

        Raises:
            EncodeError: a client's training diverged.
            WorkerError: a client failed, or Flower has stopped.
        """
        cutter, asked, packed = Cutter(), list[tuple[int, MessageKind]](), list[FlowerMessage]()
        for message in messages:
            asked.append((message.client, message.kind))
            packed.append(self._pack(message, cutter))
        return self._replies(dict(zip(self._engine.push(packed), asked, strict=True)))

    def _pack(self, message: Message, cutter: Cutter) -> FlowerMessage:
        head, state = cutter.cut(message.content)
        content = RecordDict({"arrays": ArrayRecord({FRAME: head, STATE: state})})
        if found := _of_a_client(message.kept, message.held):
            content["config"] = found
        return FlowerMessage(content, self._nodes[message.client], _TYPES[message.kind])

    def _replies(self, asked: Mapping[str, tuple[int, MessageKind]]) -> Iterator[Reply]:
        for message in self._engine.replies(asked):
            client, kind = asked[message.metadata.reply_to_message_id]
            config = _config(message)
            if _DIVERGED in config:
                raise EncodeError(str(config[_DIVERGED]))
            if _ERROR in config:
                yield Reply(client=client, kind=kind, error=str(config[_ERROR]))
                continue
            found = records_of(message.content, MetricRecord)["metrics"]
            metrics = {name: value for name, value in found.items() if isinstance(value, float)}
            data, kept = update_bytes(message.content, "arrays"), _memory(message)
            yield Reply(client=client, kind=kind, data=data, metrics=metrics, kept=kept, held=_held(message))


def client_app(told: bytes, threads: int) -> ClientApp:
    """Return what Ray's processes run: it says which partition a node holds, and trains its client.

    Args:
        told: a pickled `Make`.
        threads: of the framework, in each process.
    """
    app = ClientApp()

    @app.query()
    def which(message: FlowerMessage, context: Context) -> FlowerMessage:
        partition = int(context.node_config[_PARTITION])
        return FlowerMessage(RecordDict({"config": ConfigRecord({_PARTITION: partition})}), reply_to=message)

    @app.train()
    def train(message: FlowerMessage, context: Context) -> FlowerMessage:
        return answer(message, context, MessageKind.TRAIN)

    @app.evaluate()
    def evaluate(message: FlowerMessage, context: Context) -> FlowerMessage:
        return answer(message, context, MessageKind.EVALUATE)

    @app.train(MessageKind.CALIBRATE)
    def calibrate(message: FlowerMessage, context: Context) -> FlowerMessage:
        return answer(message, context, MessageKind.CALIBRATE)

    def answer(message: FlowerMessage, context: Context, kind: MessageKind) -> FlowerMessage:
        federation, client = built(told, threads)
        partition = int(context.node_config[_PARTITION])
        content = broadcast_bytes(message.content, "arrays")
        asked = Message(client=partition, kind=kind, content=content, kept=_memory(message), held=_held(message))
        try:
            reply = client.answer(asked, federation.samples(partition))
        except EncodeError as error:  # errors lose their type on the way; this one is for the caller to tell apart
            return FlowerMessage(RecordDict({"config": ConfigRecord({_DIVERGED: str(error)})}), reply_to=message)
        if reply.error is not None:
            return FlowerMessage(RecordDict({"config": ConfigRecord({_ERROR: reply.error})}), reply_to=message)
        back = update_reply(reply.data, message, {"num-examples": 1, **reply.metrics}, "arrays")
        if found := _of_a_client(reply.kept, reply.held):
            back.content["config"] = found
        return back

    return app


@lru_cache(1)
def built(told: bytes, threads: int) -> tuple[Federation, Client]:
    """Build the federation in one of Ray's processes, once, and what trains its clients."""
    torch.set_num_threads(threads)
    make: Make = pickle.loads(told)  # noqa: S301
    found = make()
    return found.federation, found.federation.client(found.model)()


@contextmanager
def running(app: ClientApp, nodes: int, workers: int) -> Iterator[Engine]:
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
            run_simulation(server_app, app, nodes, backend_config=config)  # type: ignore[arg-type]
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
        yield Engine(grid, thread.is_alive)
    finally:
        done.set()
        if thread.ident is not None:
            thread.join()
        logger.setLevel(before)


def _config(message: FlowerMessage) -> ConfigRecord:
    return records_of(message.content, ConfigRecord).get("config") or ConfigRecord()


def _of_a_client(kept: NDArray[np.float32] | None, held: bytes) -> ConfigRecord:
    """Return what a simulated client keeps; on Flower a real one would have it."""
    memory = {} if kept is None else {_MEMORY: kept.tobytes()}
    return ConfigRecord({**memory, **({_HELD: held} if held else {})})


def _held(message: FlowerMessage) -> bytes:
    held = _config(message).get(_HELD)
    return held if isinstance(held, bytes) else b""


def _memory(message: FlowerMessage) -> NDArray[np.float32] | None:
    kept = _config(message).get(_MEMORY)
    return np.frombuffer(kept, np.float32) if isinstance(kept, bytes) else None
