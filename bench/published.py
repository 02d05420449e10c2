"""The baseline: FedMRN as its published layers and trainer do it, written from the formulas (docs/methods.md, "FedMRN";
Li et al. 2024, sections 3 and 4), not from anybody's code.

Faithful in what costs time:

- a layer in place of each convolution and each linear layer, with the frozen weight w, its own noise n and its own u;
- in each forward, each layer draws the stochastic mask from one vector of uniform numbers and the progressive mask
  from a second one (torch's default generator), builds w + u-hat in a handful of element-wise operations, and calls
  F.conv2d or F.linear; an autograd function of its own lets the gradient straight through;
- torch's SGD moves u and the parameters of batch norm;
- torch's default memory layout (NCHW);
- images one by one from a Dataset of bytes, through a DataLoader with a transform for each image (to a float tensor in
  [0, 1], then normalised). This leaves out PIL, which such transforms go through, and so favours the baseline.
- clients and server pass float32 arrays in memory; nothing is packed into bytes.

No straw man either: formulas are not repeated where a value is at hand, gradients are set to None, and the second draw
is left out at q = 1, as the formula allows.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


class _Masked(torch.autograd.Function):
    """u-hat of one layer: PSM forward, straight through backward."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, n: Tensor, q: float, signed: bool) -> Tensor:
        ratio = u / n
        if signed:
            mask = torch.clamp(torch.floor((ratio + 1) / 2 + torch.rand_like(u)), 0, 1) * 2 - 1
            low = -1.0
        else:
            mask = torch.clamp(torch.floor(ratio + torch.rand_like(u)), 0, 1)
            low = 0.0
        masked = n * mask
        if q >= 1:
            return masked
        chosen = torch.bernoulli(torch.full_like(u, q))
        return chosen * masked + (1 - chosen) * (torch.clamp(ratio, low, 1.0) * n)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient, None, None, None


def masked(u: Tensor, n: Tensor, q: float, signed: bool) -> Tensor:
    """Return u-hat: masked where a coin of chance q says so, elsewhere u clipped to what a mask can say; float32."""
    found: Tensor = _Masked.apply(u, n, q, signed)  # type: ignore[no-untyped-call]
    return found


class Masked(nn.Module):
    """A convolution or a linear layer without bias whose weight is w + u-hat.

    Args:
        layer: what it takes the place of; its weight becomes w.
        scale: half-width of the uniform noise.
        signed: masks {-1, 1} in place of {0, 1}.
    """

    w: Tensor
    n: Tensor

    def __init__(self, layer: nn.Conv2d | nn.Linear, scale: float, signed: bool) -> None:
        super().__init__()
        self.register_buffer("w", layer.weight.detach().clone())
        noise = torch.empty_like(layer.weight).uniform_(-scale, scale)
        self.register_buffer("n", torch.where(noise.abs() < 1e-8, torch.full_like(noise, 1e-8), noise))
        self.u = nn.Parameter(torch.zeros_like(layer.weight))
        self.signed, self.q = signed, 1.0
        self.padding = layer.padding if isinstance(layer, nn.Conv2d) else None

    def forward(self, x: Tensor) -> Tensor:
        """Draw masks, and apply the layer with them."""
        weight = self.w + masked(self.u, self.n, self.q, self.signed)
        return F.linear(x, weight) if self.padding is None else F.conv2d(x, weight, padding=self.padding)

    @torch.no_grad()
    def final(self) -> Tensor:
        """Return w + n * m with a fresh sample of the mask, as it is handed over."""
        return self.w + masked(self.u, self.n, 1.0, self.signed)


def replaced(model: nn.Module, scale: float, signed: bool) -> nn.Module:
    """Put masked layers in place of a model's convolutions and linear layers, at any depth; return the model."""
    for name, child in model.named_children():
        if isinstance(child, nn.Conv2d | nn.Linear):
            setattr(model, name, Masked(child, scale, signed))
        else:
            replaced(child, scale, signed)
    return model


def progress(model: nn.Module, q: float) -> None:
    """Tell all masked layers the share of elements that are masked in this step."""
    for module in model.modules():
        if isinstance(module, Masked):
            module.q = q


class Images(Dataset[tuple[Tensor, int]]):
    """Images of bytes and labels, one at a time, each transformed when it is asked for."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Callable[[np.ndarray], Tensor]) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.images[i]), int(self.labels[i])


def transform(mean: float, std: float) -> Callable[[np.ndarray], Tensor]:
    """Return the transform of an image of bytes, (h, w): to (1, h, w) floats in [0, 1], then normalised."""

    def call(image: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(image).unsqueeze(0).to(torch.float32).div(255)
        return tensor.sub_(mean).div_(std)

    return call


def train(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], epochs: int, steps: int, lr: float) -> float:
    """Train one client; return the mean loss of its last epoch."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    step, losses = 0, list[float]()
    for _ in range(epochs):
        losses = []
        for x, y in loader:
            step += 1
            progress(model, step / steps)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return float(np.mean(losses))


class Round:
    """A round of clients, one after another, and the mean of what they hand over.

    Args:
        build: makes the model as it was initialised.
        clients: the data of each.
        epochs, batch_size, lr: of local training.
        scale: of the noise; None trains plain layers (FedAvg), with the same trainer.
        signed: the mask.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        clients: list[Images],
        *,
        epochs: int,
        batch_size: int,
        lr: float,
        scale: float | None,
        signed: bool = False,
    ) -> None:
        self.build, self.epochs, self.batch_size, self.lr, self.scale = build, epochs, batch_size, lr, scale
        self.clients, self.signed = clients, signed
        self.state = {k: v.detach().numpy().copy() for k, v in build().state_dict().items()}

    def __call__(self) -> float:
        """Run one round; return the mean loss of the clients."""
        results, weights, losses = [], [], []
        for images in self.clients:
            model = self.build()
            model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in self.state.items()})
            if self.scale is not None:
                model = replaced(model, self.scale, self.signed)
            loader = DataLoader(images, batch_size=self.batch_size, shuffle=True)
            losses.append(train(model, loader, self.epochs, self.epochs * len(loader), self.lr))
            results.append(_handed_over(model))
            weights.append(len(loader))
        for name in self.state:
            mean = sum(w * r[name] for w, r in zip(weights, results, strict=True)) / sum(weights)
            self.state[name] = np.asarray(mean, self.state[name].dtype)
        return float(np.mean(losses))


def _handed_over(model: nn.Module) -> dict[str, np.ndarray]:
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, Masked):
            found[f"{name}.weight"] = module.final().numpy()
    plain = {k: v.detach().numpy() for k, v in model.state_dict().items()}
    return {**{k: v for k, v in plain.items() if k.rpartition(".")[2] not in ("w", "n", "u")}, **found}
