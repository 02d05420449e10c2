"""Local rules that learn how random their code is: FedPM probabilities of masks, FedBAT scales of signs."""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fedmrn.codecs import Bernoulli, Codec, Sign, SignRule
from fedmrn.errors import UnsupportedModelError
from fedmrn.server.rules import check_binarisation, frozen_weights
from fedmrn.torch.rules.base import F32
from fedmrn.torch.rules.through import Through
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group


class ProbabilityMask(Through):
    """Train the probabilities of a mask over frozen weights (FedPM; Isik et al., ICLR 2023, Algorithm 1).

    `_u` holds scores s; the forward sees w0 * m with m ~ Bernoulli(sigmoid(s)), and the gradient goes straight through
    the draw. What is handed over are the probabilities; the codec draws the mask that is sent.
    """

    def _prepare(self, codec: Codec | None) -> None:
        if not isinstance(codec, Bernoulli):
            raise UnsupportedModelError("this broadcast does not ask for masks of frozen weights")
        self._frozen = torch.from_numpy(frozen_weights(self.view.layout, codec.seed)).to(self._u.device)
        self._u = torch.logit(self._base, eps=1e-6)

    def _draw(self) -> None:
        """Put w0 * m into the model for the next step."""
        self._p = torch.sigmoid(self._u)
        mask = self._uniform() < self._p
        torch.mul(self._frozen, mask, out=self._weights)

    @torch.no_grad()
    def _gradients(self) -> None:
        slope = self._frozen * self._p * (1 - self._p)
        for tensor, where in self._coded:
            if tensor.grad is not None:
                tensor.grad.mul_(slope[where].view(tensor.shape))

    def _handed_over(self) -> F32:
        return torch.sigmoid(self._u.cpu()).numpy()

    def _final(self, frame: Frame) -> F32:
        return self._frozen.cpu().numpy() * self._decoded(frame)


class LearnedSign(Through):
    """Train through random signs of a learned scale (FedBAT; Li et al., ICML 2024).

    The first `warmup` share of the steps trains w + u freely. Then each tensor gets a scale a, from mean|u|, and the
    forward sees w + a with probability clip((u / a + 1) / 2, 0, 1), else w - a. The gradient goes straight through to
    u where |u| <= a, and to a as +1 above, -1 below, and the sampled sign less u / a between. a = a0 exp(rho t) stays
    within `LIMITS`; t is learned with the optimiser's rate.

    Args:
        warmup: share of the steps without binarisation, 0 to 1; one step at least, or there is nothing to measure.
        rho: how fast the scale moves.
        **options: as for `LocalRule`.
    """

    options: ClassVar[tuple[str, ...]] = ("warmup", "rho")
    LIMITS: ClassVar[tuple[float, float]] = (5e-4, 5e-2)

    def __init__(self, *args: Any, warmup: float = 0.5, rho: float = 6.0, **options: Any) -> None:
        check_binarisation(warmup, rho)
        self.warmup, self.rho = warmup, rho
        super().__init__(*args, **options)

    def _prepare(self, codec: Codec | None) -> None:
        if not isinstance(codec, Sign) or codec.rule is not SignRule.LEARNED:
            raise UnsupportedModelError("this broadcast does not ask for signs with learned scales")
        self._first: list[float] = []  # a0, once the warm-up is over
        self._exponent = [0.0] * len(self._coded)
        self._sign = torch.zeros(0)

    def _scales(self) -> list[float]:
        low, high = self.LIMITS
        # e^50 is beyond any limit, and no overflow.
        moved = (a * float(np.exp(min(self.rho * t, 50.0))) for a, t in zip(self._first, self._exponent, strict=True))
        return [min(high, max(low, a)) for a in moved]

    def _spread(self) -> Tensor:
        """The scale of every element."""
        sizes = torch.tensor([t.numel() for t, _ in self._coded])
        return torch.repeat_interleave(torch.tensor(self._scales()), sizes).to(self._u.device)

    def _start(self) -> None:
        low, _ = self.LIMITS
        self._first = [max(low, float(self._u[w].abs().mean())) if t.numel() else low for t, w in self._coded]

    def _draw(self) -> None:
        """Put w + u, or after the warm-up w + a * sign, into the model for the next step."""
        free = max(1.0, self.warmup * self.steps + 1e-9)  # 0.29 * 100 is 28.999... in doubles
        if not self._first and self.taken + 1 <= free:
            self._weights.copy_(self._base + self._u)
            return
        if not self._first:
            self._start()
        scale = self._spread()
        self._sign = torch.where((2 * self._uniform() - 1) * scale < self._u, 1.0, -1.0)
        self._weights.copy_(self._base + scale * self._sign)

    @torch.no_grad()
    def _gradients(self) -> None:
        if not self._first:
            return
        for i, ((tensor, where), scale) in enumerate(zip(self._coded, self._scales(), strict=True)):
            if tensor.grad is None:
                continue
            ratio = (self._u[where] / scale).view(tensor.shape)
            inside = ratio.abs() <= 1
            slope = torch.where(inside, self._sign[where].view(tensor.shape) - ratio, ratio.sign())
            towards = float((tensor.grad * slope).sum())
            if self.LIMITS[0] < scale < self.LIMITS[1]:
                self._exponent[i] -= self._rate(tensor) * towards * self.rho * scale
            tensor.grad.mul_(inside)

    def _rate(self, tensor: Tensor) -> float:
        """The optimiser's rate for a tensor; 0 if it does not move it."""
        groups = self.inner.param_groups
        return next((float(g["lr"]) for g in groups if any(p is tensor for p in g["params"])), 0.0)

    def _codecs(self) -> dict[Group, Codec]:
        if not self._first:
            self._start()
        learned = [a for a, (tensor, _) in zip(self._scales(), self._coded, strict=True) if tensor.numel()]
        return {Group.CODED: Sign(SignRule.LEARNED, tuple(learned))}
