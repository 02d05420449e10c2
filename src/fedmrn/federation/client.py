"""A simulated client: the bytes of a broadcast in, the bytes of an update out; it knows nothing of the server.

Its sampling key comes from the run's seed, so that a simulation can be repeated; that is not private.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmrn.federation.transport import Message, MessageKind, Reply
from fedmrn.methods import ANY
from fedmrn.numerics.rng import derive_key
from fedmrn.torch import (
    LocalData,
    LocalRule,
    ModelLayout,
    Training,
    answer_calibration,
    attach,
    default_choice,
    train_client,
)
from fedmrn.torch.fast.graphs import CudaGraphs, StepGraphs
from fedmrn.torch.loop import forward_of, plain_batches
from fedmrn.torch.model_layout import Choose
from fedmrn.wire.frame import OWN_LIMITS, Frame, Kind
from fedmrn.wire.held import Held
from fedmrn.wire.public import is_public

Samples = tuple[NDArray[np.generic], NDArray[np.generic]]
"""A client's inputs and targets."""
_CALIBRATION_BATCH = 256
"""Samples that are forwarded at a time, at least: layers behind others see what those make of a batch's statistics."""


class RuleFactory(Protocol):
    """Makes a client's local rule: `fedmrn.torch.attach`, or something that calls it with options."""

    def __call__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        broadcast: Frame,
        *,
        steps: int,
        sampling_key: int,
        memory: NDArray[np.float32] | None,
        **public: Held,
    ) -> LocalRule:
        """Return the rule, attached to the model."""


own_method: RuleFactory = partial(attach, accept=ANY)
"""`attach` for simulated clients: their server is this run's own, and so is its method."""


def captures_steps(training: Training, device: torch.device) -> bool:
    """Whether steps on this device are captured once and replayed: on CUDA, unless the training says otherwise."""
    return device.type == "cuda" and training.graphs


class Client:
    """Trains one client after another on one model.

    Args:
        model: any module; its values are overwritten.
        training: how clients train.
        seed: of the run.
        rule: makes the local rule.
        choose: as for `ModelLayout.of`; the rule is told where it is not the default.
    """

    def __init__(
        self,
        model: nn.Module,
        training: Training,
        *,
        seed: int,
        rule: RuleFactory = own_method,
        choose: Choose = default_choice,
    ) -> None:
        self._model, self._training, self._seed = model, training, seed
        takes_choice: Callable[..., LocalRule] = rule
        self._rule: RuleFactory = rule if choose is default_choice else partial(takes_choice, choose=choose)
        view = ModelLayout.of(model, choose)
        self._layout, self._start = view.layout, view.read()  # the model is built as the server's is, from one seed
        self._cuda = [view.device] if view.device.type == "cuda" else []
        self._graphs = StepGraphs(CudaGraphs(view.device)) if captures_steps(training, view.device) else None
        sent = {id(tensor) for tensor in view.tensors}
        # What is not sent and may change is each client's own: it starts from that of the model as it was built.
        own = (*model.buffers(), *(view.model.get_parameter(name) for name in view.frozen if name in view.free))
        self._others = [(t, t.detach().clone()) for t in own if id(t) not in sent]

    def answer(self, message: Message, samples: Samples) -> Reply:
        """Do what a message asks of the client that holds these samples.

        Raises:
            FrameError, UsageError, EncodeError: as training does.
        """
        if message.kind is MessageKind.CALIBRATE:
            return self._calibrate(message, samples)
        if message.kind is not MessageKind.TRAIN:
            error = f"a simulated client answers messages of kind train, and this is of kind {message.kind}"
            return Reply(client=message.client, kind=message.kind, error=error)
        broadcast = Frame.from_bytes(message.data, kind=Kind.BROADCAST, limits=OWN_LIMITS)
        data, key = self._begin(broadcast.round, message.client, samples)
        held = self._held(message)
        public = {"held": held} if is_public(broadcast) else {}  # a rule of one's own need not know of it
        with torch.random.fork_rng(devices=self._cuda):
            torch.manual_seed(key("framework") >> 1)  # dropout and the like
            rule = self._rule(
                self._model,
                self._training.make_optimizer(self._model),
                broadcast,
                steps=self._training.steps(len(data)),
                sampling_key=key("sampling"),
                memory=message.kept,
                **public,
            )
            frame, loss = train_client(self._model, rule, data, self._training, graphs=self._graphs)
        return Reply(
            client=message.client,
            kind=message.kind,
            data=frame.to_bytes(),
            metrics={"train_loss": loss},
            kept=rule.memory if rule.remembers else None,
            held=held.to_bytes() if public else b"",
        )

    def _calibrate(self, message: Message, samples: Samples) -> Reply:
        """Find the statistics of a model on all of the client's samples."""
        frame = Frame.from_bytes(message.data, kind=Kind.MODEL, limits=OWN_LIMITS)
        data, key = self._begin(frame.round, message.client, samples)
        training, device = self._training, ModelLayout.of(self._model).device
        size = max(training.batch_size, _CALIBRATION_BATCH)
        with torch.random.fork_rng(devices=self._cuda):
            torch.manual_seed(key("calibration") >> 1)
            self._model.train()  # every layer takes part, as in training
            answer = answer_calibration(
                self._model,
                frame,
                plain_batches(data, training, device, most=len(data), size=size),
                weight=training.weight(len(data)),
                held=self._held(message),
                forward=forward_of(self._model, training, device),
            )
        return Reply(client=message.client, kind=message.kind, data=answer.to_bytes())

    def _held(self, message: Message) -> Held:
        """Return what the client keeps of public models; it has the starting weights, as it had built the model."""
        return Held.from_bytes(message.held, self._layout, self._start)

    def _begin(self, round: int, client: int, samples: Samples) -> tuple[LocalData, Callable[[str], int]]:
        """Forget what earlier clients left in the model; return this one's samples, and what makes its keys."""
        with torch.no_grad():
            for tensor, initial in self._others:
                tensor.copy_(initial)

        def key(label: str) -> int:
            return derive_key(self._seed, label, round, client)

        x, y = samples
        return LocalData(torch.from_numpy(x), torch.from_numpy(y), key("order")), key
