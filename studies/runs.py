"""A run that has been recorded, taken up after its last round; and clients whose updates are seen before coding."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmrn.codecs import Codec
from fedmrn.errors import ConfigError
from fedmrn.experiments.run.checkpoint import restore
from fedmrn.experiments.run.folder import read_experiment
from fedmrn.experiments.run.prepare import Prepared, prepare
from fedmrn.experiments.run.record import read_records
from fedmrn.federation.client import Client
from fedmrn.federation.secrets import run_of, secret_of
from fedmrn.federation.setting import Federation
from fedmrn.federation.transport import Message, MessageKind
from fedmrn.server import Server
from fedmrn.server.optimizer import Scaled
from fedmrn.torch import LocalRule, ModelLayout
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group, Layout
from fedmrn.wire.messages import read_state

F32 = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as its last round left it.

    Attributes:
        method: of the run.
        prepared: its data, federation and model.
        layout: of the model.
        round: the last one that was finished.
        state: the server's after that round, float32, shape (layout.size,).
    """

    method: str
    prepared: Prepared
    layout: Layout
    round: int
    state: F32

    @property
    def codec(self) -> Codec:
        """The codec of coded tensors."""
        return self.prepared.federation.scheme.codecs[Group.CODED]


def take_up(folder: Path, data_dir: Path) -> Run:
    """Read a run folder and prepare what its next round needs, with as many threads of the framework as it had.

    Clients of that round are sent the state itself, whether the run had public models or not.

    Raises:
        ConfigError: the run has no finished round, or its server keeps more than the state from round to round.
        UsageError: the folder or the data are missing or damaged.
    """
    experiment = read_experiment(folder)
    torch.set_num_threads(experiment.train.threads or torch.get_num_threads())
    prepared = prepare(experiment, data_dir)
    if prepared.federation.scheme.optimizer != Scaled(1.0):
        raise ConfigError(f"{folder}: its server carries more than the model from round to round, which is not read")
    layout = ModelLayout.of(prepared.model).layout
    saved, _ = restore(folder, len(read_records(folder)), layout, prepared.federation.scheme)
    if saved is None:
        raise ConfigError(f"{folder} has no finished round: run it first")
    federation = prepared.federation
    federation = replace(federation, scheme=replace(federation.scheme, grid=None))
    prepared = replace(prepared, federation=federation)
    return Run(method=experiment.method, prepared=prepared, layout=layout, round=saved.round, state=saved.state)


def server_of(federation: Federation, layout: Layout, state: F32) -> Server:
    """Return the server of a simulated federation at a state, which it does not change."""
    seed = federation.seed
    return Server(layout, federation.scheme, state, secret_of(seed), run=run_of(seed), clipping=federation.clipping)


class WatchedClients:
    """Trains one client after another as a federation's run does, and sees the update that a mask is drawn for.

    A hook on the optimiser reads the weights that it moves after each step: u is what they have moved in all.

    Args:
        federation: whose clients.
        model: what they train; its values are overwritten.
    """

    def __init__(self, federation: Federation, model: nn.Module) -> None:
        self._federation, self._seen = federation, np.zeros(0, np.float32)
        self._client = Client(model, federation.training, seed=federation.seed, rule=self._watched)

    def __call__(self, client: int, broadcast: bytes) -> tuple[F32, Frame]:
        """Train a client; return u over the coded elements, and the frame that it sends."""
        message = Message(client=client, kind=MessageKind.TRAIN, content=broadcast)
        reply = self._client.answer(message, self._federation.samples(client))
        return self._seen, Frame.from_bytes(reply.data)

    def _watched(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, broadcast: Frame, **options: Any
    ) -> LocalRule:
        view = ModelLayout.of(model)
        optimizer.register_step_post_hook(self._reader(view, read_state(broadcast, view.layout)))
        return self._federation.rule(model, optimizer, broadcast, **options)

    def _reader(self, view: ModelLayout, before: F32) -> Callable[..., None]:
        def read(*_: Any) -> None:
            self._seen = (view.read() - before)[view.layout.span(Group.CODED)]

        return read
