"""FedMRN as its formulas say it: dense, tensor by tensor, slow (Li et al. 2024, Algorithm 1).

For a masked tensor with weights w, noise n, update u (0 at first) and uniforms r, at local step tau of S:

    q = tau / S                               (1 without progressive masking)
    p = clip(u / n, 0, 1)                     codewords 0 and n
    p = clip((u / n + 1) / 2, 0, 1)           codewords -n and n                     (signed)
    b = [r < q],   m = [r < q p]              (m = [p >= 1/2] without stochastic masking)
    u' = b (n m) + (1 - b) clip(u / n, lower, 1) n           with n m the codeword that m picks
    the forward pass uses w + u'; its backward pass is the identity: dL/du = dL/du'
    u <- u - lr dL/du

and after step S one fresh mask of u. Nothing is the library's but the noise and the uniforms, which are the
specification's.

The network is written out: conv, batch norm, ReLU, max pooling, conv, batch norm, ReLU, linear with a bias.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedmrn.numerics.noise import NoiseSpec
from fedmrn.numerics.rng import Purpose, Stream, domain

MASKED = ("first.weight", "second.weight", "head.weight", "head.bias")
FLOATS = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")
STATISTICS = ("norm1.running_mean", "norm1.running_var", "norm2.running_mean", "norm2.running_var")
EPS, MOMENTUM = 1e-5, 0.1  # of batch norm, the framework's defaults


class SmallNet(nn.Module):
    """The network as a user writes it, for 6x6 images of two channels and three classes."""

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


class _Through(torch.autograd.Function):
    """Forward w + masked; backward the identity for u."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, w: Tensor, masked: Tensor) -> Tensor:
        return w + masked

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0], None, None


class Oracle:
    """One client's local training.

    Args:
        state: the values that the broadcast carries, by name.
        spec, noise_key: of the noise.
        sampling_key: the client's.
        signed, progressive, stochastic: the variant.
        steps: S.
        lr: of u and of the batch-norm affine parameters alike.
        dtype: the arithmetic; float64 is the reference, float32 tells what rounding does.
        late: shifts tau; 0 but where a test makes the oracle wrong on purpose.
    """

    def __init__(
        self,
        state: dict[str, NDArray[np.float32]],
        spec: NoiseSpec,
        noise_key: int,
        sampling_key: int,
        *,
        signed: bool,
        steps: int,
        lr: float,
        progressive: bool = True,
        stochastic: bool = True,
        dtype: torch.dtype = torch.float64,
        late: int = 0,
    ) -> None:
        self.signed, self.steps, self.lr = signed, steps, lr
        self.progressive, self.stochastic, self.late = progressive, stochastic, late
        self.sampling_key = sampling_key
        self.value = {k: torch.tensor(v, dtype=dtype) for k, v in state.items()}
        self.range, at = {}, 0
        for name in MASKED:
            size = self.value[name].numel()
            self.range[name] = (at, at + size)
            at += size
        self.noise = {
            k: torch.tensor(spec.chunk(noise_key, *self.range[k]), dtype=dtype).view(self.value[k].shape)
            for k in MASKED
        }
        self.u = {k: torch.zeros_like(self.value[k]).requires_grad_() for k in MASKED}
        for name in FLOATS:
            self.value[name].requires_grad_()

    def probability(self, name: str) -> Tensor:
        ratio = self.u[name].detach() / self.noise[name]
        return ((ratio + 1) / 2 if self.signed else ratio).clamp(0, 1)

    def uniforms(self, name: str, purpose: Purpose, index: int = 0) -> Tensor:
        drawn = Stream(self.sampling_key, domain(purpose, index)).uniform(*self.range[name])
        return torch.tensor(drawn, dtype=self.value[name].dtype).view(self.value[name].shape)

    def codeword(self, name: str, mask: Tensor) -> Tensor:
        n = self.noise[name]
        return torch.where(mask, n, -n if self.signed else torch.zeros_like(n))

    def masked(self, name: str, tau: int) -> tuple[Tensor, Tensor]:
        """Return u' of a tensor, and for each element how far its decision was from falling the other way."""
        u, n, p = self.u[name].detach(), self.noise[name], self.probability(name)
        q = (tau - self.late) / self.steps if self.progressive else 1.0
        r = self.uniforms(name, Purpose.TRAIN_MASK, tau)
        b = r < q
        m = (r < q * p) if self.stochastic else (p >= 0.5)
        clipped = (u / n).clamp(-1 if self.signed else 0, 1) * n
        margin = (r - q * p).abs() if self.stochastic else (p - 0.5).abs()
        return torch.where(b, self.codeword(name, m), clipped), margin

    def final_mask(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the mask that is sent, and the margins."""
        p = self.probability(name)
        if not self.stochastic:
            return p >= 0.5, (p - 0.5).abs()
        r = self.uniforms(name, Purpose.FINAL_MASK)
        return r < p, (r - p).abs()

    def step(self, masked: dict[str, Tensor], x: Tensor, y: Tensor) -> None:
        """One step of SGD, the forward pass being at w + masked."""
        w = {k: _Through.apply(self.u[k], self.value[k], masked[k]) for k in MASKED}
        x = x.to(self.value["head.weight"].dtype)
        x = F.conv2d(x, w["first.weight"], padding=1)
        x = F.max_pool2d(self._norm("norm1", x).clamp(min=0), 2)
        x = F.conv2d(x, w["second.weight"], padding=1)
        x = self._norm("norm2", x).clamp(min=0).flatten(1)
        out = x @ w["head.weight"].T + w["head.bias"]
        loss = -(out - out.logsumexp(1, keepdim=True))[torch.arange(len(y)), y].mean()
        leaves = [self.u[k] for k in MASKED] + [self.value[k] for k in FLOATS]
        for leaf, grad in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
            leaf.data -= self.lr * grad

    def _norm(self, name: str, x: Tensor) -> Tensor:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        count = x.numel() // x.shape[1]
        for what, new in (("running_mean", mean), ("running_var", var * count / (count - 1))):
            old = self.value[f"{name}.{what}"]
            self.value[f"{name}.{what}"] = (1 - MOMENTUM) * old + MOMENTUM * new.detach()
        a, b = self.value[f"{name}.weight"], self.value[f"{name}.bias"]
        shape = (1, -1, 1, 1)
        return (x - mean.view(shape)) / (var.view(shape) + EPS).sqrt() * a.view(shape) + b.view(shape)
