"""FedMRN: training through the mask of seeded noise."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fedmrn.codecs import Codec, FitsUpdate, MaskCodec
from fedmrn.errors import ConfigError, MalformedFrameError, UnsupportedModelError
from fedmrn.numerics.masking import progressive_weights, sum_of_distances
from fedmrn.numerics.threads import in_parallel
from fedmrn.torch.fast.fused import STAY, Move, is_plain_sgd, plain_sgd, sgd_moves, without_gradients
from fedmrn.torch.fast.kernels import kernels_of
from fedmrn.torch.rules.facade import Loss
from fedmrn.torch.rules.steps import Closure
from fedmrn.torch.rules.through import Through
from fedmrn.torch.rules.twins import Twin
from fedmrn.wire.layout import Group
from fedmrn.wire.terms import LARGEST_CAP
from fedmrn.wire.told import told_caps, told_scales

_AHEAD = 1024
"""Steps whose random streams are put on a device at a time."""
_PIECE = 1 << 18
"""Elements of fewer bits that are drawn at a time."""
_VECTORS = ("moved", "weights", "base", "noise", "_aimed", "_exponents", "_caps", "_multiples")
"""What a captured step of `MaskedTraining` uses beside the model's tensors."""


class MaskedTraining(Through):
    """Train through the mask (FedMRN; Li et al. 2024, Algorithm 1): PSM forward, straight-through backward.

    What is handed over is a fresh sample of the mask (SM), not the last one trained with.

    Args:
        progressive: q = tau / S (PM); otherwise every element is masked at every step (ablation "no PM").
        stochastic: sample masks (SM); otherwise take the nearer codeword (ablation "no SM").
        budget: bits that a client may spend on a parameter; 0 for what the scales of its noise cost.
        **options: as for `LocalRule`.

    Memory beyond plain training: what the optimiser moves, w and the noise, three float32 a coded parameter, and the
    broadcast's bytes. Plain SGD moves in the pass that draws the next weights; other optimisers take a pass of their
    own first. Where the client chooses the noise's scales, which follow u before each draw, u is summed in a pass
    before it, in which plain SGD moves on the CPU.
    """

    options: ClassVar[tuple[str, ...]] = ("progressive", "stochastic", "budget")

    def __init__(
        self, *args: Any, progressive: bool = True, stochastic: bool = True, budget: float = 0.0, **options: Any
    ) -> None:
        self.progressive, self.stochastic, self.budget = progressive, stochastic, budget
        super().__init__(*args, **options)

    def read_codec(self, codec: Codec | None) -> None:
        """Note the noise and the codebook, and choose the kernels of the device."""
        asked = MaskCodec.of(codec)
        if asked is None:
            raise UnsupportedModelError("this broadcast does not ask for masked noise")
        masked = asked.masked
        self._codec = replace(masked, stochastic=self.stochastic)
        try:
            self._asked = asked.over(self._codec).spending(self.budget)
        except ConfigError as error:
            raise MalformedFrameError(f"the broadcast tells what no client can do: {error}") from error
        self._follows_update = asked.noise_scale.follows_update
        self._kernels = kernels_of(self.view.device)

    def prepare(self) -> None:
        """Make the noise that the broadcast names."""
        self._parts = [twin.where for twin in self.coded if twin.where.start < twin.where.stop]
        self._exponents = torch.zeros(len(self._parts), dtype=torch.int32, device=self.view.device)
        caps = told_caps(self.broadcast, self.view.layout) or (LARGEST_CAP,) * len(self._parts)  # no larger scales
        self._caps = torch.tensor(caps, dtype=torch.int32, device=self.view.device)
        sizes = [where.stop - where.start for where in self._parts]
        self._dial = self._asked.dial(sizes, self.sampling_key, self._caps.tolist())
        multiple = FitsUpdate.multiple(self._codec.mask, self._codec.noise.law)
        self._multiples = torch.full((len(sizes),), multiple, dtype=torch.float64, device=self.view.device)
        self.noise = torch.empty_like(self.base)
        self._aimed = torch.empty(0, dtype=torch.int32, device=self.view.device)
        if self._kernels is None:
            self._codec.noise.fill(self.broadcast.noise_key, 0, self.noise.numpy())
            self._scale_as_told()
            return
        self._kernels.fill(self._codec.noise, self.broadcast.noise_key, 0, self.noise)
        self._scale_as_told()
        self._aimed = torch.empty(self._kernels.WORDS, dtype=torch.int32, device=self.view.device)
        self._unmasked = self._kernels.pack_draws([self.stream(0)], [0.0])[0].to(self.view.device)
        self._ahead, self._first_draw = min(_AHEAD, self.steps + 1), -1
        self._aim()

    def _scale_as_told(self) -> None:
        """Give the noise the scales that the server tells all clients of a round: powers of two, nothing is rounded."""
        told = told_scales(self.broadcast, self.view.layout)
        for where, exponent in zip(self._parts, told, strict=bool(told)):
            self.noise[where] *= 2.0**exponent

    def device_step(self, inner: torch.optim.Optimizer | None = None, closure: Closure | None = None) -> Loss:
        """Move, and draw the next weights: in one pass where the optimiser is plain SGD."""
        inner = self.inner if inner is None else inner
        coded = self.own_coded()
        tensors = [twin.tensor for twin in coded]
        # What has fewer bits has gradients of fewer bits, and is drawn apart.
        sums_apart = self._follows_update and self._kernels is not None
        if sums_apart or not coded or any(twin.narrow for twin in self.twins) or not is_plain_sgd(inner):
            return self.move(inner, closure)
        loss = None if closure is None else self.run_closure(closure)
        moves = sgd_moves(inner, tensors)
        if moves is None:
            self.move(inner, None)
            return loss
        with without_gradients(tensors):
            inner.step()  # of the tensors left dense; and schedulers see that a step was taken
        if self._follows_update:
            self._rescale([move for twin, move in zip(coded, moves, strict=True) if twin.tensor.numel()])
            self._draw_after(self._staying())
        else:
            self._draw_after([(twin.where, move) for twin, move in zip(coded, moves, strict=True)])
        self.note()
        return loss

    def draw(self) -> None:
        """Put w + PSM(u) into the model for the next step."""
        self._rescale()
        self._draw_after(self._staying())
        self.note()

    def _staying(self) -> list[tuple[slice, Move]]:
        """The places that are drawn anew, in as few pieces as may be, where nothing moves."""
        places = [slice(0, self.size)] if self._own is None else [twin.where for twin in self.own_coded()]
        return [(where, STAY) for where in places]

    def put_undiced(self) -> None:
        """Put w + u into the model, u clipped to what the mask can say that is sent: the mean over all masks of u."""
        if not self.stochastic:
            return
        usual = self._multiples
        if self._dial is not None:  # with a budget that mask is wider than those of training
            u = self.u[torch.from_numpy(self._dial.sample).to(self.view.device)]
            self._multiples = torch.from_numpy(self._dial.multiples(u.cpu().numpy())).to(self.view.device)
            self._rescale()
        self._draw_after([(slice(0, self.size), STAY)], q=0.0)
        if self._dial is not None:
            self._multiples = usual
            self._rescale()

    def drawn_code(self, twin: Twin) -> Tensor:
        """Return the weights of a coded parameter that were drawn last."""
        out = torch.empty_like(self.moved[twin.where])
        self._write(twin.where, STAY, out, self._q(self.taken + 1 - twin.behind), behind=twin.behind)
        return out.view(twin.shown.shape).to(twin.shown.dtype)

    def _rescale(self, moves: Sequence[Move] = ()) -> None:
        """Let the noise follow u, where the client chooses its scales: powers of two, so that nothing is rounded.

        On the CPU steps of SGD, one a part, are taken in the pass that sums |u|.
        """
        if not self._follows_update:
            return
        at = self._drawn_parts()
        parts = self._parts[at] if isinstance(at, slice) else [self._parts[i] for i in at]
        if self._kernels is not None:
            now = self._exponents[at]
            self._kernels.rescale(self.moved, self.base, parts, self._multiples[at], self.noise, now, self._caps[at])
            if not isinstance(at, slice):
                self._exponents[at] = now
            return
        moved, base, noise, exponents = (v.numpy() for v in (self.moved, self.base, self.noise, self._exponents))
        threads = torch.get_num_threads()
        sums = [
            sum_of_distances(moved[p], base[p], gradient=m.gradient.numpy(), rate=m.rate, threads=threads)
            for p, m in zip(parts, moves or [STAY] * len(parts), strict=True)
        ]
        means = np.array([total / (p.stop - p.start) for total, p in zip(sums, parts, strict=True)], np.float64)
        wanted = FitsUpdate.exponents(means, self._multiples[at].numpy(), self._caps[at].numpy())
        for where, more in zip(parts, (wanted - exponents[at]).tolist(), strict=True):
            if more:  # in two halves: the whole factor may be beyond float32
                noise[where] *= 2.0 ** (more // 2)
                noise[where] *= 2.0 ** (more - more // 2)
        exponents[at] = wanted

    def _drawn_parts(self) -> slice | list[int]:
        """The indices of the parts that are drawn anew."""
        if self._own is None:
            return slice(None)
        own = {twin.where.start for twin in self.own_coded() if twin.tensor.numel()}
        return [i for i, where in enumerate(self._parts) if where.start in own]

    def _draw_after(self, moves: Sequence[tuple[slice, Move]], q: float | None = None) -> None:
        """Move first, in the same pass."""
        q = self._q(self.taken + 1) if q is None else q
        if not any(twin.narrow for twin in self.coded):
            for where, move in moves if self._kernels is not None else ():
                self._write(where, move, self.weights[where], q)
            if self._kernels is None:
                in_parallel(partial(self._draw_range, moves, q), self.size, torch.get_num_threads())
            return
        for twin in self.own_coded():
            if twin.narrow:
                for at in range(twin.where.start, twin.where.stop, _PIECE):
                    part = slice(at, min(at + _PIECE, twin.where.stop))
                    out = torch.empty_like(self.moved[part])
                    self._write(part, STAY, out, q)
                    twin.shown.view(-1)[part.start - twin.where.start :][: out.numel()].copy_(out)
            else:
                self._write(twin.where, STAY, twin.shown.view(-1), q)

    def _draw_range(self, moves: Sequence[tuple[slice, Move]], q: float, first: int, last: int) -> None:
        for where, move in moves:
            part = slice(max(first, where.start), min(last, where.stop))
            if part.start < part.stop:
                moved = Move(move.gradient[part.start - where.start : part.stop - where.start], move.rate)
                self._write(part, moved, self.weights[part], q)

    def _write(self, part: slice, move: Move, out: Tensor, q: float, behind: int = 0) -> None:
        """Move a part of the elements, and write into `out` their next weights, or those of so many steps before."""
        stays, step = not move.gradient.numel(), self.taken + 1 - behind
        if self._kernels is not None:
            aimed = self._kernels.pack_draws([self.stream(step)], [q])[0].to(out.device) if behind else self._aimed
            self._kernels.write_weights(
                self.moved[part],
                self.noise[part],
                self.base[part],
                aimed if q else self._unmasked,
                self._codec.mask,
                out,
                start=part.start,
                stochastic=self.stochastic,
                gradient=None if stays else move.gradient,
                rate=move.rate,
            )
            return
        progressive_weights(
            self.moved[part].numpy(),
            self.noise[part].numpy(),
            self.base[part].numpy(),
            q,
            self.stream(step),
            self._codec.mask,
            out.numpy(),
            start=part.start,
            stochastic=self.stochastic,
            gradient=move.gradient.numpy(),
            rate=move.rate,
        )

    def _q(self, step: int) -> float:
        """The share of elements that are masked in a step; tau counts from 1."""
        return min(1.0, step / self.steps) if self.progressive else 1.0

    def _aim(self) -> None:
        """Put what the next draw needs where the device's kernels read it: no step waits for a copy from the host."""
        first = self.taken - self.taken % self._ahead
        if first != self._first_draw:
            steps = range(first + 1, first + 1 + self._ahead)
            rows = self._kernels.pack_draws([self.stream(s) for s in steps], [self._q(s) for s in steps])
            self._draws, self._first_draw = rows.to(self.view.device), first
        self._aimed.copy_(self._draws[self.taken - first])

    def advance(self) -> None:
        """Count a step, and let the device's kernels know."""
        super().advance()
        if self._kernels is not None:
            self._aim()

    def retreat(self) -> None:
        """Take a step back, and let the device's kernels know."""
        super().retreat()
        if self._kernels is not None:
            self._aim()

    def captured(self) -> Hashable | None:
        """Return the rates, settings and addresses that a step of plain SGD depends on; None for other optimisers."""
        sgd = plain_sgd(self.inner)
        if sgd is None or any(twin.narrow for twin in self.twins):
            return None
        places = tuple(getattr(self, name).data_ptr() for name in _VECTORS)
        return sgd, self._codec.mask, self.stochastic, self._follows_update, places

    def place(self, kept: dict[str, Tensor]) -> None:
        """Move the vectors of a captured step to where those of earlier clients were."""
        if self.captured() is None:
            return
        for name in _VECTORS:
            vector = getattr(self, name)
            if name not in kept or kept[name].shape != vector.shape:
                kept[name] = torch.empty_like(vector)
            setattr(self, name, kept[name].copy_(vector))
        for twin in self.coded:
            shape, where = twin.shown.shape, twin.where  # all have 32 bits here: weights are in flat order
            twin.move_to(self.moved[where].view(shape), self.weights[where].view(shape))

    def codecs(self) -> dict[Group, Codec]:
        """Return the codec that was asked for, around the mask of this rule."""
        return {Group.CODED: self._asked}
