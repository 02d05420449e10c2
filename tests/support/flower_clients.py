"""Clients of a small model on a fake grid, in the way a user's app would write them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from fake_grid import FakeGrid, Node, reply_from
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor, nn
from torch.nn import functional as F

from fedmrn.flower import FedMRN
from fedmrn.flower.client import attach, load, reply
from fedmrn.torch import ModelLayout

NODES = {11: 5, 12: 9, 13: 12}
"""Node id -> samples."""
SECRET = bytes(range(16))


def small_model(seed: int = 1) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 3))


def samples(node: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(node)
    y = torch.randint(0, 3, (NODES.get(node, 4),), generator=generator)
    return torch.randn(len(y), 6, generator=generator) + 2 * F.one_hot(y, 6), y


def context(node: int) -> Context:
    return Context(1, node, {}, RecordDict(), {})


def honest(node: int, kept: Context | None = None, lr: float = 0.1) -> Callable[[Message], Message]:
    """Three steps of training, or the accuracy of the global model."""
    mine = context(node) if kept is None else kept

    def answer(message: Message) -> Message:
        model, (x, y) = small_model(node), samples(node)
        if message.metadata.message_type == "evaluate":
            load(model, message)
            model.eval()
            accuracy = float((model(x).argmax(1) == y).float().mean())
            metrics = MetricRecord({"num-examples": len(y), "accuracy": accuracy})
            return reply_from(message, RecordDict({"metrics": metrics}), node)
        optimizer = attach(model, torch.optim.SGD(model.parameters(), lr=lr), message, mine, steps=3, accept="any")
        loss = torch.zeros(())
        for _ in range(3):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        back = reply(optimizer, message, mine, weight=len(y), metrics={"train_loss": loss.item()})
        return reply_from(message, back.content, node)

    return answer


def grid(**others: Node) -> FakeGrid:
    """Three honest nodes; others take the place of some: node13=..."""
    nodes: dict[int, Node] = {node: honest(node) for node in NODES}
    return FakeGrid(nodes | {int(name.removeprefix("node")): node for name, node in others.items()})


def strategy(method: str = "fedmrn", options: Mapping[str, Any] | None = None, **more: Any) -> FedMRN:
    return FedMRN(ModelLayout.of(small_model()), method, options, secret=SECRET, **more)


def initial() -> ArrayRecord:
    return ArrayRecord(small_model().state_dict())


def one_round(plan: FedMRN, nodes: FakeGrid, number: int = 1) -> tuple[ArrayRecord | None, MetricRecord | None]:
    if number == 1:
        plan.begin(initial())
    messages = plan.configure_train(number, initial(), ConfigRecord(), nodes)
    return plan.aggregate_train(number, nodes.send_and_receive(messages))
