"""Private names of torch, all that the library relies on: there is no public way to ask any of this.

When torch renames one of them, what uses it would be wrong without a word (a hook that is passed over) or fail far from
the cause. So they stand here only, and `tests/unit/torch/test_internals.py` checks what each of them does.
"""

import sys
from collections.abc import Callable, Mapping
from functools import cache, wraps
from inspect import unwrap
from operator import attrgetter
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import optimizer as optim
from torch.utils.hooks import RemovableHandle

P = ParamSpec("P")
R = TypeVar("R")

ANY_BATCH_NORM: type[nn.Module] = nn.modules.batchnorm._NormBase  # noqa: SLF001
"""Batch and instance normalisation of any dimension, lazy or synchronised: their only common class."""


def has_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether something is called before or after the optimiser's step; it may look at gradients or change them.

    Torch has functions to register such hooks, for one optimiser or for all, and none to ask for them.
    """
    own = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)  # noqa: SLF001
    return any((*own, optim._global_optimizer_pre_hooks, optim._global_optimizer_post_hooks))  # noqa: SLF001


def is_persistent(module: nn.Module, name: str) -> bool:
    """Return whether a buffer of the module itself is saved with it; `state_dict` tells so only by copying names."""
    return name not in module._non_persistent_buffers_set  # noqa: SLF001


def added(tensors: list[Tensor], more: list[Tensor], alpha: float) -> list[Tensor]:
    """Return tensors + alpha * more as torch's optimisers compute it for several tensors at a time (`foreach`)."""
    return list(torch._foreach_add(tensors, more, alpha=alpha))  # noqa: SLF001


def before_loading(module: nn.Module, hook: Callable[..., None]) -> RemovableHandle | None:
    """Have a function called before a state is loaded into the module itself: (module, state, prefix, ...).

    Return what ends it; None where the module is compiled from a script and has no hooks. It is called once, however
    often it was registered. The public way to do so is newer than the oldest torch that is served.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return None
    there: dict[int, Any] = module._load_state_dict_pre_hooks  # noqa: SLF001
    for key in [key for key, one in there.items() if one.hook is hook]:
        del there[key]
    handle: RemovableHandle = module._register_load_state_dict_pre_hook(hook, with_module=True)  # noqa: SLF001
    return handle


def compiled_from(module: nn.Module) -> nn.Module | None:
    """Return the module that `torch.compile` made this one from, or None if it is no such wrapper."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # a second to import, and loaded by whoever compiles
    if dynamo is None or not isinstance(module, dynamo.OptimizedModule):
        return None
    inner: nn.Module = module._orig_mod  # noqa: SLF001
    return inner


def not_compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Let `torch.compile` call a function and not look into it, as torch does for its optimisers' own.

    `torch.compiler` has a public form, and torch its own: both load the compiler, seconds, before anybody compiles.
    """
    closed = torch._compile._disable_dynamo(function)  # noqa: SLF001

    @wraps(function)
    def either(*args: P.args, **kwargs: P.kwargs) -> R:
        found: R = (closed if torch.compiler.is_compiling() else function)(*args, **kwargs)
        return found

    return either


@cache
def without_compiler(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Return an optimiser of torch's that does the same, and does not load torch's compiler, which takes seconds.

    It is for steps that nobody compiles.
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "step", "zero_grad")
    own = {name: unwrap(getattr(kind, name)) for name in names}
    own["step"] = torch.no_grad()(own["step"])
    return type(kind.__name__, (kind,), {**own, "__module__": kind.__module__})


version: "attrgetter[int]" = attrgetter("_version")
"""How often a tensor was written to in place, but by `.data`; there is none for tensors made in inference mode."""

children: "attrgetter[Mapping[str, nn.Module | None]]" = attrgetter("_modules")
"""A module's children by name, the same one under two names too, which `named_children` leaves out."""

parameters: "attrgetter[Mapping[str, nn.Parameter | None]]" = attrgetter("_parameters")
"""A module's own parameters; `parameters()` takes twenty times as long."""

buffers: "attrgetter[Mapping[str, Tensor | None]]" = attrgetter("_buffers")
"""A module's own buffers."""


def is_made_of_others(tensor: Tensor) -> bool:
    """Return whether a tensor is a class over other tensors, such as a quantised or a sharded one."""
    return torch.utils._python_dispatch.is_traceable_wrapper_subclass(tensor)  # noqa: SLF001
