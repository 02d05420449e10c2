"""Local rules that train through a code: the forward sees coded weights, the optimiser moves what is behind them."""

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fedmrn.codecs import Bernoulli, Codec, Sign, SignRule, codec_from
from fedmrn.codecs import MaskedNoise as MaskedNoiseCodec
from fedmrn.errors import ConfigError, UnsupportedModelError
from fedmrn.frame import Frame, Role
from fedmrn.layout import Group
from fedmrn.masking import progressive_weights
from fedmrn.rng import Purpose, Stream, domain
from fedmrn.rules import frozen_weights
from fedmrn.torch.local import F32, LocalRule


class Through(LocalRule):
    """While attached, the coded parameters are views of one flat buffer of coded weights, drawn anew for each step.

    A subclass says what the optimiser moves (`_u`), how weights come from it (`_draw`), and what is handed over.
    """

    def _begin(self) -> None:
        self._u = torch.zeros(self._size)
        self._base = self._state[: self._size]
        self._weights = torch.from_numpy(self._base.copy())
        specs = zip(self.view.tensors, self.view.layout.tensors, self.view.layout.slices.values(), strict=True)
        self._coded = [(t, where) for t, spec, where in specs if spec.group is Group.CODED]
        template = self.broadcast.select(Role.TEMPLATE, Group.CODED)
        self._prepare(None if template is None else codec_from(template.codec, template.params))
        _check_optimizer(self.inner, [t for t, _ in self._coded])
        for tensor, where in self._coded:
            tensor.data = self._weights[where].view(tensor.shape)
        self._draw()

    def _prepare(self, codec: Codec | None) -> None:
        """Look at the codec that the broadcast asks for, and set up."""
        raise NotImplementedError

    def _draw(self) -> None:
        """Put the weights of the next step into the buffer."""
        raise NotImplementedError

    def _gradients(self) -> None:
        """Turn the gradients of the weights into those of `_u`; straight through, they are the same."""

    def _handed_over(self) -> F32:
        """Return the coded part of the update."""
        return self._u.numpy()

    def _final(self, frame: Frame) -> F32:
        """Return the weights that the model is left with: as the server will see them."""
        return self._base + self._decoded(frame)

    def _step(self) -> None:
        # The inner optimiser sees u in place of the weights, so that momentum, Adam and schedulers mean what they say.
        self._gradients()
        self._weights.copy_(self._u)
        self.inner.step()
        self._u.copy_(self._weights)
        self._draw()  # after the last step too: the model is never left at u, whatever is done before `finish`

    def _update(self) -> F32:
        vector = self.view.read() - self._state
        vector[: self._size] = self._handed_over()
        return vector

    @torch.no_grad()
    def _release(self, frame: Frame) -> None:
        final = torch.from_numpy(self._final(frame))
        for tensor, where in self._coded:
            tensor.data = final[where].view(tensor.shape).clone()

    def _stream(self) -> Stream:
        """The client's own randomness for the next step; steps count from 1."""
        return Stream(self.sampling_key, domain(Purpose.TRAIN_MASK, self.taken + 1))


class MaskedNoise(Through):
    """Train through the mask (FedMRN; Li et al. 2024, Algorithm 1): PSM forward, straight-through backward.

    What is handed over is a fresh sample of the mask (SM), not the last one trained with.

    Args:
        progressive: q = tau / S (PM); otherwise every element is masked at every step (ablation "no PM").
        stochastic: sample masks (SM); otherwise take the nearer codeword (ablation "no SM").
        **options: as for `LocalRule`.

    Memory beyond plain training: u, w and the noise, three float32 a coded parameter, and the broadcast's bytes.
    """

    options: ClassVar[tuple[str, ...]] = ("progressive", "stochastic")

    def __init__(self, *args: Any, progressive: bool = True, stochastic: bool = True, **options: Any) -> None:
        self.progressive, self.stochastic = progressive, stochastic
        super().__init__(*args, **options)

    def _prepare(self, codec: Codec | None) -> None:
        if not isinstance(codec, MaskedNoiseCodec):
            raise UnsupportedModelError("this broadcast does not ask for masked noise")
        self._codec = MaskedNoiseCodec(codec.noise, codec.mask, self.stochastic)
        self._noise = codec.noise.chunk(self.broadcast.noise_key, 0, self._size)

    def _draw(self) -> None:
        """Put w + PSM(u) into the model for the next step; tau counts from 1."""
        tau = self.taken + 1
        progressive_weights(
            self._u.numpy(),
            self._noise,
            self._base,
            min(1.0, tau / self.steps) if self.progressive else 1.0,
            self._stream(),
            self._codec.mask,
            self._weights.numpy(),
            stochastic=self.stochastic,
        )

    def _codecs(self) -> dict[Group, Codec]:
        return {Group.CODED: self._codec}


