"""A GAN: two optimisers over one model, one frame."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from recipes import federate, loader_of, run_block


def gan() -> nn.ModuleDict:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.ModuleDict(
            {
                "generator": nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)),
                "discriminator": nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1)),
            }
        )


def points(k: int) -> TensorDataset:
    """Normal points around (2, -1)."""
    return TensorDataset(
        torch.tensor([2.0, -1.0]) + 0.5 * torch.randn(256, 2, generator=torch.Generator().manual_seed(k))
    )


def distance(model: nn.Module) -> float:
    """How far the mean of what is generated is from (2, -1)."""
    with torch.no_grad():
        made = model["generator"](torch.randn(2000, 4, generator=torch.Generator().manual_seed(9)))  # type: ignore[index]
    return float((made.mean(0) - torch.tensor([2.0, -1.0])).norm())


def test_it_runs_two_rounds_and_learns() -> None:
    def client(model: nn.Module, broadcast: bytes, k: int) -> bytes:
        data = points(10 + k)
        space = run_block(
            "A GAN",
            {
                "generator": model["generator"],  # type: ignore[index]
                "discriminator": model["discriminator"],  # type: ignore[index]
                "broadcast": broadcast,
                "data": data,
                "loader": loader_of(data, size=32),
                "epochs": 8,
            },
        )
        frame: bytes = space["frame"].to_bytes()
        return frame

    scores, _ = federate(gan, client, distance)
    assert scores[2] < 0.5 * scores[0]
