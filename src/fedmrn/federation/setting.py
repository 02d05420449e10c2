"""The setting of a simulated federation: who holds which samples, how they train, and what is drawn from the seed."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmrn.errors import ConfigError
from fedmrn.federation.calibration import CALIBRATE
from fedmrn.federation.client import Client, RuleFactory, Samples, own_method
from fedmrn.federation.in_process import in_process
from fedmrn.federation.transport import Transport
from fedmrn.numerics.rng import Purpose, Stream, derive_key, domain
from fedmrn.server import Clipping
from fedmrn.server.scheme import Scheme
from fedmrn.text import nearest
from fedmrn.torch import Training, default_choice
from fedmrn.torch.model_layout import Choose
from fedmrn.torch.objectives import CLASSES, Objective

if TYPE_CHECKING:
    from fedmrn.secure import SecureSum

Memory = dict[int, NDArray[np.float32]]
"""Client -> what it keeps from its last round."""


@dataclass(frozen=True, kw_only=True)
class Federation:
    """Everything that a simulated federation consists of.

    Attributes:
        scheme: what server and clients agree on.
        training: how clients train.
        train_x, train_y: all training samples.
        parts: for each client, the indices of its samples (int64).
        test_x, test_y: what the global model is evaluated on.
        rounds: how many.
        clients_per_round: sampled without replacement.
        seed: of everything random.
        rule: makes a client's local rule.
        choose: what of the model is compressed, sent as floats, averaged or left, as for `ModelLayout.of`.
        objective: the loss and the score of evaluation; `training.loss` is what clients minimise.
        calibrate: after which rounds the clients find the statistics of the new model, with which it is evaluated:
            "never", "last" or "every".
        test_every: the model is evaluated after rounds that are multiples of this, and after the last.
        protect: sums updates so that none is seen (`fedmrn.secure.SecureSum`); None: each is folded by itself.

    Raises:
        ConfigError: clients_per_round is below 1 or above the number of clients, `test_every` is below 1, or
            `calibrate` is none of these.
    """

    scheme: Scheme
    training: Training
    train_x: Tensor
    train_y: Tensor
    parts: Sequence[NDArray[np.int64]]
    test_x: Tensor
    test_y: Tensor
    rounds: int
    clients_per_round: int
    seed: int
    rule: RuleFactory = own_method
    choose: Choose = default_choice
    objective: Objective = CLASSES
    calibrate: str = CALIBRATE[0]
    test_every: int = 1
    protect: "SecureSum | None" = None

    def __post_init__(self) -> None:
        if self.calibrate not in CALIBRATE:
            raise ConfigError(f"calibrate {self.calibrate!r} does not exist{nearest(self.calibrate, CALIBRATE)}")
        if self.test_every < 1:
            raise ConfigError(f"test_every is a number of rounds, at least 1; got {self.test_every}")
        if not 1 <= self.clients_per_round <= len(self.parts):
            raise ConfigError(
                f"clients_per_round is {self.clients_per_round}, but there are {len(self.parts)} clients: "
                f"choose 1 to {len(self.parts)}"
            )

    @property
    def clipping(self) -> Clipping:
        """How one client's influence is bounded; in a simulation what clients have is known before the first round."""
        weights = sorted(self.training.weight(len(part)) for part in self.parts)
        times = Clipping().weights
        return Clipping(first_weight=times * max(1, weights[(len(weights) - 1) // 2]))

    def sampled(self, round: int) -> list[int]:
        """Return the clients of a round, in increasing order."""
        stream = Stream(derive_key(self.seed, "clients"), domain(Purpose.CLIENTS, round))
        return sorted(stream.permutation(len(self.parts))[: self.clients_per_round].tolist())

    def calibrates(self, round: int) -> bool:
        """Return whether the model after this round is calibrated."""
        return self.calibrate == "every" or (self.calibrate == "last" and round == self.rounds)

    def tests(self, round: int) -> bool:
        """Return whether the model after this round is evaluated."""
        return round % self.test_every == 0 or round == self.rounds

    def samples(self, client: int) -> Samples:
        """Return a client's inputs and targets."""
        part = torch.from_numpy(self.parts[client])
        return self.train_x[part].numpy(), self.train_y[part].numpy()

    def client(self, model: nn.Module) -> Callable[[], Client]:
        """Return what makes the trainer of this federation's clients on a model, here or in another process."""
        return partial(Client, model, self.training, seed=self.seed, rule=self.rule, choose=self.choose)

    def in_process(self, model: nn.Module, workers: int = 1) -> AbstractContextManager[Transport]:
        """Return the transport to clients on this machine, as a context; see `fedmrn.federation.in_process`."""
        return in_process(self.client(model), self.samples, min(workers, self.clients_per_round))

    def tested_on(self, device: torch.device) -> "Federation":
        """Return the same with the test samples on a device."""
        return replace(self, test_x=self.test_x.to(device), test_y=self.test_y.to(device))
