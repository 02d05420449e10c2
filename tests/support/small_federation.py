"""A federation that runs in a fraction of a second: eight clients, blobs of three classes as 4x4 images."""

from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmrn.federation.setting import Federation, Memory
from fedmrn.federation.simulation import RoundResult, simulate
from fedmrn.federation.transport import Transport
from fedmrn.methods import METHODS as ALL
from fedmrn.methods import method
from fedmrn.server import Carried, Server
from fedmrn.torch import LocalRule, ModelLayout, Training, attach
from fedmrn.wire.frame import Frame

CLIENTS = 8
SIZES = (5, 9, 12, 7, 16, 3, 10, 8)
METHODS = ("fedavg", "fedmrn", "fedmrn-s")
ROUNDS = 3
OPTIONS = {"scale": 0.02, "rounds": ROUNDS}
"""What is set of a method's options, where it has them: more noise, and a schedule as long as the run."""


def blobs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy images around a pattern a class."""
    patterns = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=generator)
    return patterns[y] + torch.randn(n, 2, 4, 4, generator=generator), y


def rule(model: nn.Module, optimizer: torch.optim.Optimizer, broadcast: Frame, **options: Any) -> LocalRule:
    return attach(model, optimizer, broadcast, accept="any", **options)


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
    """The federation of a method; changes are of its own fields, or of its training's."""
    x, y = blobs(sum(SIZES), 1)
    ends = np.cumsum(SIZES)
    setting = Federation(
        scheme=method(name).scheme({k: v for k, v in OPTIONS.items() if k in ALL[name].options}),
        rule=rule,
        train_x=x,
        train_y=y,
        parts=[np.arange(end - size, end) for end, size in zip(ends, SIZES, strict=True)],
        test_x=(test := blobs(60, 2))[0],
        test_y=test[1],
        rounds=ROUNDS,
        clients_per_round=4,
        seed=1,
        training=Training(local_epochs=2, batch_size=4, lr=0.05, optimizer=method(name).optimizer, channels_last=True),
    )
    names = {field.name for field in fields(Training)}
    own = {name: value for name, value in changes.items() if name not in names}
    training = replace(setting.training, **{name: value for name, value in changes.items() if name in names})
    return replace(setting, training=training, **own)


def run(
    setting: Federation,
    state: NDArray[np.float32] | None = None,
    *,
    first: int = 1,
    memory: Memory | None = None,
    carried: Carried | None = None,
    transport: Transport | None = None,
) -> list[RoundResult]:
    """The rounds from `first` on; by default from the state that the scheme makes of the small model."""
    model = small_model()
    view = ModelLayout.of(model)
    if state is None:
        state = Server.initial(view.layout, setting.scheme, view.read())
    return list(simulate(setting, model, state, first=first, memory=memory, carried=carried, transport=transport))


def remembered(results: list[RoundResult]) -> Memory:
    """What all clients keep after these rounds."""
    return {client: kept for result in results for client, kept in result.memory.items()}


def record(result: RoundResult) -> dict[str, object]:
    """All that a round leaves behind, but for the clock."""
    memory = {client: kept.tobytes() for client, kept in result.memory.items()}
    vectors = {
        "state": result.state.tobytes(),
        "shown": result.shown.tobytes(),
        "carried": result.carried.moments.tobytes(),
    }
    return asdict(replace(result, seconds=0.0)) | vectors | {"memory": memory}


def records(results: list[RoundResult]) -> list[dict[str, object]]:
    return [record(r) for r in results]
