"""Local rules as optimiser wrappers: an existing training loop keeps its shape.

    opt = attach(model, torch.optim.AdamW(model.parameters()), broadcast, steps=S)
    for x, y in batches:                        # S steps
        opt.zero_grad(); loss(model(x), y).backward(); opt.step()
    frame = opt.finish(weight=samples)

The inner optimiser moves the weights that it would move in plain training. Rules that train through a code keep those
beside what the model computes with: before each forward the parameters hold coded weights, and the backward leaves
their gradient, which goes straight through to what is moved. So decay, schedulers, clipping, hooks and closures mean
what they mean without the wrapper, whatever the optimiser. After `finish` the model is an ordinary model again.

Refused by name: optimisers that search along a line (LBFGS), that hand over another average of the weights than the one
they move (ASGD), or that need sparse gradients (SparseAdam).
"""

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import EllipsisType
from typing import Any, ClassVar
from weakref import ref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from fedmrn.codecs import Codec, codec_from
from fedmrn.errors import ConfigError, UnsupportedModelError
from fedmrn.numerics.rng import fresh_key
from fedmrn.torch.fast.fused import plain_sgd
from fedmrn.torch.model_layout import Choose, ModelLayout, Variances, default_choice
from fedmrn.torch.ranks import Ranks
from fedmrn.torch.rules.facade import Facade, Loss
from fedmrn.torch.rules.optimizers import Part, Together, check_optimizers, runs_closure_first, stepped
from fedmrn.torch.rules.twins import Twin, to_model, to_optimizer
from fedmrn.whole import whole
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group
from fedmrn.wire.messages import check_templates, encode_update, read_state
from fedmrn.wire.variance import check_trained, log_change

F32 = NDArray[np.float32]
Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]
"""One optimiser, or several over parts of one model."""
Closure = Callable[[], Loss]
_HOLDERS = WeakTensorKeyDictionary()
"""For each parameter the rule that was attached to it last."""


