"""Training through a code: the forward sees coded weights, the optimiser moves what is behind them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

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

    A subclass says what the optimiser moves (`u`), how weights come from it (`draw`), and what is handed over.
    """

    def begin(self) -> None:
        """Set up u, the buffer of weights, and what the codec needs; draw the first weights."""
        self.base = torch.from_numpy(self.received[: self.size]).to(self.view.device)
        self.u, self.weights = torch.zeros_like(self.base), self.base.clone()
        specs = zip(self.view.tensors, self.view.layout.tensors, self.view.layout.slices.values(), strict=True)
        self.coded = [(t, where) for t, spec, where in specs if spec.group is Group.CODED]
        template = self.broadcast.select(Role.TEMPLATE, Group.CODED)
        self.prepare(None if template is None else codec_from(template.codec, template.params))
        _check_optimizer(self.inner, [t for t, _ in self.coded])
        self.show(self.weights)
        self.draw()

    def show(self, vector: Tensor) -> None:
        """Make the coded parameters views of this vector."""
        for tensor, where in self.coded:
            tensor.data = vector[where].view(tensor.shape)

    def prepare(self, codec: Codec | None) -> None:
        """Look at the codec that the broadcast asks for, and set up."""
        raise NotImplementedError

    def draw(self) -> None:
        """Put the weights of the next step into the buffer."""
        raise NotImplementedError

    def adapt_gradients(self) -> None:
        """Turn the gradients of the weights into those of `u`; straight through, they are the same."""

    def handed_over(self) -> F32:
        """Return the coded part of the update."""
        return self.u.cpu().numpy()

    def undiced_weights(self) -> Tensor:
        """The weights that the mean of many draws leads to; by default those of the next step."""
        return self.weights

    @contextmanager
    def undiced(self) -> Iterator[None]:
        """Put `undiced_weights` into the model."""
        with torch.no_grad():
            self.weights.copy_(self.undiced_weights())
            try:
                yield
            finally:
                self.draw()  # the same draw: it is a function of the step

    def final_weights(self, frame: Frame) -> F32:
        """Return the weights that the model is left with: as the server will see them."""
        return self.received[: self.size] + self.decoded(frame)

    def device_step(self) -> None:
        """Let the optimiser move u, and draw the next weights."""
        # The inner optimiser sees u in place of the weights, so that momentum, Adam and schedulers mean what they say.
        self.adapt_gradients()
        self.show(self.u)
        try:
            self.inner.step()
        finally:
            self.show(self.weights)
        self.draw()  # after the last step too: the model is never left at u, whatever is done before `finish`

    def update(self) -> F32:
        """Return what is handed over in the coded part, and the difference elsewhere."""
        vector = self.view.read() - self.received
        vector[: self.size] = self.handed_over()
        return vector

    @torch.no_grad()
    def release(self, frame: Frame) -> None:
        """Give the model ordinary parameters again, with the weights that the server will see."""
        final = torch.from_numpy(self.final_weights(frame)).to(self.view.device)
        for tensor, where in self.coded:
            tensor.data = final[where].view(tensor.shape).clone()

    def stream(self, step: int) -> Stream:
        """The client's own randomness for a step; steps count from 1."""
        return Stream(self.sampling_key, domain(Purpose.TRAIN_MASK, step))

    def uniform(self) -> Tensor:
        """Draws for the next step, in [0, 1)."""
        return torch.from_numpy(self.stream(self.taken + 1).uniform(0, self.size)).to(self.view.device)


def _check_optimizer(optimizer: torch.optim.Optimizer, coded: Iterable[Tensor]) -> None:
    coded_ids = {id(t) for t in coded}
    if isinstance(optimizer, torch.optim.ASGD):
        raise UnsupportedModelError(
            "ASGD decays what it moves, which is the update and not the weights; use SGD or Adam"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UnsupportedModelError("LBFGS needs a closure and cannot train through a mask; use SGD or Adam")
    if not any(id(p) in coded_ids for group in optimizer.param_groups for p in group["params"]):
        raise UnsupportedModelError(
            "the optimiser holds none of this model's coded parameters; make it from this model"
        )
    for group in optimizer.param_groups:
        if group.get("weight_decay") and any(id(p) in coded_ids for p in group["params"]):
            raise UnsupportedModelError(
                "weight decay would shrink the update, not the weights: set it to 0 and put an L2 term in the loss"
            )
