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
from fedmrn.torch.rules.twins import Twin
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group


class ProbabilityMask(Through):
    """Train the probabilities of a mask over frozen weights (FedPM; Isik et al., ICLR 2023, Algorithm 1).

    `moved` holds scores s. The forward sees w0 * m with m ~ Bernoulli(sigmoid(s)), and the gradient goes straight
    through the draw. What is handed over are the probabilities; the codec draws the mask that is sent.

    Args:
        backward: whether the gradient of a mask is multiplied by its probability on the way to it, as in the published
            code; weights of a small probability then hardly move.
        **options: as for `LocalRule`.
    """

    options: ClassVar[tuple[str, ...]] = ("backward",)

    def __init__(self, *args: Any, backward: bool, **options: Any) -> None:
        self._by_probability = backward
        super().__init__(*args, **options)

    def read_codec(self, codec: Codec | None) -> None:
        """Note the seed of the frozen weights."""
        asked = Bernoulli.of(codec)
        if asked is None:
            raise UnsupportedModelError("this broadcast does not ask for masks of frozen weights")
        self._seed = asked.seed

    def prepare(self) -> None:
        """Make the frozen weights, and start from scores of the probabilities received."""
        self._frozen = torch.from_numpy(frozen_weights(self.view.layout, self._seed)).to(self.view.device)
        self.moved.copy_(torch.logit(self.base, eps=1e-6))
        self._p, self._mask = torch.zeros(0), torch.zeros(0)

    @torch.no_grad()
    def draw(self) -> None:
        """Put w0 * m into the model for the next step."""
        p = torch.sigmoid(self.moved)
        self._mask = self.renewed(self._mask, self.uniform() < p)
        self._p = self.renewed(self._p, p)
        self.put(self._frozen * self._mask)
        self.note()

    def drawn_code(self, twin: Twin) -> Tensor:
        """Return the weights of a coded parameter that were drawn last."""
        weights = self._frozen[twin.where] * self._mask[twin.where]
        return weights.view(twin.shown.shape).to(twin.shown.dtype)

    def take_over(self, twin: Twin, *, whole: bool = False) -> None:
        """Refuse weights that somebody wrote: those of a mask over frozen weights cannot be chosen."""
        if not self.is_coded(twin):
            super().take_over(twin, whole=whole)
        elif not torch.equal(twin.shown, self.drawn(twin)):
            raise UnsupportedModelError(
                f"{twin.name} was written to while this client trains: in FedPM its values are frozen weights under a "
                "mask, and only their probabilities are trained; write to the model before attach or after finish"
            )

    def put_undiced(self) -> None:
        """Leave the weights that were drawn: the models that the server hands out are draws as well."""

    @torch.no_grad()
    def adapt_gradients(self) -> None:
        """Turn dL/dw into dL/ds: times w0 and the slope of the sigmoid, and the probability if that is asked for."""
        slope = self._frozen * self._p * (1 - self._p)
        if self._by_probability:
            slope *= self._p
        for twin in self.coded:
            gradient = twin.fresh_gradient()
            if gradient is not None:
                gradient.mul_(slope[twin.where].view(gradient.shape))
                twin.adapted()

    def handed_over(self) -> F32:
        """Return the probabilities."""
        return torch.sigmoid(self.moved.cpu()).numpy()

    def final_weights(self, frame: Frame) -> F32:
        """Return the frozen weights under the mask that was sent."""
        return self._frozen.cpu().numpy() * self.decoded(frame)


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

    def __init__(self, *args: Any, warmup: float, rho: float, **options: Any) -> None:
        check_binarisation(warmup, rho)
        self.warmup, self.rho = warmup, rho
        super().__init__(*args, **options)

    def read_codec(self, codec: Codec | None) -> None:
        """Check that the broadcast asks for signs of learned scales."""
        asked = Sign.of(codec)
        if asked is None or asked.rule is not SignRule.LEARNED:
            raise UnsupportedModelError("this broadcast does not ask for signs with learned scales")

    def prepare(self) -> None:
        """Start without scales: they are measured when the warm-up is over."""
        self._first: list[float] = []  # a0, once the warm-up is over
        self._exponent = [0.0] * len(self.coded)
        self._sign, self._last = torch.zeros_like(self.base), torch.zeros(0)

    def _scales(self) -> list[float]:
        low, high = self.LIMITS
        # e^50 is beyond any limit, and no overflow.
        moved = (a * float(np.exp(min(self.rho * t, 50.0))) for a, t in zip(self._first, self._exponent, strict=True))
        return [min(high, max(low, a)) for a in moved]

    def _spread(self) -> Tensor:
        """The scale of every element."""
        sizes = torch.tensor([twin.tensor.numel() for twin in self.coded])
        return torch.repeat_interleave(torch.tensor(self._scales()), sizes).to(self.view.device)

    def _start(self) -> None:
        low, _ = self.LIMITS
        u = self.u
        means = [u[t.where].abs().mean() if t.tensor.numel() else torch.zeros(()) for t in self.coded]
        self._first = [max(low, float(mean)) for mean in means]

    @torch.no_grad()
    def draw(self) -> None:
        """Put w + u, or after the warm-up w + a * sign, into the model for the next step."""
        self._last = self.renewed(self._last, self._weights())
        self.put(self._last)
        self.note()

    def _weights(self) -> Tensor:
        free = max(1.0, self.warmup * self.steps + 1e-9)  # 0.29 * 100 is 28.999... in doubles
        if not self._first and self.taken + 1 <= free:
            return self.moved.clone()
        if not self._first:
            self._start()
        scale = self._spread()
        sign = torch.where((2 * self.uniform() - 1) * scale < self.u, 1.0, -1.0)
        self._sign = self.renewed(self._sign, sign)
        return self.base + scale * sign

    def drawn_code(self, twin: Twin) -> Tensor:
        """Return the weights of a coded parameter that were drawn last."""
        return self._last[twin.where].view(twin.shown.shape).to(twin.shown.dtype)

    def put_undiced(self) -> None:
        """Put w + u into the model, u clipped to what a sign can say: the mean over all draws."""
        if not self._first:
            self.put(self.moved)
            return
        scale = self._spread()
        self.put(self.base + torch.clamp(self.u, -scale, scale))

    @torch.no_grad()
    def adapt_gradients(self) -> None:
        """Move each tensor's scale, and stop the gradient where |u| is beyond it."""
        if not self._first:
            return
        u = self.u
        for i, (twin, scale) in enumerate(zip(self.coded, self._scales(), strict=True)):
            gradient = twin.fresh_gradient()
            if gradient is None:
                continue
            ratio = (u[twin.where] / scale).view(gradient.shape)
            inside = ratio.abs() <= 1
            slope = torch.where(inside, self._sign[twin.where].view(gradient.shape) - ratio, ratio.sign())
            towards = float((gradient * slope).sum())
            if self.LIMITS[0] < scale < self.LIMITS[1]:
                self._exponent[i] -= self._rate(twin.tensor) * towards * self.rho * scale
            gradient.mul_(inside)
            twin.adapted()

    def _rate(self, tensor: Tensor) -> float:
        """The optimiser's rate for a tensor; 0 if it does not move it."""
        groups = self.inner.param_groups
        return next((float(g["lr"]) for g in groups if any(p is tensor for p in g["params"])), 0.0)

    def codecs(self) -> dict[Group, Codec]:
        """Return the codec of signs with the scales that were learned."""
        if not self._first:
            self._start()
        learned = [a for a, twin in zip(self._scales(), self.coded, strict=True) if twin.tensor.numel()]
        return {Group.CODED: Sign(SignRule.LEARNED, tuple(learned))}
