"""The in-process engine: every broadcast and every update goes through its bytes.

A round is a pure function of (seed, round, state): a run that was stopped goes on to the identical result.
In a simulation the clients' sampling keys come from the run's seed, so that it can be repeated; that is not private.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmrn.errors import ConfigError
from fedmrn.federation.account import Account, Exchange, total
from fedmrn.federation.clients import OPTIMIZERS, Answer, RuleFactory, Task, Training, clients
from fedmrn.numerics.rng import Purpose, Stream, derive_key, domain
from fedmrn.server import Carried, Server
from fedmrn.server.scheme import Scheme
from fedmrn.text import nearest
from fedmrn.torch import ModelLayout, evaluate
from fedmrn.torch.loop import Augment, channels_last
from fedmrn.torch.objectives import CLASSES, Objective

Memory = dict[int, NDArray[np.float32]]
"""Client -> what it keeps from its last round."""


@dataclass(frozen=True)
class Federation:
    """Everything that a simulated federation consists of.

    The model takes batches of images with channels-last strides (it may not call `view` on them).

    Attributes:
        scheme: what server and clients agree on.
        rule: makes a client's local rule.
        optimizer: of local training, a key of `OPTIMIZERS`.
        train_x, train_y: all training samples.
        parts: for each client, the indices of its samples (int64).
        test_x, test_y: what the global model is evaluated on.
        rounds: how many.
        clients_per_round: sampled without replacement.
        local_epochs, batch_size, lr: of local training.
        by_batches: weight clients by batches instead of samples (the published code).
        seed: of everything random.
        augment: of training batches.
        bfloat16: train under the framework's bfloat16 autocast; the parameters stay float32.
        graphs: on CUDA, capture steps and replay them (`fedmrn.torch.fast.graphs`).
        objective: the loss of training, and the score of evaluation.
    """

    scheme: Scheme
    rule: RuleFactory
    train_x: Tensor
    train_y: Tensor
    parts: Sequence[NDArray[np.int64]]
    test_x: Tensor
    test_y: Tensor
    rounds: int
    clients_per_round: int
    local_epochs: int
    batch_size: int
    lr: float
    seed: int
    optimizer: str = "sgd"
    by_batches: bool = False
    augment: Augment | None = None
    bfloat16: bool = False
    graphs: bool = True
    objective: Objective = CLASSES

    def __post_init__(self) -> None:
        if not 1 <= self.clients_per_round <= len(self.parts):
            raise ConfigError(
                f"clients_per_round is {self.clients_per_round}, but there are {len(self.parts)} clients: "
                f"choose 1 to {len(self.parts)}"
            )
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"optimizer {self.optimizer!r} does not exist{nearest(self.optimizer, OPTIMIZERS)}")

    def sampled(self, round: int) -> list[int]:
        """Return the clients of a round, in increasing order."""
        stream = Stream(derive_key(self.seed, "clients"), domain(Purpose.CLIENTS, round))
        return sorted(stream.permutation(len(self.parts))[: self.clients_per_round].tolist())

    def samples(self, client: int) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
        """Return a client's inputs and targets."""
        mine = torch.from_numpy(self.parts[client])
        return self.train_x[mine].numpy(), self.train_y[mine].numpy()

    def tested_on(self, device: torch.device) -> "Federation":
        """Return the same with the test samples on a device."""
        return replace(self, test_x=self.test_x.to(device), test_y=self.test_y.to(device))

    def training(self) -> Training:
        """Return how every client trains."""
        return Training(
            self.rule,
            self.optimizer,
            self.local_epochs,
            self.batch_size,
            self.lr,
            self.seed,
            self.by_batches,
            self.augment,
            self.bfloat16,
            self.graphs,
            self.objective.loss,
        )


@dataclass(frozen=True)
class RoundResult:
    """What came of a round.

    Attributes:
        round: its number, from 1.
        accuracy, loss: of the new global model on the test samples; what the accuracy is, the objective says.
        train_loss: mean over clients of their last local epoch.
        exchanges: the bytes of each client's frames, in the order of `clients`.
        bits_per_parameter: 8 * bytes of all update frames / (clients * trainable parameters).
        clients: who took part.
        seconds: wall time, evaluation included.
        state: the new global model, float32, shape (d,).
        sample: the update frame of the last client.
        memory: what the clients of this round keep, for methods whose clients do.
        carried: what the server keeps beside the state.
        observed: what the codec says of each coded tensor (`Server.observed`); empty where it says nothing.
    """

    round: int
    accuracy: float
    loss: float
    train_loss: float
    exchanges: list[Exchange] = field(repr=False)
    bits_per_parameter: float
    clients: list[int]
    seconds: float
    state: NDArray[np.float32] = field(repr=False)
    sample: bytes = field(repr=False)
    memory: Memory = field(repr=False, default_factory=dict)
    carried: Carried = field(repr=False, default_factory=lambda: Carried(np.zeros((0, 0), np.float32)))
    observed: dict[str, dict[str, float]] = field(repr=False, default_factory=dict)

    @property
    def up(self) -> Account:
        """Bytes by part of the update frames, all clients together."""
        return total(exchange.up for exchange in self.exchanges)

    @property
    def down(self) -> Account:
        """Bytes by part of the broadcast frames, all clients together."""
        return total(exchange.down for exchange in self.exchanges)


