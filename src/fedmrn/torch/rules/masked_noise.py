"""FedMRN: training through the mask of seeded noise."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fedmrn.codecs import Codec, FitsUpdate, MaskCodec
from fedmrn.codecs.scales import mean_magnitude
from fedmrn.errors import UnsupportedModelError
from fedmrn.numerics.masking import MaskType, progressive_weights
from fedmrn.numerics.threads import in_parallel
from fedmrn.torch.fast.fused import STAY, Move, plain_sgd, sgd_moves, without_gradients
from fedmrn.torch.rules.through import Through
from fedmrn.wire.layout import Group
from fedmrn.wire.messages import told_caps
from fedmrn.wire.terms import LARGEST_CAP

_AHEAD = 1024
"""Steps whose random streams are put on a device at a time."""
_VECTORS = ("u", "weights", "base", "noise", "_aimed", "_exponents", "_caps")
"""What a captured step of `MaskedTraining` uses beside the model's tensors."""


class MaskedTraining(Through):
    """Train through the mask (FedMRN; Li et al. 2024, Algorithm 1): PSM forward, straight-through backward.

    What is handed over is a fresh sample of the mask (SM), not the last one trained with.

    Args:
        progressive: q = tau / S (PM); otherwise every element is masked at every step (ablation "no PM").
        stochastic: sample masks (SM); otherwise take the nearer codeword (ablation "no SM").
        **options: as for `LocalRule`.

    Memory beyond plain training: u, w and the noise, three float32 a coded parameter, and the broadcast's bytes.
    Plain SGD moves u in the pass that draws the next weights; other optimisers take a pass of their own first, and so
    does SGD where the client chooses the noise's scales, which follow u before each draw.
    """

    options: ClassVar[tuple[str, ...]] = ("progressive", "stochastic")

    def __init__(self, *args: Any, progressive: bool = True, stochastic: bool = True, **options: Any) -> None:
        self.progressive, self.stochastic = progressive, stochastic
        super().__init__(*args, **options)

    def prepare(self, codec: Codec | None) -> None:
        """Make the noise that the broadcast names, and choose the kernels of the device."""
        asked = MaskCodec.of(codec)
        if asked is None:
            raise UnsupportedModelError("this broadcast does not ask for masked noise")
        masked = asked.masked
        self._codec = replace(masked, stochastic=self.stochastic)
        self._asked = asked.over(self._codec)
        self._follows_update = asked.noise_scale.follows_update
        self._multiple = FitsUpdate.multiple(masked.mask, masked.noise.law)
        self._parts = [where for _, where in self.coded if where.start < where.stop]
        self._exponents = torch.zeros(len(self._parts), dtype=torch.int32, device=self.view.device)
        self._caps = self._told_caps()
        self._kernels = _kernels_of(self.view.device)
        self.noise = torch.empty_like(self.base)
        self._aimed = torch.empty(0, dtype=torch.int32, device=self.view.device)
        if self._kernels is None:
            masked.noise.fill(self.broadcast.noise_key, 0, self.noise.numpy())
            return
        self._kernels.fill(masked.noise, self.broadcast.noise_key, 0, self.noise)
        self._aimed = torch.empty(self._kernels.WORDS, dtype=torch.int32, device=self.view.device)
        self._ahead = min(_AHEAD, self.steps + 1)
        self._aim()

    def _told_caps(self) -> Tensor:
        """The exponents of the largest scales that the server takes, int32, one a tensor."""
        caps = told_caps(self.broadcast, self.view.layout) or (LARGEST_CAP,) * len(self._parts)
        return torch.tensor(caps, dtype=torch.int32, device=self.view.device)

    def device_step(self) -> None:
        """Move u and draw the next weights: in one pass where the optimiser is plain SGD."""
        tensors = [t for t, _ in self.coded]
        moves = None if self._follows_update else sgd_moves(self.inner, tensors)
        if moves is None:
            super().device_step()
            return
        with without_gradients(tensors):
            self.inner.step()  # of the tensors left dense; and schedulers see that a step was taken
        self._draw_after([(where, move) for (_, where), move in zip(self.coded, moves, strict=True)])

    def undiced_weights(self) -> Tensor:
        """Return w + u, u clipped to what the mask can say: the mean over all masks of u."""
        if not self.stochastic:
            return self.weights
        low = -self.noise.abs() if self._codec.mask is MaskType.SIGNED else self.noise.clamp(max=0)
        high = self.noise.abs() if self._codec.mask is MaskType.SIGNED else self.noise.clamp(min=0)
        return self.base + torch.clamp(self.u, low, high)

    def draw(self) -> None:
        """Put w + PSM(u) into the model for the next step."""
        self._rescale()
        self._draw_after([(slice(0, self.size), STAY)])

    def _rescale(self) -> None:
        """Let the noise follow u, where the client chooses its scales: powers of two, so that nothing is rounded."""
        if not self._follows_update:
            return
        if self._kernels is not None:
            self._kernels.rescale(self.u, self._parts, self._multiple, self.noise, self._exponents, self._caps)
            return
        u, noise, exponents = (v.numpy() for v in (self.u, self.noise, self._exponents))
        means = np.array([mean_magnitude(u[where]) for where in self._parts], np.float64)
        wanted = FitsUpdate.exponents(means, self._multiple, self._caps.numpy())
        for where, more in zip(self._parts, (wanted - exponents).tolist(), strict=True):
            if more:  # in two halves: the whole factor may be beyond float32
                noise[where] *= 2.0 ** (more // 2)
                noise[where] *= 2.0 ** (more - more // 2)
        exponents[:] = wanted

    def _draw_after(self, moves: Sequence[tuple[slice, Move]]) -> None:
        """Move u first, in the same pass."""
        if self._kernels is None:
            self._draw_on_cpu(moves)
            return
        for where, move in moves:
            self._kernels.write_weights(
                self.u[where],
                self.noise[where],
                self.base[where],
                self._aimed,
                self._codec.mask,
                self.weights[where],
                start=where.start,
                stochastic=self.stochastic,
                gradient=None if move is STAY else move.gradient,
                rate=move.rate,
            )

    def _draw_on_cpu(self, moves: Sequence[tuple[slice, Move]]) -> None:
        q, stream = self._q(self.taken + 1), self.stream(self.taken + 1)
        u, noise, base, out = (v.numpy() for v in (self.u, self.noise, self.base, self.weights))
        parts = [(where, move.gradient.numpy(), move.rate) for where, move in moves]

        def work(first: int, last: int) -> None:
            for where, gradient, rate in parts:
                part = slice(max(first, where.start), min(last, where.stop))
                if part.start < part.stop:
                    progressive_weights(
                        u[part],
                        noise[part],
                        base[part],
                        q,
                        stream,
                        self._codec.mask,
                        out[part],
                        start=part.start,
                        stochastic=self.stochastic,
                        gradient=gradient[part.start - where.start : part.stop - where.start],
                        rate=rate,
                    )

        in_parallel(work, self.size, torch.get_num_threads())

    def _q(self, step: int) -> float:
        """The share of elements that are masked in a step; tau counts from 1."""
        return min(1.0, step / self.steps) if self.progressive else 1.0

    def _aim(self) -> None:
        """Put what the next draw needs where the device's kernels read it: no step waits for a copy from the host."""
        at = self.taken % self._ahead
        if at == 0:
            steps = range(self.taken + 1, self.taken + 1 + self._ahead)
            rows = self._kernels.pack_draws([self.stream(s) for s in steps], [self._q(s) for s in steps])
            self._draws = rows.to(self.view.device)
        self._aimed.copy_(self._draws[at])

    def advance(self) -> None:
        """Count a step, and let the device's kernels know."""
        super().advance()
        if self._kernels is not None:
            self._aim()

    def captured(self) -> Hashable | None:
        """Return the rates, settings and addresses that a step of plain SGD depends on; None for other optimisers."""
        sgd = plain_sgd(self.inner)
        if sgd is None:
            return None
        places = tuple(getattr(self, name).data_ptr() for name in _VECTORS)
        return sgd, self._codec.mask, self.stochastic, self._follows_update, self._multiple, places

    def place(self, kept: dict[str, Tensor]) -> None:
        """Move the vectors of a captured step to where those of earlier clients were."""
        for name in _VECTORS:
            vector = getattr(self, name)
            if name not in kept or kept[name].shape != vector.shape:
                kept[name] = torch.empty_like(vector)
            setattr(self, name, kept[name].copy_(vector))
        self.show(self.weights)

    def codecs(self) -> dict[Group, Codec]:
        """Return the codec that was asked for, around the mask of this rule."""
        return {Group.CODED: self._asked}


def _kernels_of(device: torch.device) -> Any:
    """Return the module of the kernels of a device: None for the CPU, whose kernels are `fedmrn.numerics.masking`'s."""
    if device.type == "cpu":
        return None
    try:
        return import_module("fedmrn.torch.fast.gpu")
    except ImportError as error:
        raise UnsupportedModelError(
            f"training through a mask on {device} needs Triton ({error}): pip install 'fedmrn[gpu]', or model.cpu()"
        ) from error
