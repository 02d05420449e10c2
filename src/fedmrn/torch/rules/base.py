"""Local rules as optimiser wrappers: an existing training loop keeps its shape.

    opt = attach(model, torch.optim.AdamW(model.parameters()), broadcast, steps=S)
    for x, y in batches:                        # S steps
        opt.zero_grad(); loss(model(x), y).backward(); opt.step()
    opt.refresh_statistics(x for x, _ in batches)  # with batch norm: what is sent of it is of the weights that are sent
    frame = opt.finish(weight=samples)

The inner optimiser moves the weights that it would move in plain training. Rules that train through a code keep those
beside what the model computes with: before each forward the parameters hold coded weights, and the backward leaves
their gradient, which goes straight through to what is moved. So decay, schedulers, clipping, hooks and closures mean
what they mean without the wrapper, whatever the optimiser. After `finish` the model is an ordinary model again.

Refused by name: optimisers that search along a line (LBFGS), that hand over another average of the weights than the one
they move (ASGD), or that need sparse gradients (SparseAdam).
"""

import warnings
from collections.abc import Iterable, Iterator
from types import EllipsisType
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmrn.codecs import Codec, codec_from
from fedmrn.errors import ConfigError, UnsupportedModelError
from fedmrn.numerics.rng import fresh_key
from fedmrn.torch.calibration import Forward, calibrate
from fedmrn.torch.model_layout import Choose, ModelLayout, Variances, default_choice
from fedmrn.torch.ranks import Ranks
from fedmrn.torch.rules.optimizers import check_holds
from fedmrn.torch.rules.steps import Optimizers, Steps
from fedmrn.torch.rules.twins import Twin
from fedmrn.whole import whole
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.held import Held
from fedmrn.wire.layout import Group
from fedmrn.wire.messages import check_templates, encode_update, read_state
from fedmrn.wire.variance import check_trained, log_change

F32 = NDArray[np.float32]


