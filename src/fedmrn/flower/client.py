"""A Flower client's side: the bodies of `@app.train()` and `@app.evaluate()` around loops that stay as they are.

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model, loader = ...
        optimizer = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), message, context, steps=len(loader))
        loss = train_one_epoch(model, loader, optimizer)  # as before
        return reply(optimizer, message, context, weight=len(loader.dataset), metrics={"train_loss": loss})

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        model, loader = ...
        load(model, message)
        ...  # as before

    @app.train("calibrate")  # with calibrate=True in the strategy, for models with batch norm
    def statistics(message: Message, context: Context) -> Message:
        model, loader = ...
        return calibrate(model, message, loader)

What a client keeps from round to round, for the methods that have it do so, lies in `context.state`: Flower may start a
new process for each message. What it keeps of public models (`down="grid"`) lies in a file (`fedmrn.flower.kept`), and
so does what it keeps in runs that may be taken up again (`fedmrn.flower.remembered`).
"""

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from torch import nn

from fedmrn.errors import ConfigError, WrongMessageError
from fedmrn.flower.kept import keeping
from fedmrn.flower.metrics import Given, to_metrics
from fedmrn.flower.records import FRAME, SECURE, broadcast_bytes, model_bytes, records_of, to_array
from fedmrn.flower.remembered import Remembered
from fedmrn.methods import MASKED, METHODS, Accept
from fedmrn.torch import LocalRule, ModelLayout, answer_calibration, default_choice, load_model, local_rule
from fedmrn.torch import attach as attach_rule
from fedmrn.torch.calibration import Forward
from fedmrn.torch.model_layout import Choose, Variances
from fedmrn.wire.frame import DEFAULT_LIMITS, Frame, Kind, Limits, Role
from fedmrn.wire.layout import Group

MEMORY = "fedmrn"
"""The record of `context.state` that holds a client's memory."""
MOST_KEPT = (1 << 31) - (1 << 16)
"""Bytes of a client's memory: Flower writes a context as one message of protobuf's, which has less than 2 GiB."""


def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    message: Message,
    context: Context,
    *,
    steps: int,
    arrayrecord_key: str = "arrays",
    choose: Choose = default_choice,
    variances: Variances = (),
    accept: Accept = MASKED,
    limits: Limits = DEFAULT_LIMITS,
) -> LocalRule:
    """Set the model to what the server sent, and return the optimiser to train it with; see `fedmrn.torch.attach`.

    Args:
        model: any module; it need not be given the server's arrays first. It may be wrapped by `torch.compile`,
            DataParallel or DistributedDataParallel.
        optimizer: over this model's parameters.
        message: the training message.
        context: of this client.
        steps: the number of local steps that will follow.
        arrayrecord_key: as in the strategy.
        choose, variances: as for `ModelLayout.of`, and as on the server.
        accept: the methods that this client is willing to send: "masked" for all of masked noise, "private" for masks
            that the server tells to draw privately, "any", a method's name, or several of these. Whatever else the
            server asks for is refused, and nothing is trained.
        limits: of the broadcast's bytes and sections.

    Raises:
        WrongMessageError: the message does not come from a fedmrn strategy, or is not one to train from.
        MethodNotAcceptedError: the server asks for a method that is not accepted.
        ConfigError: what the client keeps from round to round is more than Flower carries (`MOST_KEPT`).
        FrameError, UsageError: as `fedmrn.torch.attach`.
    """
    data = broadcast_bytes(message.content, arrayrecord_key)
    broadcast = Frame.from_bytes(data, kind=Kind.BROADCAST, limits=limits)
    remembered, record = Remembered.told_by(message), records_of(context.state, ArrayRecord).get(MEMORY)
    if remembered is not None:
        memory = remembered.before(broadcast)
    else:
        _check_kept(broadcast)
        memory = None if record is None else record["memory"].numpy()
    with keeping(broadcast, message, lambda: ModelLayout.of(model, choose, variances).layout) as held:
        return attach_rule(
            model,
            optimizer,
            broadcast,
            steps=steps,
            choose=choose,
            variances=variances,
            memory=memory,
            held=held,
            accept=accept,
            limits=limits,
        )


def _check_kept(broadcast: Frame) -> None:
    """Refuse to train where Flower could not put away what the client then keeps.

    Raises:
        ConfigError: says how large it would be.
    """
    row = next((row for row in METHODS.values() if row.id == broadcast.method), None)  # `attach_rule` refuses others
    size = sum(4 * s.count for s in broadcast.sections if (s.role, s.group) == (Role.TEMPLATE, Group.CODED))
    if size > MOST_KEPT and row is not None and local_rule(row.local).remembers:
        raise ConfigError(
            f"clients of {row.name} keep a float32 for each coded parameter, {size} bytes here, and Flower writes a "
            f"context as one message of at most {MOST_KEPT}: take a method whose clients keep nothing, or plain HTTP"
        )


