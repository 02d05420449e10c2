"""What the clients train: a small network on handwritten digits, each client with a share of its own."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

Share = tuple[Tensor, Tensor]


def make_model() -> nn.Module:
    """Return the model; the same for everybody who builds it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def share(client: int, clients: int) -> tuple[Share, Share]:
    """Return a client's samples: those it trains on, and a fifth that it keeps for evaluation."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))[client::clients]
    inputs, labels = torch.tensor(x / 16, dtype=torch.float32)[order], torch.tensor(y)[order]
    held_out = len(order) // 5
    return (inputs[held_out:], labels[held_out:]), (inputs[:held_out], labels[:held_out])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: Share, epochs: int, batch_size: int) -> float:
    """Train as usual; return the mean loss of the last epoch."""
    x, y = data
    for _ in range(epochs):
        losses = []
        for batch in torch.randperm(len(x)).split(batch_size):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def accuracy(model: nn.Module, data: Share) -> float:
    """Return the share of right answers."""
    x, y = data
    return float((model(x).argmax(1) == y).float().mean())
