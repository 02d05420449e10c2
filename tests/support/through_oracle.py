"""FedPM and FedBAT as their formulas say it: dense, tensor by tensor, slow, optimisers written out.

FedPM (Isik et al., ICLR 2023, Algorithm 1), for a tensor with frozen weights w0 and probabilities theta:

    s = log(theta / (1 - theta))                      scores, at the start
    m = [r < sigmoid(s)],  the forward pass uses w0 m
    dL/ds = dL/dw * w0 * sigmoid(s) (1 - sigmoid(s))  straight through the draw

and in the published code (BerivanIsik/sparse-random-networks), whose draw has a backward pass of its own:

    dL/dtheta = theta * dL/dm,  so that dL/ds has one more factor of sigmoid(s)

FedBAT (Li et al., ICML 2024), for a tensor with weights w and update u, after the first phi S steps (before, plain);
what moves are the weights w + u, as in plain training, so that they are what is rounded:

    a = clip(a0 exp(rho t), 5e-4, 5e-2),  a0 = mean |u| when the plain steps end,  t = 0 at first
    the forward pass uses w + a where r < clip((u / a + 1) / 2, 0, 1), else w - a
    dL/du = dL/dw where |u| <= a, else 0
    dL/da = sum of dL/dw times:  +1 where u > a,  -1 where u < -a,  sign - u / a between
    t <- t - lr dL/da rho a        where a is not at a limit

An oracle does not draw: it is told the library's decision for every element, and checks it against r and its own
probability. Where they differ, r must be as near to the threshold as rounding allows.

The network: linear, layer norm, tanh, linear; all linear tensors are coded.
"""

from math import e, exp, log, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmrn.numerics.rng import Purpose, Stream, domain

CODED = ("0.weight", "0.bias", "3.weight", "3.bias")
DENSE = ("1.weight", "1.bias")
LIMITS = (5e-4, 5e-2)
EPS = 1e-5  # of layer norm, the framework's default


def small_net() -> nn.Sequential:
    """The network as a user writes it."""
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 3))


class Mover:
    """SGD with momentum, or Adam, by hand."""

    def __init__(self, lr: float, momentum: float = 0.0, adam: bool = False) -> None:
        self.lr, self.momentum, self.adam = lr, momentum, adam
        self.first: dict[str, Tensor] = {}
        self.second: dict[str, Tensor] = {}
        self.time: dict[str, int] = {}

    def move(self, name: str, value: Tensor, gradient: Tensor) -> Tensor:
        """Return the value after one step."""
        m = self.first.get(name, torch.zeros_like(value))
        if not self.adam:
            self.first[name] = self.momentum * m + gradient
            return value - self.lr * self.first[name]
        v = self.second.get(name, torch.zeros_like(value))
        t = self.time[name] = self.time.get(name, 0) + 1
        m = self.first[name] = 0.9 * m + 0.1 * gradient
        v = self.second[name] = 0.999 * v + 0.001 * gradient**2
        return value - self.lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)


