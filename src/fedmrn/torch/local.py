"""Local rules as optimiser wrappers: an existing training loop keeps its shape.

    opt = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), broadcast, steps=S)
    for x, y in batches:                        # S steps
        opt.zero_grad(); loss(model(x), y).backward(); opt.step()
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
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Never

import numpy as np
import torch
from torch import Tensor, nn

from fedmrn.codecs import Codec, codec_from
from fedmrn.codecs import MaskedNoise as MaskedNoiseCodec
from fedmrn.errors import ConfigError, UnsupportedModelError
from fedmrn.frame import Frame, Role
from fedmrn.layout import Group
from fedmrn.masking import progressive_weights
from fedmrn.rng import Purpose, Stream, domain, fresh_key
from fedmrn.torch.flat import Choose, ModelLayout, default_choice
from fedmrn.update import encode_update, read_state


class LocalRule(torch.optim.Optimizer):
    """Plain local training: optimise the weights, hand over the difference (FedAvg, post-training methods).

    Args:
        model: any module; it is set to the broadcast's state.
        optimizer: over this model's parameters.
        broadcast: what the server sent, as bytes or parsed.
        steps: S, the number of local steps, at least 1.
        sampling_key: the client's own 64-bit key; by default from the operating system's entropy. Only a
            simulation, which must repeat itself, passes one: whoever knows it learns more than the mask.
        choose: which parameters are coded; the server must use the same rule.

    Raises:
        ConfigError: steps is below 1.
        UnsupportedModelError: a tensor, an optimiser or an option that cannot be trained this way.
        FrameError: the broadcast is damaged or is for another model.
    """

    options: ClassVar[tuple[str, ...]] = ()
    """Names of the rule's own settings, beyond those of every rule."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        broadcast: Frame | bytes,
        *,
        steps: int,
        sampling_key: int | None = None,
        choose: Choose = default_choice,
    ) -> None:
        if steps < 1:
            raise ConfigError(f"steps is the number of local steps, at least 1; got {steps}")
        self.broadcast = broadcast if isinstance(broadcast, Frame) else Frame.from_bytes(broadcast)
        self.view = ModelLayout.of(model, choose)
        self._state = read_state(self.broadcast, self.view.layout)
        self.view.write(self._state)
        self.inner, self.steps, self.taken = optimizer, steps, 0
        self.sampling_key = fresh_key() if sampling_key is None else sampling_key
        self._finished = False
        self._begin()

    def _begin(self) -> None:
        """Prepare; the model holds the broadcast's state."""

    def _codecs(self) -> dict[Group, Codec]:
        """The codecs to use in place of the templates'."""
        return {}

    def _step(self) -> None:
        self.inner.step()

    def _update(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return what this client hands over, float32, shape (layout.size,)."""
        return self.view.read() - self._state

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one local step with the gradients that `backward` left.

        Raises:
            UnsupportedModelError: if a closure is given.
            ConfigError: after `finish`.
        """
        if closure is not None:
            raise UnsupportedModelError("optimisers that need a closure (LBFGS) cannot train through a mask")
        if self._finished:
            raise ConfigError("this client has finished; attach again for the next round")
        self.taken += 1
        self._step()

    def finish(self, *, weight: int) -> Frame:
        """Return the update frame and give the model back.

        After training through a mask it holds w + n * mask, as the server will see it; otherwise the trained weights.

        Args:
            weight: of this client in the mean (samples, or batches), a positive integer.

        Raises:
            EncodeError: the update is not finite, or the weight is not positive.
            ConfigError: if called twice.
        """
        if self._finished:
            raise ConfigError("finish was called already")
        if self.taken < self.steps:
            warnings.warn(
                f"finish() after {self.taken} of {self.steps} steps: the mask was not learned to its end",
                stacklevel=2,
            )
        frame = encode_update(
            self.broadcast,
            self.view.layout,
            self._update(),
            weight=weight,
            sampling_key=self.sampling_key,
            codecs=self._codecs(),
        )
        self._finished = True
        self._release(frame)
        return frame

    def _release(self, frame: Frame) -> None:
        """Give the model back."""

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
        """A client's local training is not saved half-way.

        Raises:
            UnsupportedModelError: always; so do `load_state_dict`, copying and pickling.
        """
        raise UnsupportedModelError("local training is repeated from its broadcast, never saved half-way or copied")

    def load_state_dict(self, state_dict: object) -> Never:
        """See `state_dict`."""
        self.state_dict()

    def __reduce_ex__(self, protocol: object) -> Never:
        self.state_dict()


class MaskedNoise(LocalRule):
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

    def _begin(self) -> None:
        template = self.broadcast.select(Role.TEMPLATE, Group.CODED)
        codec = None if template is None else codec_from(template.codec, template.params)
        if not isinstance(codec, MaskedNoiseCodec):
            raise UnsupportedModelError("this broadcast does not ask for masked noise")
        self._codec = MaskedNoiseCodec(codec.noise, codec.mask, self.stochastic)
        size = self.view.layout.span(Group.CODED).stop
        self._noise = codec.noise.chunk(self.broadcast.noise_key, 0, size)
        self._base = self._state[:size]
        self._u = torch.zeros(size)
        self._weights = torch.from_numpy(self._base.copy())
        specs = zip(self.view.tensors, self.view.layout.tensors, self.view.layout.slices.values(), strict=True)
        self._coded = [(t, where) for t, spec, where in specs if spec.group is Group.CODED]
        _check_optimizer(self.inner, [t for t, _ in self._coded])
        for tensor, where in self._coded:
            tensor.data = self._weights[where].view(tensor.shape)
        self._draw()

    def _draw(self) -> None:
        """Put w + PSM(u) into the model for the next step; tau counts from 1."""
        tau = self.taken + 1
        progressive_weights(
            self._u.numpy(),
            self._noise,
            self._base,
            min(1.0, tau / self.steps) if self.progressive else 1.0,
            Stream(self.sampling_key, domain(Purpose.TRAIN_MASK, tau)),
            self._codec.mask,
            self._weights.numpy(),
            stochastic=self.stochastic,
        )

    def _step(self) -> None:
        # The inner optimiser sees u in place of the weights, so that momentum, Adam and schedulers mean what they say.
        self._weights.copy_(self._u)
        self.inner.step()
        self._u.copy_(self._weights)
        self._draw()  # after the last step too: the model is never left at u, whatever is done before `finish`

    def _codecs(self) -> dict[Group, Codec]:
        return {Group.CODED: self._codec}

    def _update(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        vector = self.view.read() - self._state
        vector[: self._u.numel()] = self._u.numpy()
        return vector

    @torch.no_grad()
    def _release(self, frame: Frame) -> None:
        section = frame.select(Role.UPDATE, Group.CODED)
        if section is None:
            raise UnsupportedModelError("the broadcast asked for no coded section")
        masked = self._codec.decode(section.body, section.count, frame.noise_key)
        final = torch.from_numpy(self._base + masked)
        for tensor, where in self._coded:
            tensor.data = final[where].view(tensor.shape).clone()


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
