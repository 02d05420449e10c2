"""The transport of a simulation on one machine: clients train in this process, or in worker processes."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from fedmrn.errors import ConfigError
from fedmrn.federation.client import Client, Samples
from fedmrn.federation.transport import Message, Reply, Transport
from fedmrn.federation.workers import worker_processes


class _InProcess:
    """Lets one client after another train in this process.

    Args:
        client: trains them.
        samples: client -> what it holds.
    """

    def __init__(self, client: Client, samples: Callable[[int], Samples]) -> None:
        self._client, self._samples = client, samples

    def ask(self, messages: Iterable[Message]) -> Iterator[Reply]:
        """Yield each message's reply before the next message is taken."""
        for message in messages:
            yield self._client.answer(message, self._samples(message.client))


@contextmanager
def in_process(make: Callable[[], Client], samples: Callable[[int], Samples], workers: int = 1) -> Iterator[Transport]:
    """Yield a transport to clients on this machine.

    Args:
        make: makes what trains clients: once in this process, or once in each worker.
        samples: client -> what it holds.
        workers: 1 for this process; more for as many processes of their own, each with as many threads of the
            framework as this process has now.

    Raises:
        ConfigError: workers is below 1, or what workers must be told cannot be sent to another process.
        WorkerError: a worker process ended without an answer. An error raised in it is raised here, with its cause.
    """
    if workers < 1:
        raise ConfigError(f"workers is the number of processes that train clients, at least 1; got {workers}")
    if workers == 1:
        yield _InProcess(make(), samples)
        return
    with worker_processes(make, samples, workers) as transport:
        yield transport
