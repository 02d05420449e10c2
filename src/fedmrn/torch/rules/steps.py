"""Local steps: what an optimiser moves, what the model computes with, and how the one becomes the other.

Where they differ, the parameters hold the model's tensors from step to step, and those that are moved while an inner
optimiser looks at them. A closure sees the model's again.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fedmrn.errors import ConfigError
from fedmrn.torch.fast.fused import plain_sgd
from fedmrn.torch.guard import Guard
from fedmrn.torch.internals import has_hooks, not_compiled
from fedmrn.torch.model_layout import ModelLayout
from fedmrn.torch.rules.dice import Diced
from fedmrn.torch.rules.facade import Facade, Loss
from fedmrn.torch.rules.optimizers import (
    Part,
    check_optimizers,
    runs_closure_first,
    stepped,
)
from fedmrn.torch.rules.twins import Twin, to_model, to_optimizer

Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]
"""One optimiser, or several over parts of one model."""
Closure = Callable[[], Loss]


class Steps(Diced):
    """An optimiser, or several, over a model whose weights are not always what it moves.

    Args:
        model: as the user has it.
        view: its tensors and their places.
        optimizer: over its parameters; or several.

    Attributes:
        optimizers: the wrapper of each optimiser, in the order given; of a single one the rule itself.
        guard: over what does not travel.
        finished: whether the update was made: the model is an ordinary one again.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "device_step" in vars(cls) and "captured" not in vars(cls):
            cls.captured = _never  # type: ignore[assignment, method-assign]

    def __init__(self, model: nn.Module, view: ModelLayout, optimizer: Optimizers) -> None:
        inners = check_optimizers(optimizer)
        super().__init__(inners, view)
        self._wrappers = () if len(inners) == 1 else tuple(Part(self, o) for o in inners)
        self.model = model
        self.guard = Guard(view)

    @property
    def optimizers(self) -> tuple[Facade, ...]:
        """The wrapper of each optimiser."""
        return self._wrappers or (self,)  # not kept: in a circle, a rule's vectors would wait for the garbage collector

    @not_compiled
    def step(self, closure: Closure | None = None, *args: Any, **options: Any) -> Loss:
        """Take one local step with the gradients that `backward` left, or that the closure makes; return its loss.

        Raises:
            ConfigError: after `finish`, or the rule has several optimisers.
            UnsupportedModelError: the model or its optimisers were changed in a way that cannot be trained on.
        """
        if self._wrappers:
            raise ConfigError("this client has several optimisers: step each of opt.optimizers")
        return self.step_of(self.inner, closure, *args, **options)

    def step_of(self, inner: torch.optim.Optimizer, closure: Closure | None = None, *args: Any, **options: Any) -> Loss:
        """Take a local step of one of the optimisers; as `step`. Further arguments are its own."""
        self.look()
        with self.drawing_for(inner):
            self.advance()
            try:
                if args or options:
                    return self.move(inner, closure, args, options)
                return self.device_step(inner, closure)
            except BaseException:
                self.retreat()  # the weights in the model are those of the step that was not taken
                self.draw()  # from where the optimiser has moved to: a hook may have failed after it moved
                raise

    def look(self) -> None:
        """See what was done to the model since the last step: put it right, take it over, or refuse it.

        Raises:
            ConfigError: after `finish`, or another rule was attached to the model.
            UnsupportedModelError: names the tensor that cannot be trained any more.
        """
        self._check_open()
        self.guard.check()
        for twin in self.twins:
            twin.put_right()
        self._take_over_all(self.edited())

    def _take_over_all(self, edited: Iterable[Twin]) -> None:
        found = {id(twin): twin for twin in edited}
        whole = {id(twin): twin for twin in self.written_whole()} if found else {}
        for key, twin in (found | whole).items():
            self.take_over(twin, whole=key in whole)
        self._loaded.clear()

    def edited(self) -> Iterable[Twin]:
        """Yield each twin whose weights somebody may have written to since they were drawn."""
        return (twin for twin in self.twins if twin.changed())

    def take_over(self, twin: Twin, *, whole: bool = False) -> None:
        """Take values that somebody wrote into the model for those that the optimiser goes on from.

        Elements that have the value that was drawn were not written to, unless the whole tensor was.
        """
        written = torch.ones_like(twin.shown, dtype=torch.bool) if whole else twin.shown != self.drawn(twin)
        if twin.shown.isfinite().all():  # weights put back after NaN: a mask may have hidden it, and drawn the same
            written |= ~twin.moved.isfinite()
        twin.moved.copy_(torch.where(written, twin.shown.to(torch.float32), twin.moved))

    def written_whole(self) -> list[Twin]:
        """Return the parameters all of whose elements were written to: those that were loaded.

        What was loaded and is as it was drawn, all of it, was put back after a look at other weights: nothing changed.
        """
        return self.unless_as_drawn([twin for twin in self.twins if id(twin.tensor) in self._loaded])

    def unless_as_drawn(self, twins: list[Twin]) -> list[Twin]:
        """Return these parameters, or none if all have the weights that were drawn last."""
        return twins if any(not torch.equal(twin.shown, self.drawn(twin)) for twin in twins) else []

    def drawn(self, twin: Twin) -> Tensor:
        """Return the weights that were drawn last, of the shape and dtype that the model has."""
        return twin.moved.to(twin.shown.dtype)

    def device_step(self, inner: torch.optim.Optimizer | None = None, closure: Closure | None = None) -> Loss:
        """Do what the device does in a step; where `captured` allows it, replayed in place of a call.

        Args:
            inner: the optimiser that moves; by default the only one.
            closure: computes loss and gradients, as for torch's optimisers; its loss is returned.
        """
        return self.move(self.inner if inner is None else inner, closure)

    def move(
        self,
        inner: torch.optim.Optimizer,
        closure: Closure | None,
        args: Sequence[Any] = (),
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> Loss:
        """Let an optimiser move what it moves, and draw the next weights from it; `args`, `options`: of its own."""
        if not self.twins:
            loss = inner.step(closure, *args, **options)
            self.settle()
            return loss
        known = runs_closure_first(inner) and not has_hooks(inner)

        def coded() -> Loss:
            """Compute the loss where the optimiser has moved to, with the weights that the model would have there."""
            nonlocal known
            to_model(self.twins)
            try:
                if not known:
                    self._redraw()
                known = False  # from the second call on the optimiser may have moved
                loss = self.run_closure(closure) if closure is not None else None
                self.adapt_gradients()
            finally:
                to_optimizer(self.twins)
            return loss

        if closure is None:
            self.adapt_gradients()
        to_optimizer(self.twins)  # and not `moving`: a captured step is replayed when its client has finished
        try:
            loss = inner.step(None if closure is None else coded, *args, **options)
        finally:
            to_model(self.twins)
        self.settle()
        self.draw()  # after the last step too: the model is never left at what was moved, whatever is done then
        return loss

    def run_closure(self, closure: Closure) -> Loss:
        """Call a closure in a step; what it writes into the model, such as a norm that is kept, is taken over."""
        try:
            with torch.enable_grad():
                return closure()
        finally:
            edited = list(self.edited())
            if edited:
                self.retreat()  # to the dice that the weights were drawn by
                self._take_over_all(edited)
                self.advance()

    def settle(self) -> None:
        """Put right what an optimiser may have moved and the rule does not allow."""

    def adapt_gradients(self) -> None:
        """Turn gradients of the model's weights into those of what is moved: straight through, they are the same."""

    @torch.no_grad()
    def draw(self) -> None:
        """Put the weights of the next step into the model: those of `own`."""
        for twin in self.own:
            twin.shown.copy_(twin.moved)
            twin.redrawn()
            twin.note()

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Let the parameters hold what the optimiser moves, as long as this rule trains them."""
        twins = () if self.finished else self.twins
        to_optimizer(twins)
        try:
            yield
        finally:
            to_model(twins)

    @contextmanager
    def undiced(self) -> Iterator[None]:
        """Let the model hold the weights that it is trained to, without the dice of a code."""
        yield

    @not_compiled
    def call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a method of an inner optimiser's own, such as the first step of SAM; it sees and moves what is moved.

        It counts as a local step where an optimiser of this model took one in it.
        """
        if self.finished:
            return method(*args, **options)
        self.look()
        self.adapt_gradients()
        with self.drawing_for(method.__self__ if isinstance(method, MethodType) else None):
            try:
                with self.moving(), stepped(self.view.tensors) as found:
                    result = method(*args, **options)
                if found:
                    self.advance()
                self.settle()
            finally:
                self.draw()
        return result

    def _redraw(self) -> None:
        """Put weights of the present step into the model, by its dice, from where the optimiser has moved to."""
        self.retreat()
        self.draw()
        self.advance()

    def captured(self) -> Hashable | None:
        """Return what a captured `device_step` depends on (rates, addresses), or None if it must not be captured.

        A subclass with a `device_step` of its own answers for it beside it; one that does not is never captured.
        """
        usual = not self.twins and type(self).settle is Steps.settle
        return plain_sgd(self.inner) if usual else None

    def place(self, kept: dict[str, Tensor]) -> None:
        """Move what a captured `device_step` uses, beside the model's tensors, to where it was for earlier clients.

        `kept` holds their memory by name; what it lacks is added.
        """


def _never(_: Steps) -> None:
    """Say of a rule that its steps are not captured."""
