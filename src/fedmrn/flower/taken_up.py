"""A strategy whose run is put away as it goes, and taken up again where it was stopped.

Flower's loop counts from round 1. What is over is told to it from the run's folder, without a message to anybody, so
that its result and log are those of a run that was never stopped.
"""

from collections.abc import Callable, Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmrn.federation.report import RoundReport
from fedmrn.flower.kept_lines import KeptLine, RoundPart
from fedmrn.flower.kept_run import KeptRun
from fedmrn.server import Server

Evaluate = Callable[[int, ArrayRecord], MetricRecord | None]


class TakenUp(Strategy):
    """Conducts the rounds of a strategy, but for those that are over.

    Args:
        inner: the strategy.
        server: that its rounds move.
        kept: the run's folder, which is locked.
        model: returns the model after a round, as a state dict.
        reports: of the strategy's rounds; those that come are added to it.
    """

    def __init__(
        self,
        inner: Strategy,
        server: Server,
        kept: KeptRun,
        model: Callable[[int], ArrayRecord],
        reports: list[RoundReport],
    ) -> None:
        self._inner, self._server, self._kept = inner, server, kept
        self._model, self._reports = model, reports

    def summary(self) -> None:
        """Log what the strategy does."""
        self._inner.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Put away whom the strategy asks, before anybody is."""
        if self._kept.is_over(RoundPart.TRAIN, server_round):
            return []
        messages = list(self._inner.configure_train(server_round, arrays, config, grid))
        nodes = tuple(message.metadata.dst_node_id for message in messages)
        self._kept.note(RoundPart.ASKED, server_round, KeptLine(nodes=nodes))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Put away what the strategy's round came to."""
        if self._kept.is_over(RoundPart.TRAIN, server_round):
            arrays = self._model(server_round) if server_round == self._kept.done else None
            return arrays, self._known(RoundPart.TRAIN, server_round)
        arrays, metrics = self._inner.aggregate_train(server_round, replies)
        self._kept.note(RoundPart.TRAIN, server_round, KeptLine(metrics=metrics, report=self._report(server_round)))
        if self._server.round == server_round:
            self._kept.save(self._server)
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask whom the strategy asks."""
        if self._kept.is_over(RoundPart.EVALUATE, server_round):
            return []
        return self._inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Put away what nodes found, and who lost what it held of public models."""
        if self._kept.is_over(RoundPart.EVALUATE, server_round):
            return self._known(RoundPart.EVALUATE, server_round)
        lost = self._lost()
        metrics = self._inner.aggregate_evaluate(server_round, replies)
        if self._lost() != lost:
            self._kept.save(self._server)
        self._kept.note(RoundPart.EVALUATE, server_round, KeptLine(metrics=metrics, report=self._report(server_round)))
        return metrics

    def evaluated(self, evaluate: Evaluate | None) -> Evaluate | None:
        """Return the server's own evaluation, of rounds that are over as it was."""
        if evaluate is None:
            return None

        def known(number: int, arrays: ArrayRecord) -> MetricRecord | None:
            if self._kept.is_over(RoundPart.TEST, number):
                return self._known(RoundPart.TEST, number)
            found = evaluate(number, arrays)
            self._kept.note(RoundPart.TEST, number, KeptLine(metrics=found))
            return found

        return known

    def _known(self, part: RoundPart, number: int) -> MetricRecord | None:
        line = self._kept.find(part, number)
        return None if line is None else line.metrics

    def _report(self, number: int) -> RoundReport | None:
        return next((report for report in reversed(self._reports) if report.round == number), None)

    def _lost(self) -> dict[int | str, int]:
        publisher = self._server.publisher
        return {} if publisher is None else dict(publisher.snapshot().lost)
