"""Models as people write them, each with data and a loss. None of them knows of federated learning."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn


class Recurrent(nn.Module):
    """Embedding, a two-layer LSTM, and a linear layer on the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 5)
        self.lstm = nn.LSTM(5, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(tokens))[0][:, -1])


class Gated(nn.Module):
    """A bidirectional GRU on vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True, bidirectional=True)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0].mean(1))


class Attention(nn.Module):
    """Self-attention over five vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Transformer(nn.Module):
    """Embedding, positions as a bare parameter, and one encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 8)
        self.positions = nn.Parameter(torch.randn(5, 8) / 3)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(tokens) + self.positions).mean(1))


class Tied(nn.Module):
    """The output layer's weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 6)
        self.middle = nn.Linear(6, 6)
        self.output = nn.Linear(6, 8, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(torch.tanh(self.middle(self.embedding(tokens).mean(1))))


class Shared(nn.Module):
    """One layer used twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 6)
        self.again = self.enter
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.again(torch.relu(self.enter(x)))))


class Residual(nn.Module):
    """A block with a shortcut, as in residual networks."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Sequential(nn.Conv2d(out, out, 3, padding=1), nn.GroupNorm(2, out)),
        )
        self.shortcut = nn.Conv2d(inside, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class Nested(nn.Module):
    """Blocks in lists, dictionaries and parameter lists."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Residual(2, 4), nn.Sequential(Residual(4, 4))])
        self.heads = nn.ModuleDict({"main": nn.Linear(4, 3), "norm": nn.LayerNorm(4)})
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(1))])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        x = self.heads["norm"](x.mean((2, 3)))
        return self.heads["main"](x) * self.scales[0] + self.scales[1]


class PartlyFrozen(nn.Module):
    """A frozen first layer, and a layer that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(6, 20).requires_grad_(False)
        self.head = nn.Linear(20, 3)
        self.unused = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.frozen(x)))


@dataclass(frozen=True)
class Specimen:
    """A model's maker, its inputs and targets, its tensors in each group, and a rate that suits it."""

    make: Callable[[], nn.Module]
    x: Callable[[int], Tensor]
    y: Callable[[Tensor], Tensor]
    coded: int
    dense: int = 0
    stats: int = 0
    variances: int = 0
    lr: float = 1.0

    def data(self, n: int = 24) -> tuple[Tensor, Tensor]:
        x = self.x(n)
        return x, self.y(x)


def _vectors(*shape: int) -> Callable[[int], Tensor]:
    return lambda n: torch.randn(n, *shape)


def _tokens(n: int) -> Tensor:
    return torch.randint(0, 8, (n, 5))


def _by_mean(x: Tensor) -> Tensor:
    mean = x.reshape(len(x), -1).mean(1)
    return (mean > -0.1).long() + (mean > 0.1).long()


def _by_last(tokens: Tensor) -> Tensor:
    return tokens[:, -1] % 3


def _by_first(tokens: Tensor) -> Tensor:
    return tokens[:, 0]


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def _norms() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.Flatten(),
        nn.LayerNorm(64),
        nn.Linear(64, 3),
    )


def _weight_norm() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))


ZOO: Mapping[str, Specimen] = MappingProxyType(
    {
        "mlp": Specimen(_mlp, _vectors(6), _by_mean, 4),
        "lstm": Specimen(Recurrent, _tokens, _by_last, 1 + 8 + 2, lr=5.0),
        "gru": Specimen(Gated, _vectors(5, 4), _by_mean, 8 + 2),
        "attention": Specimen(Attention, _vectors(5, 4), _by_mean, 4 + 2),
        "transformer": Specimen(Transformer, _tokens, _by_last, 2 + 4 + 4 + 2, dense=4),
        "tied": Specimen(Tied, _tokens, _by_first, 1 + 2),
        "shared": Specimen(Shared, _vectors(6), _by_mean, 4),
        "norms": Specimen(_norms, _vectors(2, 4, 4), _by_mean, 6, dense=6, stats=1, variances=1),
        "nested": Specimen(Nested, _vectors(2, 4, 4), _by_mean, 2 * 5 + 2 + 2, dense=2 * 4 + 2, stats=2, variances=2),
        "frozen": Specimen(PartlyFrozen, _vectors(6), _by_mean, 4),
        "weight norm": Specimen(_weight_norm, _vectors(6), _by_mean, 5),
    }
)