def load(
    model: nn.Module,
    message: Message,
    *,
    arrayrecord_key: str = "arrays",
    choose: Choose = default_choice,
    variances: Variances = (),
    limits: Limits = DEFAULT_LIMITS,
) -> None:
    """Set the model to the one that the server sent for evaluation; see `fedmrn.torch.load_model`.

    Args:
        model: any module, wrapped or not; what does not travel (frozen parameters, other buffers) stays.
        message: the evaluation message.
        arrayrecord_key, choose, variances, limits: as for `attach`.

    Raises:
        WrongMessageError: the message does not come from a fedmrn strategy, or holds plain arrays, or a broadcast.
        FrameError, UsageError: as `fedmrn.torch.load_model`; the model has not changed.
    """
    frame = Frame.from_bytes(model_bytes(message.content, arrayrecord_key), kind=Kind.MODEL, limits=limits)
    with keeping(frame, message, lambda: ModelLayout.of(model, choose, variances).layout, keep=False) as held:
        load_model(model, frame, choose=choose, variances=variances, held=held)


def reply(
    rule: LocalRule,
    message: Message,
    context: Context,
    *,
    weight: int,
    metrics: Mapping[str, Given] | None = None,
    arrayrecord_key: str = "arrays",
    secure: bool = False,
) -> Message:
    """Finish local training and return the reply: one frame, and metrics.

    Where the server sums updates unseen (`protect=SecureSum()`), the frame has pads on it, and the weight is not sent.

    Args:
        rule: what `attach` returned, after the last step.
        message: the training message.
        context: of this client; what it keeps is put there.
        weight: of this client in the mean (samples, or batches), a positive integer; sent as "num-examples" too.
            Secure sums count all clients alike and a private mask says weight 1, and "num-examples" is 1 then.
        metrics: numbers that the server averages, of Python, NumPy or torch.
        arrayrecord_key: as in the strategy.
        secure: refuse to answer a server that does not sum updates unseen.

    Raises:
        WrongMessageError: `secure`, and the server would see this update.
        EncodeError: the update is not finite, or the weight is not positive.
        ConfigError: a metric is no number that a double holds.
    """
    given = to_metrics(metrics or {})  # refused before the rule is finished
    frame = rule.finish(weight=weight)
    numbers = {"num-examples": 1 if SECURE in message.content else frame.weight, **given}
    remembered = Remembered.told_by(message)
    if rule.memory is not None and remembered is not None:
        remembered.keep(frame, rule.memory)
    elif rule.memory is not None:
        context.state[MEMORY] = ArrayRecord({"memory": Array(rule.memory)})
    if SECURE in message.content:
        data: bytes = import_module("fedmrn.flower.member").padded(frame, message, context)
    elif secure:
        raise WrongMessageError("this client sends its update with pads alone, and the server asks for it without")
    else:
        data = frame.to_bytes()
    return update_reply(data, message, numbers, arrayrecord_key)


def calibrate(
    model: nn.Module,
    message: Message,
    batches: Iterable[Any],
    *,
    weight: int | None = None,
    forward: Forward | None = None,
    arrayrecord_key: str = "arrays",
    choose: Choose = default_choice,
    variances: Variances = (),
    limits: Limits = DEFAULT_LIMITS,
) -> Message:
    """Set the model to the server's, find its statistics on these samples, and return the reply that carries them.

    Args:
        model: any module.
        message: of type "train.calibrate".
        batches, forward: as for `fedmrn.torch.calibrate`: the loader of training, without its augmentation.
        weight: of this client in the mean; by default the number of samples.
        arrayrecord_key, choose, variances, limits: as for `attach`.

    Raises:
        WrongMessageError: the message does not come from a fedmrn strategy, or holds something else.
        FrameError, UsageError, EncodeError: as `fedmrn.torch.answer_calibration`.
    """
    frame = Frame.from_bytes(model_bytes(message.content, arrayrecord_key), kind=Kind.MODEL, limits=limits)
    with keeping(frame, message, lambda: ModelLayout.of(model, choose, variances).layout, keep=False) as held:
        answer = answer_calibration(
            model, frame, batches, weight=weight, forward=forward, choose=choose, variances=variances, held=held
        )
    return update_reply(answer.to_bytes(), message, {}, arrayrecord_key)


def update_reply(data: bytes, message: Message, metrics: Mapping[str, Given], arrayrecord_key: str) -> Message:
    """Return the reply that carries a frame's bytes."""
    arrays = ArrayRecord({FRAME: to_array(data)})
    content = RecordDict({arrayrecord_key: arrays, "metrics": to_metrics(metrics)})
    return Message(content=content, reply_to=message)
