"""Clients in PyTorch: flat parameters, local rules as optimiser wrappers, the training loop, evaluation."""

from importlib import import_module
from types import EllipsisType

from fedmrn.extras import explained

try:
    import torch
    from torch import nn
except ModuleNotFoundError as error:
    raise explained(error, "fedmrn.torch") from error

from fedmrn.errors import MalformedFrameError, WrongMethodError
from fedmrn.methods import METHODS
from fedmrn.torch.loop import LocalData, Training, evaluate, train, train_client
from fedmrn.torch.model_layout import Choose, ModelLayout, default_choice
from fedmrn.torch.rules.base import F32, LocalRule
from fedmrn.torch.rules.masked_noise import MaskedTraining
from fedmrn.wire.frame import Frame
from fedmrn.wire.terms import read_terms


def local_rule(name: str) -> type[LocalRule]:
    """Return the class of a local rule, named as in the table of methods: MODULE:CLASS in `fedmrn.torch.rules`."""
    module, _, kind = name.partition(":")
    rule: type[LocalRule] = getattr(import_module(f"fedmrn.torch.rules.{module}"), kind)
    return rule


def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    broadcast: Frame | bytes,
    *,
    steps: int,
    sampling_key: int | None = None,
    choose: Choose = default_choice,
    memory: F32 | EllipsisType | None = ...,
) -> LocalRule:
    """Return the optimiser wrapper of the method that the broadcast names; see `fedmrn.torch.rules.base`.

    Args:
        model: any module; it is set to the broadcast's state.
        optimizer: over this model's parameters.
        broadcast: what the server sent.
        steps: the number of local steps that will follow.
        sampling_key, choose, memory: as for `LocalRule`.

    Settings of the local rule are the server's to choose: they are in the broadcast, or follow from its method.

    Raises:
        WrongMethodError: the broadcast names a method that this version does not know.
        UsageError, FrameError: as the local rule.
    """
    frame = broadcast if isinstance(broadcast, Frame) else Frame.from_bytes(broadcast)
    row = next((row for row in METHODS.values() if row.id == frame.method), None)
    if row is None:
        raise WrongMethodError(f"the broadcast is of method {frame.method}, which this version does not know")
    rule, told = local_rule(row.local), read_terms(frame)
    for name in told:
        if name not in rule.options:
            raise MalformedFrameError(f"the broadcast sets {name}, which method {row.name} does not have")
    return rule(
        model,
        optimizer,
        frame,
        steps=steps,
        sampling_key=sampling_key,
        choose=choose,
        memory=memory,
        **row.local_options(told),
    )


__all__ = [
    "LocalData",
    "LocalRule",
    "MaskedTraining",
    "ModelLayout",
    "Training",
    "attach",
    "default_choice",
    "evaluate",
    "local_rule",
    "train",
    "train_client",
]