class Network:
    """What both methods share: values by name, places in the flat vector, gradients at given weights."""

    def __init__(self, state: dict[str, NDArray[np.float32]], key: int, mover: Mover, dtype: torch.dtype) -> None:
        self.base = {k: torch.tensor(v, dtype=dtype) for k, v in state.items()}
        self.key, self.mover, self.dtype = key, mover, dtype
        self.places: dict[str, tuple[int, int]] = {}
        at = 0
        for name in CODED:
            self.places[name] = (at, at + self.base[name].numel())
            at += self.base[name].numel()

    def uniforms(self, name: str, purpose: Purpose, index: int = 0) -> Tensor:
        """The client's draws for a tensor: 24 bits each."""
        drawn = Stream(self.key, domain(purpose, index)).uniform(*self.places[name])
        return torch.tensor(drawn, dtype=self.dtype).view(self.base[name].shape)

    def gradients(self, weights: dict[str, Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The gradients of the mean cross-entropy at these coded weights."""
        leaves = {k: v.detach().clone().requires_grad_() for k, v in {**self.base, **weights}.items()}
        h = x.to(self.dtype) @ leaves["0.weight"].T + leaves["0.bias"]
        mean = h.mean(1, keepdim=True)
        h = (h - mean) / (((h - mean) ** 2).mean(1, keepdim=True) + EPS).sqrt()
        h = (h * leaves["1.weight"] + leaves["1.bias"]).tanh()
        out = h @ leaves["3.weight"].T + leaves["3.bias"]
        loss = -(out - out.logsumexp(1, keepdim=True))[torch.arange(len(y)), y].mean()
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    def move_dense(self, gradients: dict[str, Tensor]) -> None:
        for name in DENSE:
            self.base[name] = self.mover.move(name, self.base[name], gradients[name])


class FedPM(Network):
    """One client of FedPM; the coded values of `state` are the probabilities."""

    def __init__(
        self,
        state: dict[str, NDArray[np.float32]],
        key: int,
        mover: Mover,
        dtype: torch.dtype,
        seed: int,
        published: bool = False,
    ) -> None:
        super().__init__(state, key, mover, dtype)
        self.published = published
        self.moving = {k: (self.base[k] / (1 - self.base[k])).log() for k in CODED}
        self.frozen = {}
        for name in CODED:
            shape = self.base[name].shape
            fan_in = shape[1] if len(shape) == 2 else shape[0]
            top = torch.tensor(Stream(seed, domain(Purpose.FROZEN)).words(*self.places[name]) >> 31).view(shape)
            self.frozen[name] = (1 - 2 * top.to(dtype)) * e / sqrt(fan_in)

    def u(self, name: str) -> Tensor:
        """The scores."""
        return self.moving[name]

    def probability(self, name: str, tau: int = 0) -> Tensor:
        """The chance of a one."""
        return 1 / (1 + (-self.moving[name]).exp())

    def weights(self, name: str, tau: int, ones: Tensor) -> Tensor:
        """What the forward pass uses."""
        return self.frozen[name] * ones

    def step(self, tau: int, ones: dict[str, Tensor], x: Tensor, y: Tensor) -> None:
        g = self.gradients({k: self.weights(k, tau, ones[k]) for k in CODED}, x, y)
        for name in CODED:
            p = self.probability(name)
            through_sigmoid = p * (1 - p)
            through_draw = p if self.published else torch.ones_like(p)
            slope = self.frozen[name] * through_sigmoid * through_draw
            self.moving[name] = self.mover.move(name, self.moving[name], g[name] * slope)
        self.move_dense(g)


class FedBAT(Network):
    """One client of FedBAT; `moving` are the weights w + u."""

    def __init__(
        self,
        state: dict[str, NDArray[np.float32]],
        key: int,
        mover: Mover,
        dtype: torch.dtype,
        *,
        steps: int,
        warmup: float,
        rho: float,
    ) -> None:
        super().__init__(state, key, mover, dtype)
        self.plain, self.rho = warmup * steps, rho
        self.moving = {k: self.base[k].clone() for k in CODED}
        self.first: dict[str, float] = {}
        self.t = dict.fromkeys(CODED, 0.0)
        self.between = dict.fromkeys(CODED, 0)
        self.beyond = dict.fromkeys(CODED, 0)

    def u(self, name: str) -> Tensor:
        """How far the weights have moved."""
        return self.moving[name] - self.base[name]

    def is_plain(self, tau: int) -> bool:
        return tau <= self.plain

    def scale(self, name: str) -> float:
        if name not in self.first:
            self.first[name] = max(LIMITS[0], float(self.u(name).abs().mean()))
        return min(LIMITS[1], max(LIMITS[0], self.first[name] * exp(self.rho * self.t[name])))

    def probability(self, name: str, tau: int = 0) -> Tensor:
        """The chance of a plus."""
        return ((self.u(name) / self.scale(name) + 1) / 2).clamp(0, 1)

    def weights(self, name: str, tau: int, ones: Tensor) -> Tensor:
        """What the forward pass uses."""
        if self.is_plain(tau):
            return self.moving[name]
        return self.base[name] + self.scale(name) * (2 * ones - 1)

    def step(self, tau: int, ones: dict[str, Tensor], x: Tensor, y: Tensor) -> None:
        g = self.gradients({k: self.weights(k, tau, ones[k]) for k in CODED}, x, y)
        for name in CODED:
            if not self.is_plain(tau):
                a, u, sign = self.scale(name), self.u(name), 2 * ones[name] - 1
                # Rounding may not decide who is inside: the two sides of the limit are told apart clearly.
                assert float((u.abs() / a - 1).abs().min()) > 1e-5, "choose another example: |u| is at its scale"
                inside = u.abs() <= a
                self.between[name] += int(inside.sum())
                self.beyond[name] += int((~inside).sum())
                to_scale = torch.where(inside, sign - u / a, u.sign())
                if LIMITS[0] < a < LIMITS[1]:
                    self.t[name] -= self.mover.lr * float((g[name] * to_scale).sum()) * self.rho * a
                g[name] = torch.where(inside, g[name], torch.zeros_like(u))
            self.moving[name] = self.mover.move(name, self.moving[name], g[name])
        self.move_dense(g)


def logit(p: float) -> float:
    """The score of a probability."""
    return log(p / (1 - p))
