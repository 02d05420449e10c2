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
"""Batches of token ids and labels."""

_DATA = "banking77"
_TESTED_AT_ONCE = 64


def load_model(config: Config) -> nn.Module:
    """Return the pretrained model with a fresh classifier; the same seed gives the same one.

    With LoRA the encoder is frozen: its parameters do not require gradients, and so never travel.
    """
    source = find_source(_DATA)
    name = "minilm-lora" if config["lora"] else "minilm"
    return build_model(name, shape=source.shape, classes=source.classes, seed=config["seed"], task=source.task)


def make_optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """Return AdamW with decoupled weight decay over what is trained."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=config["learning-rate"], weight_decay=config["weight-decay"])


def load_data(config: Config, node: int, nodes: int) -> tuple[Batches, Batches]:
    """Return this node's part of the training texts and of the test texts."""
    data = load(_DATA, Path(config["data-dir"]))
    spec = PartitionSpec("dirichlet", config["alpha"])
    own = partition(data.train_y.numpy(), spec, nodes, config["seed"])[node]
    train = TensorDataset(data.train_x[own], data.train_y[own])
    test = TensorDataset(data.test_x[node::nodes], data.test_y[node::nodes])
    return DataLoader(train, config["batch-size"], shuffle=True), DataLoader(test, _TESTED_AT_ONCE)


def load_test_data(config: Config) -> Batches:
    """Return all test texts, for the server."""
    data = load(_DATA, Path(config["data-dir"]))
    return DataLoader(TensorDataset(data.test_x, data.test_y), _TESTED_AT_ONCE)


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
    """Return how many texts a loader goes through."""
    return len(cast(Sized, loader.dataset))
