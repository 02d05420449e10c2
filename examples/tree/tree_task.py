"""What the clients train: a small network on handwritten digits, each client with a share of its own."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


def make_model() -> nn.Module:
    """Return the model; the same for everybody who builds it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.ReLU(), nn.Linear(128, 10))


def share(client: int, clients: int) -> tuple[Tensor, Tensor]:
    """Return a client's samples and their labels."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))[client::clients]
    return torch.tensor(x / 16, dtype=torch.float32)[order], torch.tensor(y)[order]