class ProbabilityMask(Through):
    """Train the probabilities of a mask over frozen weights (FedPM; Isik et al., ICLR 2023, Algorithm 1).

    `_u` holds scores s; the forward sees w0 * m with m ~ Bernoulli(sigmoid(s)), and the gradient goes straight through
    the draw. What is handed over are the probabilities; the codec draws the mask that is sent.
    """

    def _prepare(self, codec: Codec | None) -> None:
        if not isinstance(codec, Bernoulli):
            raise UnsupportedModelError("this broadcast does not ask for masks of frozen weights")
        self._frozen = torch.from_numpy(frozen_weights(self.view.layout, codec.seed))
        self._u = torch.logit(torch.from_numpy(self._base), eps=1e-6)

    def _draw(self) -> None:
        """Put w0 * m into the model for the next step."""
        self._p = torch.sigmoid(self._u)
        mask = torch.from_numpy(self._stream().uniform(0, self._size)) < self._p
        torch.mul(self._frozen, mask, out=self._weights)

    @torch.no_grad()
    def _gradients(self) -> None:
        slope = self._frozen * self._p * (1 - self._p)
        for tensor, where in self._coded:
            if tensor.grad is not None:
                tensor.grad.mul_(slope[where].view(tensor.shape))

    def _handed_over(self) -> F32:
        return torch.sigmoid(self._u).numpy()

    def _final(self, frame: Frame) -> F32:
        return self._frozen.numpy() * self._decoded(frame)


class LearnedSign(Through):
    """Train through random signs of a learned scale (FedBAT; Li et al., ICML 2024).

    The first `warmup` share of the steps trains w + u freely. Then each tensor gets a scale a, from mean|u|, and the
    forward sees w + a with probability clip((u / a + 1) / 2, 0, 1), else w - a. The gradient goes straight through to
    u where |u| <= a, and to a as +1 above, -1 below, and the sampled sign less u / a between. a = a0 exp(rho t) stays
    within `LIMITS`; t is learned with the optimiser's rate.

    Args:
        warmup: share of the steps without binarisation, 0 to 1.
        rho: how fast the scale moves.
        **options: as for `LocalRule`.
    """

    options: ClassVar[tuple[str, ...]] = ("warmup", "rho")
    LIMITS: ClassVar[tuple[float, float]] = (5e-4, 5e-2)

    def __init__(self, *args: Any, warmup: float = 0.5, rho: float = 6.0, **options: Any) -> None:
        if not 0 <= warmup <= 1 or not rho >= 0:
            raise ConfigError(f"warmup is a share of the steps, 0 to 1, and rho at least 0; got {warmup}, {rho}")
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
        return torch.repeat_interleave(torch.tensor(self._scales()), sizes)

    def _start(self) -> None:
        low, _ = self.LIMITS
        self._first = [max(low, float(self._u[w].abs().mean())) if t.numel() else low for t, w in self._coded]

    def _draw(self) -> None:
        """Put w + u, or after the warm-up w + a * sign, into the model for the next step."""
        if self.taken + 1 <= self.warmup * self.steps + 1e-9:  # 0.29 * 100 is 28.999... in doubles
            self._weights.copy_(torch.from_numpy(self._base) + self._u)
            return
        if not self._first:
            self._start()
        scale = self._spread()
        r = torch.from_numpy(self._stream().uniform(0, self._size))
        self._sign = torch.where((2 * r - 1) * scale < self._u, 1.0, -1.0)
        self._weights.copy_(torch.from_numpy(self._base) + scale * self._sign)

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


def _check_optimizer(optimizer: torch.optim.Optimizer, coded: Iterable[Tensor]) -> None:
    mine = {id(t) for t in coded}
    if isinstance(optimizer, torch.optim.ASGD):
        raise UnsupportedModelError(
            "ASGD decays what it moves, which is the update and not the weights; use SGD or Adam"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UnsupportedModelError("LBFGS needs a closure and cannot train through a mask; use SGD or Adam")
    if not any(id(p) in mine for group in optimizer.param_groups for p in group["params"]):
        raise UnsupportedModelError(
            "the optimiser holds none of this model's coded parameters; make it from this model"
        )
    for group in optimizer.param_groups:
        if group.get("weight_decay") and any(id(p) in mine for p in group["params"]):
            raise UnsupportedModelError(
                "weight decay would shrink the update, not the weights: set it to 0 and put an L2 term in the loss"
            )