class LocalRule(Facade):
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

    Attributes:
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

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "device_step" in vars(cls) and "captured" not in vars(cls):
            cls.captured = _never  # type: ignore[assignment, method-assign]

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
    ) -> None:
        steps = whole(steps, "steps, the number of local steps,")
        self.broadcast = broadcast if isinstance(broadcast, Frame) else Frame.from_bytes(broadcast)
        self.model, self.view = model, ModelLayout.of(model, choose, variances)
        self.received = read_state(self.broadcast, self.view.layout)
        check_templates(self.broadcast, self.view.layout)
        self.steps, self.taken = steps, 0
        inners = check_optimizers(optimizer)
        super().__init__(inners[0] if len(inners) == 1 else Together(inners))
        self.optimizers: tuple[Facade, ...] = (self,) if len(inners) == 1 else tuple(Part(self, o) for o in inners)
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
        self._finished = self._superseded = False
        self.check()
        self._ranks = Ranks(model, self.view.device)
        self.sampling_key = self._ranks.first_key(fresh_key() if sampling_key is None else sampling_key)
        self.view.write(self.received)  # the first change to the model: whatever can be refused was
        self._take_hold()
        self.twins = self.make_twins()
        self.begin()

    def check(self) -> None:
        """Refuse what the rule cannot train, before the model is changed."""

    def begin(self) -> None:
        """Prepare local training, once the model holds the broadcast's state."""

    def _take_hold(self) -> None:
        """Make this the rule that trains the model; an earlier one trains it no more."""
        for tensor in self.view.tensors:
            holder = _HOLDERS.get(tensor, lambda: None)()
            if holder is not None:
                holder.give_way()
            _HOLDERS[tensor] = ref(self)

    def give_way(self) -> None:
        """Train this model no more: another rule was attached to it."""
        self._superseded = True

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

    def device_step(self, inner: torch.optim.Optimizer | None = None, closure: Closure | None = None) -> Loss:
        """Do what the device does in a step; where `captured` allows it, replayed in place of a call.

        Args:
            inner: the optimiser that moves; by default the only one.
            closure: computes loss and gradients, as for torch's optimisers; its loss is returned.
        """
        return self.move(self.inner if inner is None else inner, closure)

    def move(self, inner: torch.optim.Optimizer, closure: Closure | None) -> Loss:
        """Let an optimiser move what it moves, and draw the next weights from it."""
        if not self.twins:
            loss = inner.step() if closure is None else inner.step(closure)
            self.settle()
            return loss
        known = runs_closure_first(inner)

        def coded() -> Loss:
            """Compute the loss where the optimiser has moved to, with the weights that the model would have there."""
            nonlocal known
            to_model(self.twins)
            try:
                if not known:
                    self.draw()
                known = False  # from the second call on the optimiser may have moved
                with torch.enable_grad():
                    loss = closure() if closure is not None else None
                self.adapt_gradients()
            finally:
                to_optimizer(self.twins)
            return loss

        if closure is None:
            self.adapt_gradients()
        with self.moving():
            loss = inner.step() if closure is None else inner.step(coded)
        self.settle()
        self.draw()  # after the last step too: the model is never left at what was moved, whatever is done then
        return loss

    def settle(self) -> None:
        """Put right what an optimiser may have moved and the rule does not allow."""

    def adapt_gradients(self) -> None:
        """Turn gradients of the model's weights into those of what is moved: straight through, they are the same."""

    @torch.no_grad()
    def draw(self) -> None:
        """Put the weights of the next step into the model."""
        for twin in self.twins:
            twin.shown.copy_(twin.moved)
            twin.note()

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Let the parameters hold what the optimiser moves."""
        to_optimizer(self.twins)
        try:
            yield
        finally:
            to_model(self.twins)

    @contextmanager
    def undiced(self) -> Iterator[None]:
        """Let the model hold the weights that it is trained to, without the dice of a code."""
        yield

    def call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a method of an inner optimiser's own, such as the first step of SAM; it sees and moves what is moved.

        It counts as a local step where an optimiser of this model took one in it.
        """
        if self._finished:
            return method(*args, **options)
        self.look()
        self.adapt_gradients()
        with self.moving(), stepped(self.view.tensors) as found:
            result = method(*args, **options)
        if found:
            self.advance()
        self.settle()
        self.draw()
        return result

    def update(self) -> F32:
        """Return what this client hands over, float32, shape (layout.size,); `finish` puts in the variances' part."""
        vector = self.view.read()
        for twin in self.twins:
            vector[twin.where] = twin.moved.reshape(-1).cpu().numpy()
        return vector - self.received

    def step(self, closure: Closure | None = None) -> Loss:
        """Take one local step with the gradients that `backward` left, or that the closure makes; return its loss.

        Raises:
            ConfigError: after `finish`, or the rule has several optimisers.
            UnsupportedModelError: the model or its optimisers were changed in a way that cannot be trained on.
        """
        if len(self.optimizers) > 1:
            raise ConfigError("this client has several optimisers: step each of opt.optimizers")
        return self.step_of(self.inner, closure)

    def step_of(self, inner: torch.optim.Optimizer, closure: Closure | None = None) -> Loss:
        """Take one local step of one of the optimisers; as `step`."""
        self.look()
        self.advance()
        return self.device_step(inner, closure)

    def look(self) -> None:
        """See what was done to the model since the last step: put it right, take it over, or refuse it.

        Raises:
            ConfigError: after `finish`, or another rule was attached to the model.
            UnsupportedModelError: names the tensor that cannot be trained any more.
        """
        self._check_open()
        for twin in self.twins:
            twin.put_right()
        for twin in self.edited():
            self.take_over(twin)

    def edited(self) -> Iterable[Twin]:
        """Yield each twin whose weights somebody may have written to since they were drawn."""
        return (twin for twin in self.twins if twin.changed())

    def take_over(self, twin: Twin) -> None:
        """Take values that somebody wrote into the model for those that the optimiser goes on from."""
        written = twin.shown != self.drawn(twin)
        twin.moved.copy_(torch.where(written, twin.shown.to(torch.float32), twin.moved))

    def drawn(self, twin: Twin) -> Tensor:
        """Return the weights that were drawn last, of the shape and dtype that the model has."""
        return twin.moved.to(twin.shown.dtype)

    def _check_open(self) -> None:
        if self._finished:
            raise ConfigError("this client has finished; attach again for the next round")
        if self._superseded:
            raise ConfigError(
                "another attach took this model over, and this one trains it no more; where a model has several "
                "optimisers give them to one attach: attach(model, [first, second], ...), and step opt.optimizers"
            )

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
        usual = not self.twins and type(self).settle is LocalRule.settle
        return plain_sgd(self.inner) if usual else None

    def place(self, kept: dict[str, Tensor]) -> None:
        """Move what a captured `device_step` uses, beside the model's tensors, to where it was for earlier clients.

        `kept` holds their memory by name; what it lacks is added.
        """

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
        self.look()
        self.check_contents()
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
        frame = self._ranks.first_frame(frame)
        self._finished = True
        self.release(frame)
        self.twins = ()
        self._ranks.share(self._uncoded())
        for tensor in self.view.tensors:
            _HOLDERS.pop(tensor, None)
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


def _never(_: LocalRule) -> None:
    """Say of a rule that its steps are not captured."""
