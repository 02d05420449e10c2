"""The half of the strategy that evaluates: on clients, by the model as they get broadcasts, or by arrays."""

from collections.abc import Iterable
from logging import INFO, getLogger

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedmrn.federation.conduct import Conduct
from fedmrn.federation.transport import MessageKind
from fedmrn.flower.advice import Watch
from fedmrn.flower.asking import to_evaluate
from fedmrn.flower.metrics import Metrics
from fedmrn.flower.replies import Replies
from fedmrn.flower.reports import Reports
from fedmrn.flower.tracked import Tracked
from fedmrn.server import Server
from fedmrn.wire.frame import Limits
from fedmrn.wire.layout import Layout

log = getLogger("flwr").log


class Evaluating(FedAvg):
    """FedAvg whose clients evaluate the model of a `Server`.

    Attributes:
        layout: of the model.
        reports: what came of each round.
    """

    layout: Layout
    reports: Reports
    _server: Server | None
    _conduct: Conduct | None
    _replies: Replies
    _watch: Watch
    _tracked: Tracked
    _limits: Limits
    _framed: bool

    def begin(self, initial_arrays: ArrayRecord) -> Server:
        """Return a server that starts with these arrays."""
        raise NotImplementedError

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample nodes as FedAvg does; each gets the model as it gets broadcasts, or arrays."""
        server = self.begin(arrays) if self._server is None else self._server
        if self._conduct is None or self._conduct.report.round != server_round:
            self._conduct = Conduct(server_round, self.layout.trainable, noun="node", publisher=server.publisher)
            self.reports.append(self._conduct.report)
        messages = list(super().configure_evaluate(server_round, arrays, config, grid))
        to_evaluate(self._conduct, messages, server, arrays, self.arrayrecord_key, framed=self._framed)
        self._replies = Replies(MessageKind.EVALUATE, messages)
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Average the metrics that have the form most have; the others are left out and named.

        Returns:
            The mean with the counts of `RoundReport.evaluation_metrics`; None if nobody was asked.
        """
        conduct = self._conduct
        if conduct is None or conduct.report.evaluation is None:
            return None
        metrics = Metrics(self.weighted_by_key, self._limits.max_weight)
        first = len(conduct.report.failed_otherwise)
        self._replies.note(conduct, replies, metrics)
        report = conduct.report
        log(INFO, "%s", report.evaluation_text())
        self._watch.warn(server_round, report.failed_otherwise[first:])
        mean = self._tracked.note("eval", metrics.mean(server_round, self.evaluate_metrics_aggr_fn))
        return MetricRecord({**mean, **report.evaluation_metrics()})
