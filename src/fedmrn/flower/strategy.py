"""The strategy: Flower's FedAvg with one frame a client in place of dense arrays.

    strategy = FedMRN(ModelLayout.of(model), "fedmrn", fraction_train=0.5)
    strategy.start(grid, initial_arrays=ArrayRecord(model.state_dict()), num_rounds=10)

Sampling, evaluation on clients, `evaluate_fn` and the result are stock FedAvg's: the arrays that they see are the
global model under the names of its state dict. Only training messages differ; `fedmrn.flower.client` answers them.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from logging import INFO, WARNING, getLogger
from math import prod
from typing import Any, Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.app.metadata import Metadata
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result
from numpy.typing import NDArray

from fedmrn.errors import ConfigError, EmptyRoundError, FrameError, UnknownClientError, UnusableModelError
from fedmrn.federation.conduct import Conduct
from fedmrn.federation.report import RoundReport
from fedmrn.federation.transport import MessageKind
from fedmrn.flower.metrics import Metrics
from fedmrn.flower.records import FRAME, STATE, Cutter, size_of, update_bytes
from fedmrn.flower.streaming import Streaming
from fedmrn.methods import method as find_method
from fedmrn.server import Server
from fedmrn.server.optimizer import ServerOptimizer
from fedmrn.wire.frame import DEFAULT_LIMITS, Limits
from fedmrn.wire.layout import Layout

log = getLogger("flwr").log


class View(Protocol):
    """What the strategy needs to know of a model; `fedmrn.torch.ModelLayout` is one."""

    @property
    def layout(self) -> Layout:
        """The flat vector."""

    @property
    def tied(self) -> Mapping[str, str]:
        """Further names of its tensors in the state dict."""


class FedMRN(FedAvg):
    """FedMRN, or any other method of the table, in place of FedAvg.

    Args:
        view: `fedmrn.torch.ModelLayout.of(model)`, or a `Layout` for a server without torch.
        method: which method; `fedmrn methods` lists them.
        options: of the method, such as {"scale": 0.01, "coding": "entropy"}.
        side: how batch norm and other dense values travel up: float32, float16, levels.
        down: how the state travels down: float32, float16, eden4, eden3, eden2.
        optimizer: of the server (`fedmrn.server.optimizer`): FedAvgM, FedAdam; by default the mean is added.
        secret: 16 to 64 bytes that noise keys are derived from, for one run alone; by default fresh ones at each start.
        limits: what is accepted from clients.
        **fedavg: as for Flower's FedAvg: fraction_train, min_train_nodes, ...

    Attributes:
        reports: what came of each round since `start`.

    Raises:
        ConfigError: a method, option or secret that cannot be.
    """

    def __init__(
        self,
        view: View | Layout,
        method: str = "fedmrn",
        options: Mapping[str, Any] | None = None,
        *,
        side: str = "float32",
        down: str = "float32",
        optimizer: ServerOptimizer | None = None,
        secret: bytes | None = None,
        limits: Limits = DEFAULT_LIMITS,
        **fedavg: Any,
    ) -> None:
        super().__init__(**fedavg)
        self.layout, self.tied = (view, {}) if isinstance(view, Layout) else (view.layout, view.tied)
        self.method = find_method(method)
        self.scheme = self.method.scheme(options, side, down, optimizer)
        self.reports: list[RoundReport] = []
        self._secret, self._limits = secret, limits
        self._server: Server | None = None
        self._conduct: Conduct | None = None
        self._asked: dict[int, Metadata] = {}
        self._initial = ArrayRecord()

    def summary(self) -> None:
        """Log the method, then what FedAvg logs."""
        log(INFO, "\t├──> fedmrn: method %s, %s trained parameters", self.method.name, f"{self.layout.trainable:,}")
        super().summary()

    def start(self, grid: Grid, initial_arrays: ArrayRecord, *args: Any, **kwargs: Any) -> Result:
        """Run all rounds, as FedAvg does, from these arrays: a state dict of the model.

        Replies are folded as they come.

        Raises:
            ConfigError: the arrays are not those of the model.
        """
        self.begin(initial_arrays)
        return super().start(Streaming(grid), initial_arrays, *args, **kwargs)

    def begin(self, initial_arrays: ArrayRecord) -> Server:
        """Set the model that round 1 starts from; for those who call `configure_train` themselves.

        Returns:
            The server that the rounds will move.

        Raises:
            ConfigError: the arrays are not those of the model.
        """
        model = _flat(self.layout, initial_arrays)
        state = Server.initial(self.layout, self.scheme, model)
        secret = os.urandom(32) if self._secret is None else self._secret
        self._server = Server(self.layout, self.scheme, state, secret, limits=self._limits)
        sent = {*self.layout.slices, *self.tied}
        self._initial = ArrayRecord({name: array for name, array in initial_arrays.items() if name not in sent})
        self._conduct, self.reports = None, []
        return self._server

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample nodes as FedAvg does, and return each one's broadcast.

        The messages are a list: Flower's grid goes over them twice. They share the bytes of the state.
        """
        self._conduct = None
        stock = super().configure_train(server_round, ArrayRecord(), config, grid)
        nodes = [message.metadata.dst_node_id for message in stock]
        if not nodes:
            return []
        server = self.begin(arrays) if self._server is None else self._server
        conduct = Conduct(server.begin(server_round, nodes), self.layout.trainable, noun="node")
        cutter, messages = Cutter(), []
        for node in nodes:
            head, state = cutter.cut(conduct.train(node).content)
            record = ArrayRecord({FRAME: head, STATE: state})
            content = RecordDict({self.arrayrecord_key: record, self.configrecord_key: config})
            messages.append(Message(content=content, message_type=MessageType.TRAIN, dst_node_id=node))
        # Ids are given to messages when they are sent. What is kept of them does not hold their content.
        self._asked = {message.metadata.dst_node_id: message.metadata for message in messages}
        self._conduct = conduct
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold replies one at a time, as they come; refuse each that does not belong, and go on.

        Returns:
            The new model and the mean of the clients' metrics with the counts of `RoundReport.metrics`; no model, only
            counts, where nothing was folded: the old one stays.
        """
        conduct = self._conduct
        if conduct is None or conduct.finished:
            return None, None
        metrics = Metrics(self.weighted_by_key, self._limits.max_weight)
        for message in replies:
            node = self._node_of(message)
            sender, answers = message.metadata.src_node_id if node is None else node, node is not None
            if message.has_error():
                conduct.fail(sender, _reason(message), answers=answers)
                continue
            try:
                if node is None:
                    raise UnknownClientError("this reply answers no message of this round")
                data = update_bytes(message.content, self.arrayrecord_key)
            except FrameError as error:
                conduct.refuse(sender, error, size=size_of(message.content), answers=answers)
                continue
            try:
                conduct.fold(node, data)
            except FrameError:
                continue  # it is in the report
            metrics.add(node, message.content)
        self.reports.append(conduct.report)
        self._log(conduct.report)
        counts = MetricRecord(conduct.report.metrics())
        try:
            conduct.finish()
        except EmptyRoundError:
            log(WARNING, "round %s: no update was folded: the model stays as it was", server_round)
            return None, counts
        except UnusableModelError as error:
            log(WARNING, "%s", error)
            return None, counts
        good, others = metrics.agreeing()
        _log_others(server_round, others)
        mean = self.train_metrics_aggr_fn(good, self.weighted_by_key) if good else MetricRecord()
        return self.model(server_round), MetricRecord({**mean, **counts})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample nodes as FedAvg does, and return each one's message; the bytes of its arrays go into the report."""
        messages = list(super().configure_evaluate(server_round, arrays, config, grid))
        if self._conduct is not None:
            for message in messages:
                account = {"arrays": size_of(message.content)}
                self._conduct.note_sent(message.metadata.dst_node_id, MessageKind.EVALUATE, account)
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Average the metrics that have the form most have; the others are left out and named."""
        metrics = Metrics(self.weighted_by_key, self._limits.max_weight)
        for message in replies:
            node = message.metadata.src_node_id
            if message.has_error():
                log(WARNING, "evaluation after round %s: node %s: %s", server_round, node, _reason(message))
                if self._conduct is not None:
                    self._conduct.fail(node, _reason(message), MessageKind.EVALUATE)
                continue
            if self._conduct is not None:
                with suppress(FrameError):  # metrics are counted by the mean below, not by who was asked
                    self._conduct.note_received(node, MessageKind.EVALUATE, {})
            metrics.add(node, message.content)
        good, others = metrics.agreeing()
        _log_others(server_round, others)
        return self.evaluate_metrics_aggr_fn(good, self.weighted_by_key) if good else None

    def model(self, server_round: int) -> ArrayRecord:
        """Return the global model after a round as a state dict: what the clients evaluate, and `start` returns.

        What never travels (counters, frozen parameters) is as in the initial arrays.
        """
        if self._server is None:
            raise ConfigError("the strategy has no model yet: call start() or begin() first")
        values = next(iter(self._server.models(server_round)))
        arrays = dict(self._initial)
        for tensor in self.layout.tensors:
            arrays[tensor.name] = Array(values[self.layout.slices[tensor.name]].reshape(tensor.shape))
        return ArrayRecord({**arrays, **{other: arrays[name] for other, name in self.tied.items()}})

    def _node_of(self, message: Message) -> int | None:
        """Return the node whose message is answered; the sender of an error is not the node."""
        answered = message.metadata.reply_to_message_id
        for node, asked in self._asked.items():
            if asked.message_id and asked.message_id == answered:
                return node if message.has_error() or message.metadata.src_node_id == node else None
        return None

    def _log(self, report: RoundReport) -> None:
        log(INFO if len(report.folded) == len(report.asked) else WARNING, "%s", report)
        for line in (*report.refused, *report.failed):
            log(WARNING, "\t> round %s: %s", report.round, line)


def _flat(layout: Layout, arrays: ArrayRecord) -> NDArray[np.float32]:
    vector = np.empty(layout.size, np.float32)
    for tensor in layout.tensors:
        array = arrays.get(tensor.name)
        if array is None or array.dtype != "float32" or tuple(array.shape) != tensor.shape:
            found = "not there" if array is None else f"{array.dtype} of shape {tuple(array.shape)}"
            raise ConfigError(
                f"the initial arrays must be the model's state dict: {tensor.name} is {found}, and must be float32 of "
                f"shape {tensor.shape}"
            )
        if prod(tensor.shape):
            vector[layout.slices[tensor.name]] = array.numpy().reshape(-1)
    return vector


def _reason(message: Message) -> str:
    """What an error says, as one line: its text is a client's."""
    text = (message.error.reason or "")[:300].encode("unicode_escape").decode("ascii")
    return f"code {message.error.code}: {text}"


def _log_others(server_round: int, nodes: list[int]) -> None:
    if nodes:
        log(WARNING, "round %s: metrics left out, as their form is not the others', of nodes %s", server_round, nodes)
