"""Training through a code: the forward sees coded weights, the optimiser moves what is behind them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from fedmrn.codecs import Codec, codec_from
from fedmrn.errors import UnsupportedModelError
from fedmrn.numerics.masking import fingerprint
from fedmrn.numerics.rng import Purpose, Stream, domain
from fedmrn.torch.rules.base import F32, LocalRule
from fedmrn.torch.rules.twins import Twin
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group


class Through(LocalRule):
    """While attached, the coded parameters hold coded weights, drawn anew for each step.

    A subclass says how weights come from what the optimiser moves (`draw`), and what is handed over.

    Attributes:
        base: the weights that were received, w: float32, shape (size,).
        moved: what the optimiser moves, of the same shape: by default w + u, the weights of plain training.
        weights: the coded weights of the parameters of 32 bits, in flat order.
        coded: the twins of the coded parameters.
    """

    def check(self) -> None:
        """Refuse a broadcast that asks for another codec, and an optimiser of another model."""
        template = self.broadcast.select(Role.TEMPLATE, Group.CODED)
        self.read_codec(None if template is None else codec_from(template.codec, template.params))
        pairs = zip(self.view.layout.tensors, self.view.tensors, strict=True)
        _check_holds(self.inner, [tensor for spec, tensor in pairs if spec.group is Group.CODED])

    def make_twins(self) -> tuple[Twin, ...]:
        """Set up what is moved and the buffer of weights; return the coded parameters, and others of fewer bits."""
        self.base = torch.from_numpy(self.received[: self.size]).to(self.view.device)
        self.moved = self.base.clone()
        self.coded, self.dense = self._coded_twins(), self.masters(self.size)
        return (*self.coded, *self.dense)

    def begin(self) -> None:
        """Set up what the codec needs, and draw the first weights."""
        self.prepare()
        self.draw()

    def _coded_twins(self) -> tuple[Twin, ...]:
        """Make the coded parameters views of the buffer of weights, where they have 32 bits."""
        names = [spec.name for spec in self.view.layout.tensors if spec.group is Group.CODED]
        coded = list(zip(names, self.view.tensors, self.view.layout.slices.values(), strict=False))
        self.weights = self.base.new_empty(sum(t.numel() for _, t, _ in coded if t.dtype == torch.float32))
        twins, start = [], 0
        for name, tensor, where in coded:
            shown = tensor.data.contiguous()
            if tensor.dtype == torch.float32:
                shown = self.weights[start : start + tensor.numel()].view(tensor.shape)
                start += tensor.numel()
            twins.append(Twin(name, tensor, where, self.moved[where].view(tensor.shape), shown))
        return tuple(twins)

    @property
    def u(self) -> Tensor:
        """The update: how far the optimiser has moved the weights, float32, shape (size,)."""
        return self.moved - self.base

    def read_codec(self, codec: Codec | None) -> None:
        """Note what the codec that the broadcast asks for says, before anything is changed.

        Raises:
            UnsupportedModelError: it is none that this rule trains for.
        """
        raise NotImplementedError

    def prepare(self) -> None:
        """Set up what the codec needs."""
        raise NotImplementedError

    def draw(self) -> None:
        """Put the weights of the next step into the model, and note them (`note`)."""
        raise NotImplementedError

    def drawn(self, twin: Twin) -> Tensor:
        """Return the weights that were drawn last; of a parameter that is not coded, what is moved."""
        return self.drawn_code(twin) if self.is_coded(twin) else super().drawn(twin)

    def drawn_code(self, twin: Twin) -> Tensor:
        """Return the weights of a coded parameter that were drawn last, of the shape and dtype that the model has."""
        raise NotImplementedError

    def is_coded(self, twin: Twin) -> bool:
        """Whether a parameter is coded; coded ones come first in the flat order."""
        return bool(twin.where.stop <= self.size)

    def put(self, weights: Tensor) -> None:
        """Put weights into the model, those of `own`: float32, shape (size,)."""
        for twin in self.own_coded():
            twin.shown.copy_(weights[twin.where].view(twin.shown.shape))

    def own_coded(self) -> Sequence[Twin]:
        """The coded parameters that are drawn anew."""
        return self.coded if self._own is None else [twin for twin in self._own if self.is_coded(twin)]

    def renewed(self, old: Tensor, new: Tensor) -> Tensor:
        """Return what belongs to the weights that are drawn now, shape (size,): the old of what is not drawn anew."""
        if self._own is None or old.shape != new.shape:
            return new
        for twin in self.own_coded():
            old[twin.where] = new[twin.where]
        return old

    @torch.no_grad()
    def note(self) -> None:
        """Note the weights that were drawn, so that edits are seen; and round what has fewer bits and is not coded."""
        own = {id(twin) for twin in self.own}
        for twin in self.dense:
            if id(twin) in own:
                twin.shown.copy_(twin.moved)
                twin.redrawn()
                twin.note()
        self._drawn = self._print()
        for twin in self.own_coded():
            twin.redrawn()
            if twin.narrow or self.weights.device.type != "cpu":
                twin.note()

    def written_whole(self) -> list[Twin]:
        """Return the parameters all of whose elements were written to: loaded, or set to the broadcast's weights."""
        return super().written_whole() + self.unless_as_drawn([twin for twin in self.coded if self._is_back(twin)])

    def _is_back(self, twin: Twin) -> bool:
        received = self.base[twin.where].view(twin.shown.shape)
        return torch.equal(twin.shown, received.to(twin.shown.dtype))

    def _print(self) -> int:
        return fingerprint(self.weights.numpy()) if self.weights.device.type == "cpu" else 0

    def edited(self) -> Iterable[Twin]:
        """Yield each twin whose weights somebody may have written to since they were drawn."""
        apart = self.weights.device.type != "cpu"
        yield from (twin for twin in self.twins if (twin.narrow or apart) and twin.changed())
        if self._print() != self._drawn:
            yield from (twin for twin in self.coded if not twin.narrow)

    def handed_over(self) -> F32:
        """Return the coded part of the update."""
        return self.u.cpu().numpy()

    def final_weights(self, frame: Frame) -> F32:
        """Return the weights that the model is left with: as the server will see them."""
        return self.received[: self.size] + self.decoded(frame)

    def update(self) -> F32:
        """Return what is handed over in the coded part, and the difference elsewhere."""
        vector = super().update()
        vector[: self.size] = self.handed_over()
        return vector

    def check_contents(self) -> None:
        """Take over what was written into the model since the last step in ways that `look` cannot see."""
        if self.weights.device.type != "cpu":
            for twin in self.twins:
                self.take_over(twin)

    @torch.no_grad()
    def release(self, frame: Frame) -> None:
        """Give the model ordinary parameters again, with the weights that the server will see."""
        final = torch.from_numpy(self.final_weights(frame)).to(self.view.device)
        for twin in self.coded:
            twin.tensor.data = final[twin.where].view(twin.tensor.shape).to(twin.shown.dtype, copy=True)
        layout, vector = self.view.layout, self.received.copy()
        for group in (Group.DENSE, Group.STATS):
            where = layout.span(group)
            if where.start < where.stop:
                vector[where] += self.decoded(frame, group)
        for spec, tensor, where in zip(layout.tensors, self.view.tensors, layout.slices.values(), strict=True):
            if spec.group in {Group.DENSE, Group.STATS}:
                tensor.copy_(torch.from_numpy(vector[where]).view(tensor.shape))

    @contextmanager
    def undiced(self) -> Iterator[None]:
        """Let the model hold the weights that it is trained to, without the dice of the code."""
        self.look()
        self.put_undiced()
        try:
            yield
        finally:
            self.draw()

    def put_undiced(self) -> None:
        """Put the weights without dice into the model."""
        self.put(self.moved)

    def stream(self, step: int) -> Stream:
        """The client's own randomness for a step; steps count from 1."""
        return Stream(self.sampling_key, domain(Purpose.TRAIN_MASK, step))

    def uniform(self) -> Tensor:
        """Draws for the next step, in [0, 1)."""
        return torch.from_numpy(self.stream(self.taken + 1).uniform(0, self.size)).to(self.view.device)


def _check_holds(optimizer: torch.optim.Optimizer, coded: Iterable[Tensor]) -> None:
    coded_ids = {id(t) for t in coded}
    if not any(id(p) in coded_ids for group in optimizer.param_groups for p in group["params"]):
        raise UnsupportedModelError(
            "the optimiser holds none of this model's coded parameters: make it from this model, or name those that it "
            "holds in choose=Selection(coded=[...]), on the server too, where they travel as floats by default"
        )
