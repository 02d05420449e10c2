"""A small network twice: as a user writes it, and written out in formulas with batch norm's statistics.

Conv, batch norm, ReLU, max pooling, conv, batch norm, ReLU, linear with a bias; images of 6x6 with two channels, three
classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MASKED = ("first.weight", "second.weight", "head.weight", "head.bias")
FLOATS = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")
STATISTICS = ("norm1.running_mean", "norm1.running_var", "norm2.running_mean", "norm2.running_var")
EPS, MOMENTUM = 1e-5, 0.1  # of batch norm, the framework's defaults


class SmallNet(nn.Module):
    """The network as a user writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 5, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(5)
        self.head = nn.Linear(45, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm1(self.first(x))), 2)
        return self.head(F.relu(self.norm2(self.second(x))).flatten(1))


class WrittenOut:
    """Its loss in training mode, in the precision of the weights; `statistics` follow the batches."""

    def __init__(self, statistics: dict[str, Tensor]) -> None:
        self.statistics = statistics

    def loss(self, w: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        """The mean cross-entropy of a batch."""
        x = F.conv2d(x.to(w["head.weight"].dtype), w["first.weight"], padding=1)
        x = F.max_pool2d(self._norm("norm1", w, x).clamp(min=0), 2)
        x = F.conv2d(x, w["second.weight"], padding=1)
        x = self._norm("norm2", w, x).clamp(min=0).flatten(1)
        out = x @ w["head.weight"].T + w["head.bias"]
        return -(out - out.logsumexp(1, keepdim=True))[torch.arange(len(y)), y].mean()

    def _norm(self, name: str, w: dict[str, Tensor], x: Tensor) -> Tensor:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        count = x.numel() // x.shape[1]
        for what, new in (("running_mean", mean), ("running_var", var * count / (count - 1))):
            old = self.statistics[f"{name}.{what}"]
            self.statistics[f"{name}.{what}"] = (1 - MOMENTUM) * old + MOMENTUM * new.detach()
        a, b = w[f"{name}.weight"], w[f"{name}.bias"]
        shape = (1, -1, 1, 1)
        return (x - mean.view(shape)) / (var.view(shape) + EPS).sqrt() * a.view(shape) + b.view(shape)
