"""A round's clients, one after another in this process or several at a time in worker processes: the same code, the
same numbers.

What crosses between processes are a client's samples, the bytes of its frames and its memory. Workers are started
afresh (`spawn`: a copy of a process whose framework has threads may hang), once for a run; they end when the process
that started them does, however it ends.
"""

import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import MappingProxyType
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmrn.errors import ConfigError, WorkerError
from fedmrn.methods.optimizers import LOCAL_OPTIMIZERS
from fedmrn.numerics.rng import derive_key
from fedmrn.torch import LocalData, LocalRule, ModelLayout, train_client
from fedmrn.torch.fast.graphs import CudaGraphs, StepGraphs
from fedmrn.torch.loop import Augment
from fedmrn.torch.objectives import Loss
from fedmrn.wire.frame import Frame, Kind
from fedmrn.wire.messages import plain

OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = MappingProxyType(
    {name: getattr(torch.optim, kind) for name, kind in LOCAL_OPTIMIZERS.items()}
)


class RuleFactory(Protocol):
    """Makes a client's local rule: `fedmrn.torch.attach`, or something that calls it with options."""

    def __call__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        broadcast: Frame,
        *,
        steps: int,
        sampling_key: int,
        memory: NDArray[np.float32] | None,
    ) -> LocalRule:
        """Return the rule, attached to the model."""


@dataclass(frozen=True)
class Training:
    """How every client of a federation trains; the fields are those of `Federation`."""

    rule: RuleFactory
    optimizer: str
    local_epochs: int
    batch_size: int
    lr: float
    seed: int
    by_batches: bool
    augment: Augment | None
    bfloat16: bool
    graphs: bool
    loss: Loss


@dataclass(frozen=True)
class Task:
    """One client's part in one round.

    Attributes:
        client: which.
        broadcast: the bytes that the server sent.
        x, y: the client's samples.
        memory: what it kept from its last round.
    """

    client: int
    broadcast: bytes
    x: NDArray[np.generic]
    y: NDArray[np.generic]
    memory: NDArray[np.float32] | None


@dataclass(frozen=True)
class Answer:
    """What came of a task.

    Attributes:
        update: the bytes of the update frame.
        down: bytes of the broadcast by part.
        raw_down: the same of what it would be in plain (`fedmrn.wire.messages.plain`).
        loss: mean of the last local epoch.
        memory: what the client keeps, if its method has it keep something.
    """

    update: bytes
    down: dict[str, int]
    raw_down: dict[str, int]
    loss: float
    memory: NDArray[np.float32] | None


class Client:
    """Trains one client after another on one model."""

    def __init__(self, model: nn.Module, training: Training) -> None:
        self._model, self._training = model, training
        view = ModelLayout.of(model)
        self._cuda = [view.device] if view.device.type == "cuda" else []
        self._graphs = StepGraphs(CudaGraphs(view.device)) if self._cuda and training.graphs else None
        sent = {tensor.name for tensor in view.layout.tensors}
        # Counters and the like are not sent: each client starts from those of the model as it was built.
        self._others = [(b, b.clone()) for name, b in model.named_buffers() if name not in sent]

    def __call__(self, task: Task) -> Answer:
        """Train one client, from the bytes of its broadcast to those of its update."""
        training, broadcast = self._training, Frame.from_bytes(task.broadcast, kind=Kind.BROADCAST)
        for buffer, initial in self._others:
            buffer.copy_(initial)

        def key(label: str) -> int:
            return derive_key(training.seed, label, broadcast.round, task.client)

        data = LocalData(
            torch.from_numpy(task.x),
            torch.from_numpy(task.y),
            training.local_epochs,
            training.batch_size,
            key("order"),
            training.augment,
            channels_last=not self._cuda,  # what it gains is the CPU's
            bfloat16=training.bfloat16,
        )
        with torch.random.fork_rng(devices=self._cuda):
            torch.manual_seed(key("framework") >> 1)  # dropout and the like
            optimizer = OPTIMIZERS[training.optimizer](self._model.parameters(), lr=training.lr)
            rule = training.rule(
                self._model,
                optimizer,
                broadcast,
                steps=data.steps,
                sampling_key=key("sampling"),
                memory=task.memory,
            )
            weight = data.batches if training.by_batches else None
            frame, loss = train_client(self._model, rule, data, weight=weight, loss=training.loss, graphs=self._graphs)
        down, raw = broadcast.account(), plain(broadcast).account()
        return Answer(frame.to_bytes(), down, raw, loss, rule.memory if rule.remembers else None)


