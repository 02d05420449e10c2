"""A federation that runs in a fraction of a second: eight clients, blobs of three classes as 4x4 images."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmrn.frame import Frame
from fedmrn.scheme import NoiseOptions, method
from fedmrn.simulation.engine import Federation, RoundResult, simulate
from fedmrn.torch import LocalRule, ModelLayout, attach

CLIENTS = 8
SIZES = (5, 9, 12, 7, 16, 3, 10, 8)
METHODS = ("fedavg", "fedmrn", "fedmrn-s")


def blobs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy images around a pattern a class."""
    patterns = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=generator)
    return patterns[y] + torch.randn(n, 2, 4, 4, generator=generator), y


def rule(model: nn.Module, optimizer: torch.optim.Optimizer, broadcast: Frame, steps: int, key: int) -> LocalRule:
    return attach(model, optimizer, broadcast, steps=steps, sampling_key=key)


def small_model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 3),
        )


def federation(name: str = "fedmrn", **changes: Any) -> Federation:
    x, y = blobs(sum(SIZES), 1)
    ends = np.cumsum(SIZES)
    setting = Federation(
        scheme=method(name).scheme(NoiseOptions(scale=0.02)),
        rule=rule,
        train_x=x,
        train_y=y,
        parts=[np.arange(end - size, end) for end, size in zip(ends, SIZES, strict=True)],
        test_x=(test := blobs(60, 2))[0],
        test_y=test[1],
        rounds=3,
        clients_per_round=4,
        local_epochs=2,
        batch_size=4,
        lr=0.05,
        seed=1,
    )
    return replace(setting, **changes)


def run(setting: Federation, state: NDArray[np.float32] | None = None, *, first: int = 1) -> list[RoundResult]:
    model = small_model()
    return list(simulate(setting, model, ModelLayout.of(model).read() if state is None else state, first=first))