def secret_of(seed: int) -> bytes:
    """Return the server's secret in a simulation: 16 bytes made from the seed."""
    return b"".join(derive_key(seed, "secret", half).to_bytes(8, "little") for half in range(2))


def simulate(
    federation: Federation,
    model: nn.Module,
    state: NDArray[np.float32],
    *,
    first: int = 1,
    memory: Memory | None = None,
    carried: Carried | None = None,
    on_client: Callable[[int], None] = lambda _: None,
    workers: int = 1,
) -> Generator[RoundResult]:
    """Run rounds first..rounds, yielding each result.

    Args:
        federation: the setting.
        model: the architecture, on the device that trains and evaluates; its values are overwritten.
        state: of the server before round `first`; `Server.initial` gives the first.
        first: the first round to run.
        memory: what clients keep from rounds before `first`.
        carried: what the server kept beside the state before `first`; by default what a run starts with.
        on_client: called after each client of a round with its place in the round, from 1.
        workers: processes that train clients at the same time, each with the framework's present number of threads;
            1: this one. The results do not depend on it. Close the iterator to end them before it does. A script
            that asks for more than 1 runs under `if __name__ == "__main__":`, as each of them imports it.

    Raises:
        FrameError, UsageError, EncodeError: as the parts do.
        WorkerError: a worker process was lost.
    """
    view = ModelLayout.of(model)
    server = Server(view.layout, federation.scheme, state, secret_of(federation.seed), carried=carried)
    memory = dict(memory or {})
    federation = federation.tested_on(view.device)
    with clients(model, federation.training(), min(workers, federation.clients_per_round)) as train_all:
        for number in range(first, federation.rounds + 1):
            yield _round(federation, model, server, number, memory, train_all, on_client)


def _round(
    federation: Federation,
    model: nn.Module,
    server: Server,
    number: int,
    memory: Memory,
    train_all: Callable[[Iterable[Task]], Iterator[Answer]],
    on_client: Callable[[int], None],
) -> RoundResult:
    """Run one round; `memory` is brought up to date."""
    started = time.perf_counter()
    chosen = federation.sampled(number)
    round_ = server.begin(number, chosen)
    trained = Trained()

    def task(client: int) -> Task:
        return Task(client, round_.broadcast(client), *federation.samples(client), memory.get(client))

    for place, (client, answer) in enumerate(zip(chosen, train_all(map(task, chosen)), strict=True), 1):
        trained.add(client, Exchange.of(round_.add(client, answer.update), answer), answer)
        on_client(place)
    round_.finish()
    memory.update(trained.kept)
    return conclude(federation, model, server, number, trained, started)


@dataclass
class Trained:
    """What came of a round's clients, in the order of `Federation.sampled`.

    Attributes:
        exchanges: the bytes of each one's frames.
        losses: mean of each one's last local epoch.
        kept: what they keep.
        sample: the update frame of the last.
    """

    exchanges: list[Exchange] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    kept: Memory = field(default_factory=dict)
    sample: bytes = b""

    def add(self, client: int, exchange: Exchange, answer: Answer) -> None:
        """Note what came of the next client."""
        self.exchanges.append(exchange)
        self.losses.append(answer.loss)
        self.sample = answer.update
        if answer.memory is not None:
            self.kept[client] = answer.memory


def conclude(
    federation: Federation, model: nn.Module, server: Server, number: int, trained: Trained, started: float
) -> RoundResult:
    """Evaluate the models that the server's new state stands for, and return the round's result.

    `started` is when the round did, by `time.perf_counter`.
    """
    view, chosen = ModelLayout.of(model), federation.sampled(number)
    scores = []
    for values in server.models(number):
        view.write(values)
        test = partial(evaluate, layout=channels_last) if view.device.type == "cpu" else evaluate
        scores.append(test(model, federation.test_x, federation.test_y, objective=federation.objective))
    accuracy, loss = (fmean(column) for column in zip(*scores, strict=True))
    sent = sum(sum(exchange.up.values()) for exchange in trained.exchanges)
    return RoundResult(
        number,
        accuracy,
        loss,
        sum(trained.losses) / len(trained.losses),
        trained.exchanges,
        8 * sent / (len(chosen) * view.layout.trainable),
        chosen,
        time.perf_counter() - started,
        server.state,
        trained.sample,
        trained.kept,
        server.carried,
        server.observed,
    )
