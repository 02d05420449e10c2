"""Which optimisers a rule trains with, several of them, and what is known of them."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Never, Protocol

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from fedmrn.errors import ConfigError, UnsupportedModelError
from fedmrn.torch.internals import not_compiled
from fedmrn.torch.modules import names_of
from fedmrn.torch.rules.facade import Facade, Loss
from fedmrn.torch.rules.twins import Twin

_REFUSED = {
    torch.optim.LBFGS: "LBFGS searches along a line with a loss that must not change from call to call, and a mask is "
    "drawn anew for each: use AdamW, or SGD with momentum",
    torch.optim.ASGD: "ASGD keeps an average of the weights beside those that it moves, and a client would hand over "
    "the latter: use SGD or AdamW, and average on the server",
    torch.optim.SparseAdam: "SparseAdam takes sparse gradients alone, and masked parameters have dense ones: use Adam, "
    "and embeddings with sparse=False",
}


class Rule(Protocol):
    """What the wrapper of one of several optimisers needs of its rule."""

    def moving(self) -> AbstractContextManager[None]:
        """As `Facade.moving`."""

    def call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """As `Facade.call`."""

    def step_of(
        self, inner: torch.optim.Optimizer, closure: Callable[[], Loss] | None = None, *args: Any, **options: Any
    ) -> Loss:
        """Take a local step of one of the optimisers."""


class Part(Facade):
    """The wrapper of one of several optimisers over one model."""

    def __init__(self, rule: Rule, inner: torch.optim.Optimizer) -> None:
        super().__init__(inner)
        self._rule = rule
        self._sealed = True

    def moving(self) -> AbstractContextManager[None]:
        """Return the context in which the model's parameters hold what their optimisers move."""
        return self._rule.moving()

    def call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a method of this optimiser's own."""
        return self._rule.call(method, *args, **options)

    @not_compiled
    def step(self, closure: Callable[[], Loss] | None = None, *args: Any, **options: Any) -> Loss:
        """Take a local step of this optimiser; as `LocalRule.step`."""
        return self._rule.step_of(self.inner, closure, *args, **options)


class Together(torch.optim.Optimizer):
    """Several optimisers as one, for what is asked of all: their groups, and to clear gradients."""

    def __init__(self, inners: Sequence[torch.optim.Optimizer]) -> None:
        self._inners = tuple(inners)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of all."""
        return [group for inner in self._inners for group in inner.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all."""
        for inner in self._inners:
            inner.zero_grad(set_to_none)

    def __getattr__(self, name: str) -> Never:
        raise AttributeError(f"{name}: ask one of opt.optimizers, as this client has several")


def check_optimizers(given: Any) -> tuple[torch.optim.Optimizer, ...]:
    """Return the optimisers that were given, one or several.

    Raises:
        UnsupportedModelError: one cannot train through a mask.
        ConfigError: there is none, or something is no optimiser or a wrapper already.
    """
    found = (given,) if isinstance(given, torch.optim.Optimizer) else given
    if not isinstance(found, list | tuple) or not found:
        raise ConfigError(f"attach takes an optimiser of torch, or a list of them, got {type(given).__name__}")
    for one in found:
        if not isinstance(one, torch.optim.Optimizer):
            raise ConfigError(f"attach takes an optimiser of torch, or a list of them, got {type(one).__name__}")
        if isinstance(one, Facade):
            raise ConfigError("this optimiser is a wrapper of attach already: give the one that it was made around")
        for kind, reason in _REFUSED.items():
            if isinstance(one, kind):
                raise UnsupportedModelError(reason)
    return tuple(found)


def check_holds(optimizers: Sequence[torch.optim.Optimizer], model: nn.Module) -> None:
    """Warn of an optimiser that holds what is not the model's: it is trained, and not sent.

    Raises:
        UnsupportedModelError: an optimiser holds nothing of this model that is trained.
    """
    tensors = {id(t): t for _, t in names_of(model)}
    foreign = 0
    for number, one in enumerate(optimizers, 1):
        held = [p for group in one.param_groups for p in group["params"]]
        if not any(id(p) in tensors and p.requires_grad for p in held):
            which = "the optimiser" if len(optimizers) == 1 else f"optimiser {number} of {len(optimizers)}"
            raise UnsupportedModelError(
                f"{which} holds no trained parameter of the model that is attached, which would stay as it is: make it "
                "from this model"
            )
        foreign += sum(p.requires_grad and id(p) not in tensors for p in held)
    if foreign:
        warnings.warn(
            f"the optimiser holds {foreign} tensors that are not in the model that is attached: they are trained here "
            "and are not sent; to send them, put them into one model, nn.ModuleList([model, other])",
            stacklevel=2,
        )


def runs_closure_first(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it is known to call a closure before it moves anything: torch's own do."""
    return type(optimizer).__module__.startswith("torch.optim.")


def drawn_with(
    inner: torch.optim.Optimizer, inners: Sequence[torch.optim.Optimizer], twins: Iterable[Twin]
) -> tuple[Twin, ...]:
    """Return what a step of one of several optimisers draws anew: what it holds; and the first one, what none does."""
    own, others = _held([inner]), _held([one for one in inners if one is not inner])
    first = inner is inners[0]
    return tuple(t for t in twins if id(t.tensor) in own or (first and id(t.tensor) not in others))


def _held(optimizers: Iterable[torch.optim.Optimizer]) -> set[int]:
    return {id(p) for one in optimizers for group in one.param_groups for p in group["params"]}


@contextmanager
def stepped(tensors: Iterable[Tensor]) -> Iterator[list[torch.optim.Optimizer]]:
    """Yield a list that gets every optimiser of these tensors that takes a step meanwhile."""
    own, found = {id(t) for t in tensors}, []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            found.append(optimizer)

    handle = register_optimizer_step_post_hook(note)
    try:
        yield found
    finally:
        handle.remove()
