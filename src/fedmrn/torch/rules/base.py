"""Local rules as optimiser wrappers: an existing training loop keeps its shape.

    opt = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), broadcast, steps=S)
    for x, y in batches:                        # S steps
        opt.zero_grad(); loss(model(x), y).backward(); opt.step()
    opt.refresh_statistics(x for x, _ in batches)  # with batch norm: what is sent of it is of the weights that are sent
    frame = opt.finish(weight=samples)

While attached, the coded parameters are views of one flat buffer. For masked noise that buffer holds w + PSM(u) before
each forward; the ordinary backward leaves dL/dw there, which *is* the straight-through gradient for u. `step` lets the
inner optimiser move u and draws the next masked weights. After `finish` the model is an ordinary model again.

Supported: element-wise torch optimisers (SGD with or without momentum, Adam and its like), learning-rate schedulers,
gradient clipping between `backward` and `step`, and `torch.amp.GradScaler` (it unscales the gradients through this
wrapper; a step that it skips is not taken). Refused: weight decay on coded parameters (it would shrink u, not the
weights; put an L2 term into the loss), and closures.
"""

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from types import EllipsisType
from typing import Any, ClassVar, Never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmrn.codecs import Codec, codec_from
from fedmrn.errors import ConfigError, UnsupportedModelError
from fedmrn.numerics.rng import fresh_key
from fedmrn.torch.calibration import Forward, calibrate
from fedmrn.torch.fast.fused import plain_sgd
from fedmrn.torch.model_layout import Choose, ModelLayout, Variances, default_choice
from fedmrn.whole import whole
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group
from fedmrn.wire.messages import check_templates, encode_update, read_state
from fedmrn.wire.variance import check_trained, log_change

F32 = NDArray[np.float32]


