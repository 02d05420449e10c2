"""Model, data, training and testing: nothing in this module knows of Flower or of fedmrn's frames."""

from collections.abc import Sized
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fedmrn.data import PartitionSpec, find_source, load, partition
from fedmrn.models.catalogue import build_model

Config = dict[str, Any]
"""The app's configuration: `context.run_config`."""
Batches = DataLoader[tuple[Tensor, ...]]
"""Batches of images and labels."""


def load_model(config: Config) -> nn.Module:
    """Return the model with its first weights; the same seed gives the same ones."""
    source = find_source(config["dataset"])
    channels, size, _ = source.shape
    if config["model"] != "mlp":
        return build_model(config["model"], shape=source.shape, classes=source.classes, seed=config["seed"])
    torch.manual_seed(config["seed"])
    hidden = config["hidden"]
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * size * size, hidden), nn.ReLU(), nn.Linear(hidden, source.classes)
    )


def load_data(config: Config, node: int, nodes: int) -> tuple[Batches, Batches]:
    """Return this node's part of the training images and of the test images."""
    data = load(config["dataset"], Path(config["data-dir"]))
    spec = PartitionSpec(config["partition"])
    own, tested = (partition(y.numpy(), spec, nodes, config["seed"])[node] for y in (data.train_y, data.test_y))
    train = TensorDataset(data.normalised_train()[own], data.train_y[own])
    test = TensorDataset(data.normalised_test()[tested], data.test_y[tested])
    return DataLoader(train, config["batch-size"], shuffle=True), DataLoader(test, 1000)


def load_test_data(config: Config) -> Batches:
    """Return all test images, for the server."""
    data = load(config["dataset"], Path(config["data-dir"]))
    return DataLoader(TensorDataset(data.normalised_test(), data.test_y), 1000)


def train(model: nn.Module, loader: Batches, optimizer: torch.optim.Optimizer, epochs: int) -> float:
    """Train, and return the mean loss of the last epoch."""
    model.train()
    total = 0.0
    for _ in range(epochs):
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y)
    return total / samples(loader)


@torch.no_grad()
def test(model: nn.Module, loader: Batches) -> tuple[float, float]:
    """Return the mean loss and the accuracy in [0, 1]."""
    model.eval()
    loss, right = 0.0, 0
    for x, y in loader:
        out = model(x)
        loss += F.cross_entropy(out, y, reduction="sum").item()
        right += int((out.argmax(1) == y).sum())
    return loss / samples(loader), right / samples(loader)


def samples(loader: Batches) -> int:
    """Return how many images a loader goes through."""
    return len(cast(Sized, loader.dataset))