class LocalRule(Steps):
    """Plain local training: optimise the weights, hand over the difference (FedAvg, post-training methods).

    Args:
        model: any module; it is set to the broadcast's state.
        optimizer: over this model's parameters; or several, whose wrappers are then in `optimizers`.
        broadcast: what the server sent, as bytes or parsed.
        steps: S, the number of local steps, at least 1; of all optimisers together.
        sampling_key: the client's own 64-bit key; by default from the operating system's entropy. Only a
            simulation, which must repeat itself, passes one: whoever knows it learns more than the mask.
        choose, variances: as for `ModelLayout.of`; the server must use the same.
        memory: what `memory` was after this client's last round, for the rules that keep something; float32, shape
            (coded parameters,). None for a client without a past: such a rule wants to be told.
        held: what this client keeps of public models (`down = "grid"`); this broadcast's is put to it. Without it only
            whole models can be read, and the model must start as the run did where the server counts from that.

    Attributes:
        given_key: the sampling key that was passed; None where the operating system gave one.
        optimizers: the wrapper of each optimiser, in the order given; of a single one the rule itself.

    Parameters of fewer than 32 bits have float32 masters, which the optimiser moves; the model gets them rounded.

    Raises:
        ConfigError: steps is no whole number of at least 1.
        UnsupportedModelError: a tensor, an optimiser or an option that cannot be trained this way.
        FrameError: the broadcast is damaged or is for another model.
    """

    options: ClassVar[tuple[str, ...]] = ()
    """Names of the rule's own settings, beyond those of every rule."""
    remembers: ClassVar[bool] = False
    """Whether a client keeps `memory` from round to round."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizers,
        broadcast: Frame | bytes,
        *,
        steps: int,
        sampling_key: int | None = None,
        choose: Choose = default_choice,
        variances: Variances = (),
        memory: F32 | EllipsisType | None = ...,
        held: Held | None = None,
    ) -> None:
        steps = whole(steps, "steps, the number of local steps,")
        self.broadcast = broadcast if isinstance(broadcast, Frame) else Frame.from_bytes(broadcast)
        super().__init__(model, ModelLayout.of(model, choose, variances), optimizer)
        self.received = read_state(self.broadcast, self.view.layout, held, self.view.read)
        check_templates(self.broadcast, self.view.layout)
        self.steps = steps
        self.size = self.view.layout.span(Group.CODED).stop
        if self.remembers and isinstance(memory, EllipsisType):
            raise ConfigError(
                "this method's clients keep something: pass memory=None in a client's first round, and then what "
                "opt.memory was after its last one"
            )
        if isinstance(memory, EllipsisType):
            memory = None
        if memory is not None and (memory.shape != (self.size,) or memory.dtype != np.float32):
            raise ConfigError(f"a memory is float32 of shape ({self.size},), got {memory.dtype} {memory.shape}")
        self.memory = memory
        check_holds(self._inners, self.view.model)
        self.check()
        self._ranks = Ranks(model, self.view.device)
        self.given_key = sampling_key
        self.sampling_key = self._ranks.first_key(fresh_key() if sampling_key is None else sampling_key)
        with torch.inference_mode(mode=False):  # what is made here is trained, whatever surrounds the call
            self.view.write(self.received)  # the first change to the model: whatever can be refused was
            self.take_hold()
            self.twins = self.make_twins()
            self.begin()
        self._sealed = True

    def check(self) -> None:
        """Refuse what the rule cannot train, before the model is changed."""

    def begin(self) -> None:
        """Prepare local training, once the model holds the broadcast's state."""

    def make_twins(self) -> tuple[Twin, ...]:
        """Return the parameters of which the optimiser sees another tensor than the model."""
        return self.masters()

    def masters(self, first: int = 0) -> tuple[Twin, ...]:
        """Return float32 masters of the parameters from this place on that have fewer bits."""
        layout, start, twins = self.view.layout, torch.from_numpy(self.received), []
        for spec, tensor, where in zip(layout.tensors, self.view.tensors, layout.slices.values(), strict=True):
            if isinstance(tensor, nn.Parameter) and tensor.dtype != torch.float32 and where.start >= first:
                master = start[where].view(tensor.shape).to(tensor.device, copy=True)
                twins.append(Twin(spec.name, tensor, where, master, tensor.data.contiguous()))
        return tuple(twins)

    def codecs(self) -> dict[Group, Codec]:
        """The codecs to use in place of the templates'."""
        return {}

    def update(self) -> F32:
        """Return what this client hands over, float32, shape (layout.size,); `finish` puts in the variances' part."""
        vector = self.view.read()
        for twin in self.twins:
            vector[twin.where] = twin.moved.reshape(-1).cpu().numpy()
        vector -= self.received
        return vector

    def refresh_statistics(self, batches: Iterable[Any], forward: Forward | None = None) -> None:
        """Compute the running statistics of normalisation layers anew; once, after the last step.

        They are then those of the weights that training led to, without the dice of this client's own mask, of which
        the mean over clients has little. `train_client` does it; in a loop of one's own it is a line before `finish`:
        `opt.refresh_statistics(x for x, _ in loader)`. A model without such layers runs nothing.

        Args:
            batches, forward: as for `fedmrn.torch.calibrate`.

        Raises:
            ConfigError: after `finish`, or there is no batch.
            EncodeError: statistics are not finite.
        """
        self._check_open()
        with self.undiced():
            calibrate(self.model, batches, forward=forward)

    def finish(self, *, weight: int) -> Frame:
        """Return the update frame and give the model back.

        After training through a mask it holds w + n * mask, as the server will see it; otherwise the trained weights.

        Args:
            weight: of this client in the mean: samples or batches, 1 to 2^64 - 1, of any integer type.

        Raises:
            EncodeError: the update is not finite, a running variance is negative, or the weight is no whole number in
                its range.
            ConfigError: if called twice.
        """
        if self.finished:
            raise ConfigError("finish was called already")
        self.look()
        self.guard.check_contents()
        self.check_contents()
        if self.taken != self.steps:
            fault = "local training was not done to its end"
            if self.taken > self.steps:
                fault = f"masks grow with the steps that attach is told of: attach(..., steps={self.taken})"
            warnings.warn(f"finish() after {self.taken} of {self.steps} steps: {fault}", stacklevel=2)
        frame = encode_update(
            self.broadcast,
            self.view.layout,
            self._with_variances(self.update()),
            weight=weight,
            sampling_key=self.sampling_key,
            codecs=self.codecs(),
            state=self.received,
        )
        frame = self._ranks.first_frame(frame)
        self.finished = True
        with torch.inference_mode(mode=False):
            self.release(frame)
            self._ranks.share(self._uncoded())
        self.let_go()
        return frame

    def _uncoded(self) -> Iterator[Tensor]:
        for tensor, spec in zip(self.view.tensors, self.view.layout.tensors, strict=True):
            if spec.group is not Group.CODED:
                yield tensor

    def _with_variances(self, vector: F32) -> F32:
        """Put the change of the running variances' logarithms into what any rule hands over."""
        where = self.view.layout.span(Group.VARIANCE)
        if where.start < where.stop:
            after = self.view.read(Group.VARIANCE)
            check_trained(self.view.layout, after)
            vector[where] = log_change(self.received[where], after)
        return vector

    def check_contents(self) -> None:
        """See what was done since the last step in ways that `look` cannot see."""

    def release(self, frame: Frame) -> None:
        """Give the model back."""

    def decoded(self, frame: Frame, group: Group = Group.CODED) -> F32:
        """Return a group's part of this client's frame as the server will read it: float32, shape (its elements,)."""
        section = frame.select(Role.UPDATE, group)
        if section is None:
            raise UnsupportedModelError(f"the broadcast asked for no section of group {group.name.lower()}")
        codec = codec_from(section.codec, section.params)
        codec = codec.bind(self.received[self.view.layout.span(group)])
        return codec.decode(section.body, section.count, frame.noise_key)
