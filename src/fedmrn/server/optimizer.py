"""Server optimizers: how far the model moves along what a round asks for (FedOpt; Reddi et al., ICLR 2021).

A rule says where a round would take the state; the difference is a pseudo-gradient, and an optimizer steps along it.
It works for every method, and takes nothing on the wire.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import ConfigError
from fedmrn.whole import shown

F32 = NDArray[np.float32]


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ConfigError(f"server_{name} is a positive number, got {shown(value)}")


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ConfigError(f"server_{name} is at least 0 and below 1, got {shown(value)}")


@dataclass(frozen=True)
class ServerOptimizer(ABC):
    """A server optimizer: turns a round's mean update (the pseudo-gradient) into the step that the model takes.

    Attributes:
        lr: the server's learning rate.

    Raises:
        ConfigError: a value is out of its range.
    """

    slots: ClassVar[int]
    """Moments that it keeps, each a vector of the trained parameters."""
    lr: float

    def __post_init__(self) -> None:
        _check_positive("lr", self.lr)

    def start(self, size: int) -> F32:
        """Return the moments before round 1, float32, shape (slots, size)."""
        return np.zeros((self.slots, size), np.float32)

    @abstractmethod
    def step(self, delta: F32, moments: F32) -> tuple[F32, F32]:
        """Return how the model moves, float32, shape (d,), and the new moments, shape (slots, d).

        Args:
            delta: where the round would take the model, minus the model; shape (d,).
            moments: after the round before.
        """


@dataclass(frozen=True)
class Scaled(ServerOptimizer):
    """lr times the difference: with lr = 1, what FedAvg does (McMahan et al. 2017)."""

    slots: ClassVar[int] = 0

    def step(self, delta: F32, moments: F32) -> tuple[F32, F32]:
        """Return lr * delta, and no moments."""
        return delta * np.float32(self.lr), moments


@dataclass(frozen=True)
class Momentum(ServerOptimizer):
    """FedAvgM (Hsu, Qi and Brown 2019): m = beta * m + delta; the model moves by lr * m."""

    slots: ClassVar[int] = 1
    beta: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_share("beta", self.beta)

    def step(self, delta: F32, moments: F32) -> tuple[F32, F32]:
        """Return lr * m, and m."""
        m = np.float32(self.beta) * moments[0] + delta
        return m * np.float32(self.lr), m[None]


@dataclass(frozen=True)
class Adam(ServerOptimizer):
    """FedAdam (Reddi et al., Algorithm 2): the model moves by lr * m / (sqrt(v) + tau).

    m = beta * m + (1 - beta) * delta and v = beta2 * v + (1 - beta2) * delta^2, without bias correction, and with
    v = tau^2 at the start, as in the paper.
    """

    slots: ClassVar[int] = 2
    beta: float
    beta2: float
    tau: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive("tau", self.tau)
        _check_share("beta", self.beta)
        _check_share("beta2", self.beta2)

    def start(self, size: int) -> F32:
        """Return the moments before round 1: m = 0, v = tau^2."""
        moments = super().start(size)
        moments[1] = self.tau**2
        return moments

    def step(self, delta: F32, moments: F32) -> tuple[F32, F32]:
        """Return lr * m / (sqrt(v) + tau), and (m, v)."""
        old, beta, beta2 = moments, np.float32(self.beta), np.float32(self.beta2)
        m = beta * old[0] + (1 - beta) * delta
        v = beta2 * old[1] + (1 - beta2) * np.square(delta)
        return np.float32(self.lr) * m / (np.sqrt(v) + np.float32(self.tau)), np.stack([m, v])


SERVER: Mapping[str, type[ServerOptimizer]] = MappingProxyType({"mean": Scaled, "momentum": Momentum, "adam": Adam})
"""What a person types -> what it is."""
SERVER_LR: Mapping[str, float] = MappingProxyType({"mean": 1.0, "momentum": 1.0, "adam": 0.01})
"""The server's rate where none is said: of FedAdam, one of the grid of Reddi et al."""


def server_options(name: str) -> tuple[str, ...]:
    """Return what a configuration calls the options of a server optimizer, in the order in which it takes them."""
    return tuple(f"server_{field.name}" for field in fields(SERVER[name]))
