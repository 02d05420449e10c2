"""An optimiser in front of another, as frameworks expect one: whatever they ask is asked of the inner one.

Schedulers, gradient scalers, hooks, saving, copying and methods of the inner optimiser's own mean what they mean
without the wrapper. What reads or moves weights sees those that the optimiser moves, not those that the model uses.
"""

from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from types import MethodType
from typing import Any

import torch

Loss = Any
"""What a closure returns, and `step` then: mostly a tensor or a number."""


class Facade(torch.optim.Optimizer):
    """An optimiser that passes on to `inner` what it does not do itself."""

    # A scaler divides the gradients itself, in place of the step of a fused optimiser that it would hand its scale to.
    _step_supports_amp_scaling = False

    _sealed = False
    """Whether the wrapper is made: what is set from then on, and is no attribute of its own, is the inner one's."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner  # and nothing that `Optimizer` sets up: the inner one has it

    @abstractmethod
    def moving(self) -> AbstractContextManager[None]:
        """Return the context in which parameters hold the weights that the optimiser moves."""

    @abstractmethod
    def call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a method of the inner optimiser's own, which may move weights."""

    def __getattr__(self, name: str) -> Any:
        inner = self.__dict__.get("inner")
        if inner is None or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = getattr(inner, name)
        return partial(self.call, value) if isinstance(value, MethodType) and value.__self__ is inner else value

    def __setattr__(self, name: str, value: Any) -> None:
        own = not self._sealed or name in self.__dict__ or hasattr(type(self), name)
        if own or not hasattr(self.inner, name):
            super().__setattr__(name, value)
        else:
            setattr(self.inner, name, value)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The inner optimiser's parameter groups."""
        return self.inner.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.inner.param_groups = groups

    @property
    def state(self) -> Any:
        """The inner optimiser's state."""
        return self.inner.state

    @state.setter
    def state(self, state: Any) -> None:
        self.inner.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        """The inner optimiser's defaults."""
        return self.inner.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.inner.defaults = defaults

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, as torch does."""
        self.inner.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Give the inner optimiser more parameters."""
        self.inner.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimiser's state, as torch does; not how far this client has come in its round."""
        with self.moving():
            return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the inner optimiser's state; its numbers stay float32 where the model has fewer bits."""
        with self.moving():
            self.inner.load_state_dict(state_dict)

    def register_step_pre_hook(self, hook: Any) -> Any:
        """Have a function called before each step of the inner optimiser."""
        return self.inner.register_step_pre_hook(hook)

    def register_step_post_hook(self, hook: Any) -> Any:
        """Have a function called after each step of the inner optimiser."""
        return self.inner.register_step_post_hook(hook)

    def register_state_dict_pre_hook(self, hook: Any, prepend: bool = False) -> Any:
        """Have a function called before the inner optimiser's state is given away."""
        return self.inner.register_state_dict_pre_hook(hook, prepend)

    def register_state_dict_post_hook(self, hook: Any, prepend: bool = False) -> Any:
        """Have a function called with the inner optimiser's state before it is given away."""
        return self.inner.register_state_dict_post_hook(hook, prepend)

    def register_load_state_dict_pre_hook(self, hook: Any, prepend: bool = False) -> Any:
        """Have a function called before the inner optimiser's state is set."""
        return self.inner.register_load_state_dict_pre_hook(hook, prepend)

    def register_load_state_dict_post_hook(self, hook: Any, prepend: bool = False) -> Any:
        """Have a function called after the inner optimiser's state was set."""
        return self.inner.register_load_state_dict_post_hook(hook, prepend)

    def __repr__(self) -> str:
        return f"{type(self).__name__} over {self.inner!r}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A copy is one of the inner optimiser: a client's place in its round is not copied."""
        return _itself, (self.inner,)


def _itself(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return the optimiser: what a copy of a wrapper is made by."""
    return optimizer
