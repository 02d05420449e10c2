"""Clients in PyTorch: flat parameters, local rules as optimiser wrappers, the training loop, evaluation."""

from collections.abc import Iterable, Iterator
from importlib import import_module
from types import EllipsisType
from typing import Any

from fedmrn.extras import explained

try:
    from torch import nn
except ModuleNotFoundError as error:
    raise explained(error, "fedmrn.torch") from error

from fedmrn.errors import MalformedFrameError
from fedmrn.methods import MASKED, Accept, check_consent
from fedmrn.torch.calibration import Forward, calibrate, samples_in
from fedmrn.torch.loop import LocalData, Training, evaluate, train, train_client
from fedmrn.torch.model_layout import Choose, ModelLayout, Variances, default_choice
from fedmrn.torch.modules import unwrapped
from fedmrn.torch.rules.base import F32, LocalRule
from fedmrn.torch.rules.masked_noise import MaskedTraining
from fedmrn.torch.rules.steps import Optimizers
from fedmrn.torch.selection import Selection
from fedmrn.wire.frame import DEFAULT_LIMITS, Frame, Kind, Limits
from fedmrn.wire.held import Held
from fedmrn.wire.messages import read_model
from fedmrn.wire.statistics import statistics_frame
from fedmrn.wire.terms import read_terms


def local_rule(name: str) -> type[LocalRule]:
    """Return the class of a local rule, named as in the table of methods: MODULE:CLASS in `fedmrn.torch.rules`."""
    module, _, kind = name.partition(":")
    rule: type[LocalRule] = getattr(import_module(f"fedmrn.torch.rules.{module}"), kind)
    return rule


def attach(
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
    accept: Accept = MASKED,
    limits: Limits = DEFAULT_LIMITS,
) -> LocalRule:
    """Return an optimiser in front of yours, which trains by the method that the broadcast names.

    Your loop goes on as it was: with weight decay, schedulers, clipping, closures, hooks. `finish` returns the update.
    More in `fedmrn.torch.rules.base` and in docs/recipes.md.

    Args:
        model: any module; it is set to the broadcast's state. It may be wrapped by `torch.compile`, DataParallel or
            DistributedDataParallel; all processes of the last attach, train and finish alike, and get one frame.
        optimizer: over this model's parameters: any of torch's but LBFGS, ASGD and SparseAdam, or one of the same kind.
            A list where a model has several; their wrappers are then in `optimizers`, in that order.
        broadcast: what the server sent.
        steps: the number of local steps that will follow, of all optimisers together.
        sampling_key, choose, variances, memory, held: as for `LocalRule`.
        accept: the methods that this client is willing to send: "masked" for all of masked noise, "private" for masks
            that the server tells to draw privately, "any", a method's name, or several of these.
        limits: of the broadcast's bytes and sections; a frame that is parsed already is taken as it is.

    Settings of the local rule are the server's to choose: they are in the broadcast, or follow from its method.
    A broadcast that is refused has changed neither the model nor the optimiser.

    Raises:
        MethodNotAcceptedError: the broadcast is of a method that is not accepted.
        WrongTemplateError: it asks for another code than its method sends.
        WrongMethodError: it names a method that this version does not know.
        ConfigError: `accept` names a method that does not exist.
        UsageError, FrameError: as the local rule.
    """
    frame = (
        broadcast if isinstance(broadcast, Frame) else Frame.from_bytes(broadcast, kind=Kind.BROADCAST, limits=limits)
    )
    row = check_consent(frame, accept)
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
        variances=variances,
        memory=memory,
        held=held,
        **row.local_options(told),
    )


def load_model(
    model: nn.Module,
    frame: Frame | bytes,
    *,
    choose: Choose = default_choice,
    variances: Variances = (),
    held: Held | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> None:
    """Set a model to the one that the server sent for evaluation.

    A frame that is refused has not changed it. What does not travel (frozen parameters, other buffers) stays.

    Args:
        model: any module of the server's layout; wrapped, as for `attach`, or not.
        frame: of kind model, as bytes or parsed.
        choose, variances: as for `ModelLayout.of`, and as on the server.
        held: what this client keeps of public models; a model to evaluate is not put to it.
        limits: of the frame's bytes and sections.

    Raises:
        WrongKindError: it is a broadcast, to be trained from by `attach`, or an update.
        UsageError, FrameError: as for a local rule.
    """
    parsed = frame if isinstance(frame, Frame) else Frame.from_bytes(frame, kind=Kind.MODEL, limits=limits)
    view = ModelLayout.of(model, choose, variances)
    view.write(read_model(parsed, view.layout, held, view.read))


def answer_calibration(
    model: nn.Module,
    frame: Frame | bytes,
    batches: Iterable[Any],
    *,
    weight: int | None = None,
    forward: Forward | None = None,
    choose: Choose = default_choice,
    variances: Variances = (),
    held: Held | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Frame:
    """Set a model to the one that the server sent to calibrate, and return its statistics on these samples.

    Args:
        model, frame, choose, variances, held, limits: as for `load_model`; the frame of a model is the same.
        batches, forward: as for `calibrate`: of samples that the client trains on.
        weight: of this client in the mean, a positive integer; by default the samples in the batches.

    Raises:
        UsageError, EncodeError: as `calibrate`.
        FrameError: as `load_model`.
    """
    parsed = frame if isinstance(frame, Frame) else Frame.from_bytes(frame, kind=Kind.MODEL, limits=limits)
    load_model(model, parsed, choose=choose, variances=variances, held=held)
    samples = 0

    def counted() -> Iterator[Any]:
        nonlocal samples
        for batch in batches:
            samples += samples_in(batch)
            yield batch

    calibrate(model, counted() if weight is None else batches, forward=forward)
    view = ModelLayout.of(model, choose, variances)
    values = view.read()[view.layout.trainable :]
    return statistics_frame(parsed, view.layout, values, weight=max(samples, 1) if weight is None else weight)


__all__ = [
    "LocalData",
    "LocalRule",
    "MaskedTraining",
    "ModelLayout",
    "Selection",
    "Training",
    "answer_calibration",
    "attach",
    "calibrate",
    "default_choice",
    "evaluate",
    "load_model",
    "local_rule",
    "train",
    "train_client",
    "unwrapped",
]
