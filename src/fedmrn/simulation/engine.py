"""The in-process engine: every broadcast and every update goes through its bytes.

A round is a pure function of (seed, round, state): a run that was stopped goes on to the identical result.
In a simulation the clients' sampling keys come from the run's seed, so that it can be repeated; that is not private.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from types import MappingProxyType
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmrn.errors import ConfigError
from fedmrn.frame import Frame, Kind
from fedmrn.rng import Purpose, Stream, derive_key, domain
from fedmrn.scheme import Scheme
from fedmrn.server import Server
from fedmrn.text import nearest
from fedmrn.torch import LocalData, LocalRule, ModelLayout, evaluate, train_client
from fedmrn.torch.train import Augment, channels_last
from fedmrn.update import plain

OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = MappingProxyType(
    {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
)
Memory = dict[int, NDArray[np.float32]]
"""Client -> what it keeps from its last round."""


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


Account = dict[str, int]
"""Bytes by part, as `Frame.account` gives them."""


def total(accounts: Iterable[Account]) -> Account:
    """Return the sum of accounts, part by part."""
    found: Counter[str] = Counter()
    for account in accounts:
        found.update(account)
    return dict(found)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What went between the server and one client in a round.

    Attributes:
        up, down: of the two frames as they travelled.
        raw_up, raw_down: of the same frames without lossless coding, with side data and state as float32
            (`fedmrn.update.plain`).
    """

    up: Account
    down: Account
    raw_up: Account
    raw_down: Account

    @classmethod
    def of(cls, update: Frame, broadcast: Frame) -> "Exchange":
        """Count an update and the broadcast that it answers."""
        return cls(update.account(), broadcast.account(), plain(update).account(), plain(broadcast).account())


@dataclass(frozen=True)
class RoundResult:
    """What came of a round.

    Attributes:
        round: its number, from 1.
        accuracy, loss: of the new global model on the test samples.
        train_loss: mean over clients of their last local epoch.
        exchanges: the bytes of each client's frames, in the order of `clients`.
        bits_per_parameter: 8 * bytes of all update frames / (clients * trainable parameters).
        clients: who took part.
        seconds: wall time, evaluation included.
        state: the new global model, float32, shape (d,).
        sample: the update frame of the last client.
        memory: what the clients of this round keep, for methods whose clients do.
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
    on_client: Callable[[int], None] = lambda _: None,
) -> Iterator[RoundResult]:
    """Run rounds first..rounds, yielding each result.

    Args:
        federation: the setting.
        model: the architecture; its values are overwritten.
        state: of the server before round `first`; `Server.initial` gives the first.
        first: the first round to run.
        memory: what clients keep from rounds before `first`.
        on_client: called after each client of a round with its place in the round, from 1.

    Raises:
        FrameError, UsageError, EncodeError: as the parts do.
    """
    view = ModelLayout.of(model)
    # Counters are not sent: each client starts from those of the model as it was built.
    counters = [(buffer, buffer.clone()) for name, buffer in model.named_buffers() if name in view.counters]
    server = Server(view.layout, federation.scheme, state, secret_of(federation.seed))
    memory = dict(memory or {})
    for number in range(first, federation.rounds + 1):
        started = time.perf_counter()
        clients = federation.sampled(number)
        round_ = server.begin(number, clients)
        exchanges: list[Exchange] = []
        losses: list[float] = []
        update, kept = b"", Memory()
        for place, client in enumerate(clients, 1):
            broadcast = Frame.from_bytes(round_.broadcast(client), kind=Kind.BROADCAST)
            for buffer, initial in counters:
                buffer.copy_(initial)
            update, loss, keeps = _client(federation, model, broadcast, number, client, memory.get(client))
            if keeps is not None:
                kept[client] = keeps
            exchanges.append(Exchange.of(round_.add(client, update), broadcast))
            losses.append(loss)
            on_client(place)
        new = round_.finish()
        memory.update(kept)
        scores = []
        for values in server.models(number):
            view.write(values)
            scores.append(evaluate(model, federation.test_x, federation.test_y, layout=channels_last))
        accuracy, loss = (fmean(column) for column in zip(*scores, strict=True))
        sent = sum(sum(exchange.up.values()) for exchange in exchanges)
        bits = 8 * sent / (len(clients) * view.layout.trainable)
        yield RoundResult(
            number,
            accuracy,
            loss,
            sum(losses) / len(losses),
            exchanges,
            bits,
            clients,
            time.perf_counter() - started,
            new,
            update,
            kept,
        )


def _client(
    federation: Federation,
    model: nn.Module,
    broadcast: Frame,
    number: int,
    client: int,
    memory: NDArray[np.float32] | None,
) -> tuple[bytes, float, NDArray[np.float32] | None]:
    """One client's round: what it uploads, its loss, and what it keeps."""

    def key(label: str) -> int:
        return derive_key(federation.seed, label, number, client)

    mine = torch.from_numpy(federation.parts[client])
    data = LocalData(
        federation.train_x[mine],
        federation.train_y[mine],
        federation.local_epochs,
        federation.batch_size,
        key("order"),
        federation.augment,
        channels_last=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("framework") >> 1)  # dropout and the like
        optimizer = OPTIMIZERS[federation.optimizer](model.parameters(), lr=federation.lr)
        rule = federation.rule(
            model, optimizer, broadcast, steps=data.steps, sampling_key=key("sampling"), memory=memory
        )
        frame, loss = train_client(model, rule, data, weight=data.batches if federation.by_batches else None)
    return frame.to_bytes(), loss, rule.memory if rule.remembers else None
