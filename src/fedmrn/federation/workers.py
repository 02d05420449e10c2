"""A round's clients, several at a time in worker processes: the same code and the same numbers as in this one.

What crosses between processes are a client's samples, the bytes of its frames and its memory. Workers are started
afresh (`spawn`: a copy of a process whose framework has threads may hang), once for a run; they end when the process
that started them does, however it ends.
"""

import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch

from fedmrn.errors import ConfigError, WorkerError
from fedmrn.federation.client import Client, Samples
from fedmrn.federation.transport import Message, Reply


class Workers:
    """A transport to worker processes.

    Args:
        pool: of the processes.
        samples: client -> what it holds.
        ahead: how many messages are on their way at most.
    """

    def __init__(self, pool: ProcessPoolExecutor, samples: Callable[[int], Samples], ahead: int) -> None:
        self._pool, self._samples, self._ahead = pool, samples, ahead

    def ask(self, messages: Iterable[Message]) -> Iterator[Reply]:
        """Yield replies in the order of the messages, so that the first error is that of one process.

        Messages are taken when there is room.
        """
        waiting: deque[Future[Reply]] = deque()
        with _lost_is_told():
            for message in messages:
                if len(waiting) == self._ahead:
                    yield waiting.popleft().result()
                packed = replace(message, content=message.data)  # views of the state cannot be sent
                waiting.append(self._pool.submit(_answer, packed, self._samples(message.client)))
            while waiting:
                yield waiting.popleft().result()


@contextmanager
def worker_processes(make: Callable[[], Client], samples: Callable[[int], Samples], count: int) -> Iterator[Workers]:
    """Start worker processes, and yield the transport to them; they end with the context.

    Raises:
        ConfigError: `make` cannot be sent to another process.
        WorkerError: a worker process ended without an answer.
    """
    context = get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    setup = (_told(make), torch.get_num_threads(), watched)
    with held, watched, ProcessPoolExecutor(count, context, _start, setup) as pool:
        try:
            with _lost_is_told(), uninterrupted():
                for _ in range(count):
                    pool.submit(_ready)
            yield Workers(pool, samples, 2 * count)
        except BaseException as error:
            if not isinstance(error.__cause__, BrokenProcessPool):
                held.close()  # the workers end at once, in the midst of a client, or of sending an answer:
                # the pool's thread would wait for the rest of that, as this process itself holds the pipe open too.
                pool._result_queue._writer.close()  # type: ignore[attr-defined]  # noqa: SLF001 - it has no public way
            raise


@contextmanager
def _lost_is_told() -> Iterator[None]:
    """Raise WorkerError where the pool says that a process was lost."""
    try:
        yield
    except BrokenProcessPool as error:
        raise WorkerError(
            "a process that trains clients ended without an answer (killed, out of memory, or it could not start: "
            "see above): try fewer workers; the rounds before this one are complete"
        ) from error


def _told(make: Callable[[], Client]) -> bytes:
    """Return what workers are told once. Sent as it is, a model would stay in memory that all of them share."""
    try:
        return pickle.dumps(make)
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
        raise ConfigError(
            f"workers are processes of their own, and the model, the local rule or the augmentation cannot be sent to "
            f"them ({error}): define it at the top of a module, or use one worker"
        ) from error


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


_client: Client | None = None
"""In a worker process: what `_start` was told to make."""


def _start(told: bytes, threads: int, watched: Connection) -> None:
    """Set up a worker process, by what the process that started it says."""
    global _client  # noqa: PLW0603
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with, args=(watched,), daemon=True).start()
    torch.set_num_threads(threads)
    _client = pickle.loads(told)()  # noqa: S301


def end_with(watched: Connection) -> None:
    """End this process as soon as the other end of a pipe is closed: at the latest when its owner ends."""
    try:
        watched.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def _ready() -> None:
    """Do nothing: a worker is started for it."""


def _answer(message: Message, samples: Samples) -> Reply:
    if _client is None:
        raise WorkerError("a worker was given a client before it was set up")
    return _client.answer(message, samples)
