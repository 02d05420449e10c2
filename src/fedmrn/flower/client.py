"""A Flower client's side: the body of `@app.train()` around a training loop that stays as it is.

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model, loader = ...
        optimizer = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), message, context, steps=len(loader))
        loss = train_one_epoch(model, loader, optimizer)  # as before
        return reply(optimizer, message, context, weight=len(loader.dataset), metrics={"train_loss": loss})

What a client keeps from round to round, for the methods that have it do so, lies in `context.state`: Flower may start a
new process for each message.
"""

from collections.abc import Mapping

import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from torch import nn

from fedmrn.flower.records import FRAME, broadcast_bytes, records_of, to_array
from fedmrn.torch import LocalRule, default_choice
from fedmrn.torch import attach as attach_rule
from fedmrn.torch.model_layout import Choose, Variances

MEMORY = "fedmrn"
"""The record of `context.state` that holds a client's memory."""


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
) -> LocalRule:
    """Set the model to what the server sent, and return the optimiser to train it with; see `fedmrn.torch.attach`.

    Args:
        model: any module; it need not be given the server's arrays first.
        optimizer: over this model's parameters.
        message: the training message.
        context: of this client.
        steps: the number of local steps that will follow.
        arrayrecord_key: as in the strategy.
        choose, variances: as for `ModelLayout.of`, and as on the server.

    Raises:
        WrongMessageError: the message does not come from a fedmrn strategy.
        FrameError, UsageError: as `fedmrn.torch.attach`.
    """
    broadcast = broadcast_bytes(message.content, arrayrecord_key)
    kept = records_of(context.state, ArrayRecord).get(MEMORY)
    memory = None if kept is None else kept["memory"].numpy()
    return attach_rule(model, optimizer, broadcast, steps=steps, choose=choose, variances=variances, memory=memory)


def reply(
    rule: LocalRule,
    message: Message,
    context: Context,
    *,
    weight: int,
    metrics: Mapping[str, float] | None = None,
    arrayrecord_key: str = "arrays",
) -> Message:
    """Finish local training and return the reply: one frame, and metrics.

    Args:
        rule: what `attach` returned, after the last step.
        message: the training message.
        context: of this client; what it keeps is put there.
        weight: of this client in the mean (samples, or batches), a positive integer; sent as "num-examples" too.
        metrics: numbers that the server averages.
        arrayrecord_key: as in the strategy.

    Raises:
        EncodeError: the update is not finite, or the weight is not positive.
    """
    frame = rule.finish(weight=weight)
    if rule.memory is not None:
        context.state[MEMORY] = ArrayRecord({"memory": Array(rule.memory)})
    return update_reply(frame.to_bytes(), message, {"num-examples": weight, **(metrics or {})}, arrayrecord_key)


def update_reply(data: bytes, message: Message, metrics: Mapping[str, float], arrayrecord_key: str) -> Message:
    """Return the reply that carries an update's bytes."""
    arrays = ArrayRecord({FRAME: to_array(data)})
    content = RecordDict({arrayrecord_key: arrays, "metrics": MetricRecord(dict(metrics))})
    return Message(content=content, reply_to=message)
