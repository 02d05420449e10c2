"""Calibration: clients find the statistics of the server's newest model, and the server pools them.

A round averages statistics of models that clients trained each on its own, and these are not quite the statistics of
the model that their mean leads to. So the server can ask for those of the new model, which costs no training:

    calibration = server.calibrate(clients)
    calibration.frame_for(client)        # to each client, which answers by `fedmrn.torch.answer_calibration`
    calibration.add(client, data)        # each answer
    calibration.finish()                 # the server's state has the pooled statistics from now on

As all clients look at one model, variances pool exactly: the mean of the clients' variances plus the variance of their
means. No client moves them far: values are clipped around their medians as in a round (`fedmrn.server.side`).
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import EncodeKeys
from fedmrn.errors import (
    ConfigError,
    DuplicateFrameError,
    EmptyRoundError,
    RoundOrderError,
    UnknownClientError,
    WrongKeyError,
    WrongMethodError,
    WrongRoundError,
)
from fedmrn.numerics.rng import derive_key
from fedmrn.server.caps import VARIANCE_APART, Clipping
from fedmrn.wire.frame import Frame, Kind
from fedmrn.wire.layout import Group, Layout
from fedmrn.wire.messages import model_frame, read_model
from fedmrn.wire.statistics import of_statistics, read_statistics
from fedmrn.wire.variance import FLOOR

if TYPE_CHECKING:
    from fedmrn.server.server import Server

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


class Calibration:
    """Asks clients for the statistics of the server's newest model, and pools what they answer.

    Args:
        server: whose model; no round of it may be open.
        clients: who is asked.

    Attributes:
        number: of the last finished round: it is the model after it.
        frame: what clients are sent, of kind model, but for those that hold a public model (`frame_for`).

    Raises:
        ConfigError: there is no client, or the model has no statistics.
        RoundOrderError: a round is open.
    """

    def __init__(self, server: "Server", clients: Iterable[int | str]) -> None:
        self._server, self.number, self._before = server, server.round, server.state
        self.clients = tuple(dict.fromkeys(clients))
        if not self.clients:
            raise ConfigError("a calibration needs at least one client")
        if not of_statistics(server.layout).size:
            raise ConfigError("the model has no running statistics: there is nothing to calibrate")
        self._check_current()
        labels = (server.run.hex(), self.number)
        keys = EncodeKeys(
            derive_key(server.secret, "calibration", *labels), derive_key(server.secret, "calibration draws", *labels)
        )
        self._publisher, self._shown = server.publisher, next(iter(server.models(self.number)))
        self._public = None if server.publisher is None else server.publisher.current.number
        self.frame = model_frame(
            server.layout,
            self._shown,
            method=server.scheme.method,
            round=self.number,
            codecs=server.scheme.down,
            keys=keys,
        )
        self._kept: dict[int | str, tuple[int, F32]] = {}

    def frame_for(self, client: int | str) -> Frame:
        """Return what a client is sent: the same model for all, as differences where the client holds another one.

        Raises:
            RoundOrderError: there are public models, and the server has gone on to another one.
        """
        if self._publisher is None or self._public is None:
            return self.frame
        return replace(self.frame, sections=self._publisher.sections(client, self._public))

    @property
    def answered(self) -> tuple[int | str, ...]:
        """Whose statistics are in."""
        return tuple(self._kept)

    def add(self, client: int | str, data: bytes | memoryview) -> Frame:
        """Check and keep a client's answer; return its frame.

        Raises:
            UnknownClientError, DuplicateFrameError: this client was not asked, or answered already.
            FrameError: one subclass for each cause; nothing has changed then.
        """
        if client not in self.clients:
            raise UnknownClientError(f"client {client} was not asked to calibrate the model after round {self.number}")
        if client in self._kept:
            raise DuplicateFrameError(f"client {client} calibrated the model after round {self.number} already")
        server = self._server
        frame = Frame.from_bytes(data, kind=Kind.STATISTICS, limits=server.limits)
        if frame.method != self.frame.method:
            raise WrongMethodError(f"the model's method is {self.frame.method}, the frame's is {frame.method}")
        if frame.round != self.number:
            raise WrongRoundError(f"the frame is of the model after round {frame.round}, this is round {self.number}")
        if frame.noise_key != self.frame.noise_key:
            raise WrongKeyError("the frame repeats another key than the one that this model was sent with")
        self._kept[client] = frame.weight, read_statistics(frame, server.layout, server.limits)
        return frame

    def finish(self) -> F32:
        """Put the pooled statistics into the server's state, and return it. The order of answers does not matter.

        Values that no client found otherwise than it was sent them stay as they are in the state.

        Raises:
            EmptyRoundError: no client answered; the state stays.
            RoundOrderError: a round was begun or finished meanwhile; the state stays.
        """
        self._check_current()
        if not self._kept:
            raise EmptyRoundError(f"nobody calibrated the model after round {self.number}: it stays as it is")
        server = self._server
        kept = [self._kept[client] for client in self.clients if client in self._kept]
        weights = np.array([weight if server.scheme.weighted else 1 for weight, _ in kept], np.float64)
        if server.clipping is not None:
            weights = weights.clip(max=server.clipping.weights * np.median(weights))
        rows = np.stack([values for _, values in kept])
        found = pooled(server.layout, rows, weights, server.clipping)
        state = self._before.copy()
        where = slice(server.layout.trainable, server.layout.size)
        shown = read_model(self.frame, server.layout)[where]  # what public models show is in that frame, exactly
        state[where] = np.where(found == shown, state[where], found)
        server.take_statistics(state)
        return state

    def _check_current(self) -> None:
        if self._server.state is not self._before or self._server.asked:
            raise RoundOrderError(
                f"the model after round {self.number} is calibrated between two rounds: finish the one that is open "
                "first, and calibrate then"
            )


def pooled(layout: Layout, rows: F32, weights: F64, clipping: Clipping | None) -> F32:
    """Return the statistics of all clients' samples together, float32, shape (`of_statistics(layout).size`,).

    Args:
        layout: of the model.
        rows: of each client, float32, shape (clients, `of_statistics(layout).size`).
        weights: of the clients, positive, shape (clients,).
        clipping: how far a value may be from its median over clients; None: as far as it is.
    """
    own, shares = of_statistics(layout), weights / weights.sum()
    means = {tensor.name: rows[:, own.slices[tensor.name]].astype(np.float64) for tensor in own.tensors}
    found = np.empty(own.size, np.float32)
    for tensor in own.tensors:
        if tensor.size and tensor.group is Group.STATS:
            means[tensor.name] = values = _clipped(means[tensor.name], clipping, np.inf)
            found[own.slices[tensor.name]] = _mean(values, shares)
    groups = {tensor.name: (tensor.group, tensor.shape) for tensor in own.tensors}
    for tensor in own.tensors:
        if tensor.size and tensor.group is Group.VARIANCE:
            values = means[tensor.name]
            logs = np.log(np.maximum(values, FLOOR))
            held = _clipped(logs, clipping, VARIANCE_APART)
            variance = _mean(np.where(held == logs, values, np.exp(held)), shares)
            mean = tensor.name.removesuffix("running_var") + "running_mean"
            if groups.get(mean) == (Group.STATS, tensor.shape):
                variance += shares @ (means[mean] - _mean(means[mean], shares)) ** 2
            found[own.slices[tensor.name]] = variance
    return found


def _mean(values: F64, shares: F64) -> F64:
    """The weighted mean over clients; exactly what they say where all say the same."""
    mean: F64 = values[0] + shares @ (values - values[0])
    return mean


def _clipped(values: F64, clipping: Clipping | None, farthest: float) -> F64:
    """Clip a tensor's values around their medians: so many times as far as the middle client is anywhere in it."""
    if clipping is None:
        return values
    middle = np.median(values, axis=0)
    away = np.sort(np.abs(values - middle).max(axis=1))[(len(values) - 1) // 2]
    apart = min(np.ldexp(away, clipping.values), farthest)
    return values.clip(middle - apart, middle + apart)