class LocalRule(torch.optim.Optimizer):
    """Plain local training: optimise the weights, hand over the difference (FedAvg, post-training methods).

    Args:
        model: any module; it is set to the broadcast's state.
        optimizer: over this model's parameters.
        broadcast: what the server sent, as bytes or parsed.
        steps: S, the number of local steps, at least 1.
        sampling_key: the client's own 64-bit key; by default from the operating system's entropy. Only a
            simulation, which must repeat itself, passes one: whoever knows it learns more than the mask.
        choose, variances: as for `ModelLayout.of`; the server must use the same.
        memory: what `memory` was after this client's last round, for the rules that keep something; float32, shape
            (coded parameters,). None for a client without a past: such a rule wants to be told.

    Raises:
        ConfigError: steps is no whole number of at least 1.
        UnsupportedModelError: a tensor, an optimiser or an option that cannot be trained this way.
        FrameError: the broadcast is damaged or is for another model.
    """

    options: ClassVar[tuple[str, ...]] = ()
    """Names of the rule's own settings, beyond those of every rule."""
    remembers: ClassVar[bool] = False
    """Whether a client keeps `memory` from round to round."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "device_step" in vars(cls) and "captured" not in vars(cls):
            cls.captured = _never  # type: ignore[assignment, method-assign]

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        broadcast: Frame | bytes,
        *,
        steps: int,
        sampling_key: int | None = None,
        choose: Choose = default_choice,
        variances: Variances = (),
        memory: F32 | EllipsisType | None = ...,
    ) -> None:
        steps = whole(steps, "steps, the number of local steps,")
        self.broadcast = broadcast if isinstance(broadcast, Frame) else Frame.from_bytes(broadcast)
        self._model, self.view = model, ModelLayout.of(model, choose, variances)
        self.received = read_state(self.broadcast, self.view.layout)
        check_templates(self.broadcast, self.view.layout)
        self.inner, self.steps, self.taken = optimizer, steps, 0
        self.sampling_key = fresh_key() if sampling_key is None else sampling_key
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
        self._finished = False
        self.view.write(self.received)  # the first change to the model: whatever can be refused was
        self.begin()

    def begin(self) -> None:
        """Prepare local training, once the model holds the broadcast's state."""

    def codecs(self) -> dict[Group, Codec]:
        """The codecs to use in place of the templates'."""
        return {}

    def device_step(self) -> None:
        """Do what the device does in a step; where `captured` allows it, replayed in place of a call."""
        self.inner.step()

    def update(self) -> F32:
        """Return what this client hands over, float32, shape (layout.size,); `finish` puts in the variances' part."""
        return self.view.read() - self.received

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one local step with the gradients that `backward` left.

        Raises:
            UnsupportedModelError: if a closure is given.
            ConfigError: after `finish`.
        """
        if closure is not None:
            raise UnsupportedModelError("optimisers that need a closure (LBFGS) cannot train through a mask")
        self.advance()
        self.device_step()

    def advance(self) -> None:
        """Count a step: what `step` does before `device_step`, and a captured step before it is replayed.

        Raises:
            ConfigError: after `finish`.
        """
        self._check_open()
        self.taken += 1

    def captured(self) -> Hashable | None:
        """Return what a captured `device_step` depends on (rates, addresses), or None if it must not be captured.

        A subclass with a `device_step` of its own answers for it beside it; one that does not is never captured.
        """
        return plain_sgd(self.inner)

    def place(self, kept: dict[str, Tensor]) -> None:
        """Move what a captured `device_step` uses, beside the model's tensors, to where it was for earlier clients.

        `kept` holds their memory by name; what it lacks is added.
        """

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
            calibrate(self._model, batches, forward=forward)

    @contextmanager
    def undiced(self) -> Iterator[None]:
        """Put the weights that the update stands for into the model, without a draw of its own: here, those trained."""
        yield

    def _check_open(self) -> None:
        if self._finished:
            raise ConfigError("this client has finished; attach again for the next round")

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
        if self._finished:
            raise ConfigError("finish was called already")
        if self.taken < self.steps:
            warnings.warn(
                f"finish() after {self.taken} of {self.steps} steps: local training was not done to its end",
                stacklevel=2,
            )
        frame = encode_update(
            self.broadcast,
            self.view.layout,
            self._with_variances(self.update()),
            weight=weight,
            sampling_key=self.sampling_key,
            codecs=self.codecs(),
            state=self.received,
        )
        self._finished = True
        self.release(frame)
        return frame

    def _with_variances(self, vector: F32) -> F32:
        """Put the change of the running variances' logarithms into what any rule hands over."""
        where = self.view.layout.span(Group.VARIANCE)
        if where.start < where.stop:
            after = self.view.read(Group.VARIANCE)
            check_trained(self.view.layout, after)
            vector[where] = log_change(self.received[where], after)
        return vector

    def release(self, frame: Frame) -> None:
        """Give the model back."""

    def decoded(self, frame: Frame) -> F32:
        """Return the coded part of this client's frame as the server will read it."""
        section = frame.select(Role.UPDATE, Group.CODED)
        if section is None:
            raise UnsupportedModelError("the broadcast asked for no coded section")
        codec = codec_from(section.codec, section.params)
        codec = codec.bind(self.received[: self.size])
        return codec.decode(section.body, section.count, frame.noise_key)

    # What torch expects of an optimiser, passed on to the inner one: schedulers and zero_grad work unchanged.

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The inner optimiser's parameter groups."""
        return self.inner.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The inner optimiser's state."""
        return self.inner.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The inner optimiser's defaults."""
        return self.inner.defaults

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, as torch does."""
        self.inner.zero_grad(set_to_none)

    def state_dict(self) -> Never:
        """Refuse to save a client's local training half-way.

        Raises:
            UnsupportedModelError: always; so do `load_state_dict`, copying and pickling.
        """
        raise UnsupportedModelError("local training is repeated from its broadcast, never saved half-way or copied")

    def load_state_dict(self, state_dict: object) -> Never:
        """Refuse, as `state_dict` does."""
        self.state_dict()

    def __reduce_ex__(self, protocol: object) -> Never:
        self.state_dict()


def _never(_: LocalRule) -> None:
    """Say of a rule that its steps are not captured."""
