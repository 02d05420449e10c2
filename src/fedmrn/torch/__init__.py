"""Clients in PyTorch: flat parameters, local rules as optimiser wrappers, the training loop, evaluation."""

from typing import Any

import torch
from torch import nn

from fedmrn.errors import WrongMethodError
from fedmrn.methods import METHODS
from fedmrn.torch.loop import LocalData, Training, evaluate, train, train_client
from fedmrn.torch.model_layout import ModelLayout, default_choice
from fedmrn.torch.rules.after import ErrorFeedback, HandOverWeights, KeepSupport
from fedmrn.torch.rules.base import LocalRule
from fedmrn.torch.rules.learned import LearnedSign, ProbabilityMask
from fedmrn.torch.rules.masked_noise import MaskedNoise
from fedmrn.wire.frame import Frame

RULES: dict[str, type[LocalRule]] = {
    "plain": LocalRule,
    "masked-noise": MaskedNoise,
    "probability-mask": ProbabilityMask,
    "learned-sign": LearnedSign,
    "error-feedback": ErrorFeedback,
    "weights": HandOverWeights,
    "support": KeepSupport,
}


def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    broadcast: Frame | bytes,
    *,
    steps: int,
    **options: Any,
) -> LocalRule:
    """Return the optimiser wrapper of the method that the broadcast names; see `fedmrn.torch.rules.base`.

    Args:
        model: any module; it is set to the broadcast's state.
        optimizer: over this model's parameters.
        broadcast: what the server sent.
        steps: the number of local steps that will follow.
        **options: of the method's local rule, such as `progressive=False`.

    Raises:
        WrongMethodError: the broadcast names a method that this version does not know.
        UsageError, FrameError: as the local rule.
    """
    frame = broadcast if isinstance(broadcast, Frame) else Frame.from_bytes(broadcast)
    for method in METHODS.values():
        if method.id == frame.method:
            return RULES[method.local](model, optimizer, frame, steps=steps, **{**method.fixed, **options})
    raise WrongMethodError(f"the broadcast is of method {frame.method}, which this version does not know")


__all__ = [
    "RULES",
    "LocalData",
    "LocalRule",
    "MaskedNoise",
    "ModelLayout",
    "Training",
    "attach",
    "default_choice",
    "evaluate",
    "train",
    "train_client",
]