@contextmanager
def clients(
    model: nn.Module, training: Training, workers: int
) -> Iterator[Callable[[Iterable[Task]], Iterator[Answer]]]:
    """Yield a function from tasks to their answers, in the order of the tasks.

    Args:
        model: any module; each worker process gets a copy of it as it is now.
        training: how clients train.
        workers: 1 for this process; more for as many processes of their own, each with as many threads of the
            framework as this process has now.

    Raises:
        ConfigError: workers is below 1, or what workers must be told cannot be sent to another process.
        WorkerError: a worker process ended without an answer. An error raised in it is raised here, with its cause.
    """
    if workers < 1:
        raise ConfigError(f"workers is the number of processes that train clients, at least 1; got {workers}")
    if workers == 1:
        client = Client(model, training)
        yield lambda tasks: map(client, tasks)
        return
    context = get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    setup = (_told(model, training), torch.get_num_threads(), watched)
    with held, watched, ProcessPoolExecutor(workers, context, _start, setup) as pool:
        try:
            _start_all(pool, workers)
            yield lambda tasks: _in_order(pool, tasks, 2 * workers)
        except BrokenProcessPool as error:
            raise WorkerError(
                "a process that trains clients ended without an answer (killed, out of memory, or it could not start: "
                "see above): try fewer workers; the rounds before this one are complete"
            ) from error
        except BaseException:
            held.close()  # the workers end at once, in the midst of a client, or of sending an answer:
            # the pool's thread would wait for the rest of that, as this process itself holds the pipe open too.
            pool._result_queue._writer.close()  # type: ignore[attr-defined]
            raise


def _told(model: nn.Module, training: Training) -> bytes:
    """Return what workers are told once. Sent as it is, a model would stay in memory that all of them share."""
    try:
        return pickle.dumps((model, training))
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
        raise ConfigError(
            f"workers are processes of their own, and the model, the local rule or the augmentation cannot be sent to "
            f"them ({error}): define it at the top of a module, or use one worker"
        ) from error


def _start_all(pool: ProcessPoolExecutor, workers: int) -> None:
    """Start the processes."""
    with uninterrupted():
        for _ in range(workers):
            pool.submit(_ready)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C, here and in processes that are started meanwhile: it is for the process that started them."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


def _in_order(pool: ProcessPoolExecutor, tasks: Iterable[Task], ahead: int) -> Iterator[Answer]:
    """Yield answers in the order of the tasks; no more than `ahead` tasks are held at a time."""
    waiting: deque[Future[Answer]] = deque()
    for task in tasks:
        if len(waiting) == ahead:
            yield waiting.popleft().result()
        waiting.append(pool.submit(_work, task))
    while waiting:
        yield waiting.popleft().result()


_client: Client | None = None
"""In a worker process: what `_start` was told."""


def _start(told: bytes, threads: int, watched: Connection) -> None:
    """Set up a worker process, by what the process that started it says."""
    global _client  # noqa: PLW0603
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with, args=(watched,), daemon=True).start()
    torch.set_num_threads(threads)
    _client = Client(*pickle.loads(told))  # noqa: S301


def end_with(watched: Connection) -> None:
    """End this process as soon as the other end of a pipe is closed: at the latest when its owner ends."""
    try:
        watched.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def _ready() -> None:
    """Do nothing: a worker is started for it."""


def _work(task: Task) -> Answer:
    if _client is None:
        raise WorkerError("a worker was given a task before it was set up")
    return _client(task)
