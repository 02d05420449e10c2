"""Training through a code: the forward sees coded weights, the optimiser moves what is behind them."""

from collections.abc import Iterable

import torch
from torch import Tensor

from fedmrn.codecs import Codec, codec_from
from fedmrn.errors import UnsupportedModelError
from fedmrn.numerics.rng import Purpose, Stream, domain
from fedmrn.torch.rules.base import F32, LocalRule
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group


class Through(LocalRule):
    """While attached, the coded parameters are views of one flat buffer of coded weights, drawn anew for each step.

    A subclass says what the optimiser moves (`_u`), how weights come from it (`_draw`), and what is handed over.
    """

    def _begin(self) -> None:
        self._base = torch.from_numpy(self._state[: self._size]).to(self.view.device)
        self._u, self._weights = torch.zeros_like(self._base), self._base.clone()
        specs = zip(self.view.tensors, self.view.layout.tensors, self.view.layout.slices.values(), strict=True)
        self._coded = [(t, where) for t, spec, where in specs if spec.group is Group.CODED]
        template = self.broadcast.select(Role.TEMPLATE, Group.CODED)
        self._prepare(None if template is None else codec_from(template.codec, template.params))
        _check_optimizer(self.inner, [t for t, _ in self._coded])
        self._show(self._weights)
        self._draw()

    def _show(self, vector: Tensor) -> None:
        """Make the coded parameters views of this vector."""
        for tensor, where in self._coded:
            tensor.data = vector[where].view(tensor.shape)

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
        return self._u.cpu().numpy()

    def _final(self, frame: Frame) -> F32:
        """Return the weights that the model is left with: as the server will see them."""
        return self._state[: self._size] + self._decoded(frame)

    def _step(self) -> None:
        # The inner optimiser sees u in place of the weights, so that momentum, Adam and schedulers mean what they say.
        self._gradients()
        self._show(self._u)
        try:
            self.inner.step()
        finally:
            self._show(self._weights)
        self._draw()  # after the last step too: the model is never left at u, whatever is done before `finish`

    def _update(self) -> F32:
        vector = self.view.read() - self._state
        vector[: self._size] = self._handed_over()
        return vector

    @torch.no_grad()
    def _release(self, frame: Frame) -> None:
        final = torch.from_numpy(self._final(frame)).to(self.view.device)
        for tensor, where in self._coded:
            tensor.data = final[where].view(tensor.shape).clone()

    def _stream(self, step: int) -> Stream:
        """The client's own randomness for a step; steps count from 1."""
        return Stream(self.sampling_key, domain(Purpose.TRAIN_MASK, step))

    def _uniform(self) -> Tensor:
        """Draws for the next step, in [0, 1)."""
        return torch.from_numpy(self._stream(self.taken + 1).uniform(0, self._size)).to(self.view.device)


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
