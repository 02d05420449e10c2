"""The strategy: Flower's FedAvg with one frame a client in place of dense arrays.

Sampling, `evaluate_fn` and the result are stock FedAvg's: the arrays that they see are the global model under the names
of its state dict. Messages differ, to train and to evaluate; `fedmrn.flower.client` answers them.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from logging import INFO, WARNING, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from fedmrn.errors import ConfigError, EmptyRoundError, UnusableModelError
from fedmrn.federation.conduct import Conduct
from fedmrn.federation.private_run import private_run
from fedmrn.federation.transport import MessageKind
from fedmrn.flower.advice import Watch
from fedmrn.flower.arrays import View, flat, state_dict
from fedmrn.flower.asking import check_evaluate, to_train
from fedmrn.flower.calibration import calibrate_on, check_calibrate, nodes_to_ask
from fedmrn.flower.evaluating import Evaluating
from fedmrn.flower.kept_lines import settings_of
from fedmrn.flower.kept_run import KeptRun
from fedmrn.flower.metrics import Metrics
from fedmrn.flower.records import RUN
from fedmrn.flower.replies import Replies
from fedmrn.flower.reports import Reports
from fedmrn.flower.streaming import Streaming
from fedmrn.flower.sum_on_grid import NO_SUM, SumOnGrid, checked_protection
from fedmrn.flower.taken_up import TakenUp
from fedmrn.flower.tracked import Tracked
from fedmrn.methods import method as find_method
from fedmrn.server import Clipping, Server
from fedmrn.server.grid import PublicGrid
from fedmrn.server.optimizer import ServerOptimizer
from fedmrn.tracking import Tracker
from fedmrn.wire.frame import DEFAULT_LIMITS, Limits
from fedmrn.wire.layout import Layout
from fedmrn.wire.public import tag_of

if TYPE_CHECKING:
    from fedmrn.secure import SecureSum

log = getLogger("flwr").log


class FedMRN(Evaluating):
    """FedMRN, or any other method of the table, in place of FedAvg.

    Args:
        view: `fedmrn.torch.ModelLayout.of(model)`, or a `Layout` for a server without torch.
        method: which method; `fedmrn methods` lists them.
        options: of the method, such as {"scale": 0.01, "coding": "entropy"}.
        side: how batch norm and other dense values travel up: float32, float16, levels.
        down: how the state travels down: float32, float16, eden4, eden3, eden2; "grid": as what changed since a node's
            last one (`fedmrn.server.PublicGrid`, which may be given in its place).
        optimizer: of the server (`fedmrn.server.optimizer`): FedAvgM, FedAdam; by default the mean is added.
        secret: 16 to 64 bytes that noise keys are derived from, for one run alone; by default fresh ones at each start.
        limits: what is accepted from clients.
        clipping: how one client's influence is bounded; None bounds it by the limits alone.
        equal: count all clients alike, whatever weights they claim.
        evaluate: how the model travels to clients that evaluate it: as a "frame", coded as `down` says, which
            `fedmrn.flower.client.load` reads; or as plain "arrays", a state dict, for a stock client function.
        calibrate: after the last round, before its evaluation, ask nodes for batch norm's statistics of the new model
            (`fedmrn.flower.client.calibrate`): True for the nodes of that round, or how many that are connected.
        give_up_after: end the run with an error after so many rounds in a row without an update; None or 0: never.
        checkpoint: a folder that keeps the run, so that `start` goes on where it stopped (`fedmrn.flower.kept_run`).
        protect: `fedmrn.secure.SecureSum` sums updates so that none is seen; None: each is folded by itself.
            With `theta`, the log tells epsilon, and a round of fewer nodes than its threshold (without protection: than
            `min_train_nodes`) is lost.
        track: tells rounds to "tensorboard" and "mlflow", below runs/flower, or to a `fedmrn.tracking.Tracker`.
        **fedavg: as for Flower's FedAvg: fraction_train, min_train_nodes, ...

    Attributes:
        reports: what came of each round since `start`; of the last ones where they are very many (`Reports`).

    Raises:
        UsageError: a method, option, secret or other argument that cannot be; a tracker that is not installed.
    """

    def __init__(
        self,
        view: View | Layout,
        method: str = "fedmrn",
        options: Mapping[str, Any] | None = None,
        *,
        side: str = "float32",
        down: str | PublicGrid = "float32",
        optimizer: ServerOptimizer | None = None,
        secret: bytes | None = None,
        limits: Limits = DEFAULT_LIMITS,
        clipping: Clipping | None = Clipping(),  # noqa: B008 - immutable
        equal: bool = False,
        evaluate: str = "frame",
        calibrate: bool | int = False,
        give_up_after: int | None = 3,
        checkpoint: Path | str | None = None,
        protect: "SecureSum | None" = None,
        track: Sequence[str | Tracker] = (),
        **fedavg: Any,
    ) -> None:
        super().__init__(**fedavg)
        check_evaluate(evaluate)
        check_calibrate(calibrate)
        self._calibrate, self._last, self._timeout = calibrate, 0, 0.0
        self._grid: Grid | None = None
        self._framed, self._give_up_after = evaluate == "frame", give_up_after
        self.layout, self.tied = (view, {}) if isinstance(view, Layout) else (view.layout, view.tied)
        self.method = find_method(method)
        self.scheme = self.method.scheme(options, side, down, optimizer, equal=equal)
        self.reports = Reports()
        self._secret, self._limits, self._clipping = secret, limits, clipping
        self._server: Server | None = None
        self._protect, self._sums = checked_protection(protect, self.scheme, self.layout), NO_SUM
        self._private = private_run(self.scheme, self.layout, self.min_train_nodes, protect)
        self._conduct: Conduct | None = None
        self._replies, self._watch = Replies(MessageKind.TRAIN), Watch(self._give_up_after)
        self._initial = ArrayRecord()
        settings = settings_of(self.method, options, side, down, self.scheme, clipping)
        self._kept = None if checkpoint is None else KeptRun(Path(checkpoint), settings)
        self._tracked = Tracked(track, self.method, options, {"options.side": side, "options.down": down, **fedavg})

    def summary(self) -> None:
        """Log the method, then what FedAvg logs."""
        log(INFO, "\t├──> fedmrn: method %s, %s trained parameters", self.method.name, f"{self.layout.trainable:,}")
        super().summary()

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        *args: Any,
        **kwargs: Any,
    ) -> Result:
        """Run all rounds, as FedAvg does, from these arrays: a state dict of the model.

        Replies are folded as they come.

        Raises:
            ConfigError: the arrays are not those of the model.
            RunError: the folder of `checkpoint` is in use, damaged, or holds another run.
            NoUpdatesError: `give_up_after` rounds in a row had no update.
        """
        self._grid, self._last, self._timeout = Streaming(grid), num_rounds, timeout
        kwargs |= zip(("train_config", "evaluate_config", "evaluate_fn"), args, strict=False)
        kept = self._kept
        with ExitStack() as held:
            if kept is not None:
                held.enter_context(kept.locked())
            server = self.begin(initial_arrays) if kept is None else self._go_on(kept, initial_arrays, num_rounds)
            if self._private is not None:
                log(INFO, "%s", self._private.before(num_rounds))
                held.callback(lambda account: log(INFO, "%s", account.after()), self._private)
            kwargs = held.enter_context(self._tracked.run(num_rounds, lambda: self.reports, kwargs))
            if kept is None:
                return super().start(self._grid, initial_arrays, num_rounds, timeout, **kwargs)
            taken_up = TakenUp(self, server, kept, self.model, self.reports)
            kwargs["evaluate_fn"] = taken_up.evaluated(kwargs.get("evaluate_fn"))
            return taken_up.start(self._grid, initial_arrays, num_rounds, timeout, **kwargs)

    def _go_on(self, kept: KeptRun, initial_arrays: ArrayRecord, num_rounds: int) -> Server:
        server = self.begin(initial_arrays)
        found = kept.go_on(server, num_rounds, self._secret)
        if found is not None:
            self._take(found, initial_arrays)
            self.reports = Reports(kept.reports)
            if self._private is not None:
                self._private.recall(found.round, ((r.round, len(r.folded)) for r in kept.reports))
            if self.reports:  # its round's evaluation may follow
                self._conduct = Conduct(found.round, self.layout.trainable, noun="node", publisher=found.publisher)
                self._conduct.report = self.reports[-1]
        return found or server

    def begin(self, initial_arrays: ArrayRecord) -> Server:
        """Set the model that round 1 starts from, and return the server; for those who call `configure_train`.

        Raises:
            ConfigError: the arrays are not those of the model.
        """
        model = flat(self.layout, initial_arrays)
        state = Server.initial(self.layout, self.scheme, model)
        secret = os.urandom(32) if self._secret is None else self._secret
        server = Server(self.layout, self.scheme, state, secret, limits=self._limits, clipping=self._clipping)
        self._take(server, initial_arrays)
        return server

    def _take(self, server: Server, initial_arrays: ArrayRecord) -> None:
        self._server, sent = server, {*self.layout.slices, *self.tied}
        if self._private is not None:
            self._private.recall(0)
        self._initial = ArrayRecord({name: array for name, array in initial_arrays.items() if name not in sent})
        self._conduct, self.reports = None, Reports()
        self._watch = Watch(self._give_up_after)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample nodes as FedAvg does, and return each one's broadcast: a list, as Flower's grid goes over it twice."""
        self._conduct = None
        stock = super().configure_train(server_round, ArrayRecord(), config, grid)
        nodes = [message.metadata.dst_node_id for message in stock]
        server = self.begin(arrays) if self._server is None else self._server
        if self._kept is not None:
            nodes = self._kept.asked_again(server_round, nodes, grid.get_node_ids(), self.min_train_nodes)
        if not nodes:
            self._conduct = Conduct(server_round, self.layout.trainable, noun="node", publisher=server.publisher)
            return []
        conduct = Conduct(server.begin(server_round, nodes), self.layout.trainable, noun="node")
        if self._kept is not None:
            config = ConfigRecord({**config, RUN: tag_of(server.run)})
        if self._protect is not None:
            self._sums = SumOnGrid(self._protect, server, conduct, grid, self.arrayrecord_key, self._timeout)
            nodes = self._sums.begin(nodes)
        messages = to_train(conduct, nodes, config, (self.arrayrecord_key, self.configrecord_key))
        if self._sums is not None:
            self._sums.enclose(messages)
        self._replies = Replies(MessageKind.TRAIN, messages)
        self._conduct = conduct
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold replies one at a time, as they come; refuse each that does not belong, and go on.

        Returns:
            The new model and the mean of the clients' metrics with the counts of `RoundReport.metrics`; no model, only
            counts, where nothing was folded: the old one stays.

        Raises:
            NoUpdatesError: nothing was folded, as in the rounds before: `give_up_after` in all.
        """
        conduct = self._conduct
        if conduct is None or any(report is conduct.report for report in self.reports):
            return None, None
        metrics, report = Metrics(self.weighted_by_key, self._limits.max_weight), conduct.report
        take = conduct.fold if self._sums is None else self._sums.take
        self._replies.fold(conduct, replies, metrics, self.arrayrecord_key, take)
        if self._sums is not None and report.asked:
            self._sums.unmask()
        self.reports.append(report)
        self._watch.warn(server_round, report.failed_otherwise, silence=report.unheard and not report.asked)
        told = len(report.failed_otherwise)
        if not report.asked:
            if self.fraction_train > 0:
                self._watch.count(report)
            return None, None
        usable = self._private is None or self._private.close(report)
        self._watch.tell(report)
        counts = MetricRecord(report.metrics())
        try:
            if usable:
                conduct.finish()
        except EmptyRoundError:
            pass  # told and counted below
        except UnusableModelError as error:
            log(WARNING, "%s", error)
            return None, counts
        self._watch.count(report)
        if not report.folded:
            log(WARNING, "round %s: no update was folded: the model stays as it was", server_round)
            return None, counts
        if self._calibrate and server_round == self._last and self._grid is not None and self._server is not None:
            nodes = nodes_to_ask(self._grid, self._server, self._calibrate, report.asked)
            calibrate_on(self._grid, self._server, conduct, nodes, key=self.arrayrecord_key, timeout=self._timeout)
            self._watch.warn(server_round, report.failed_otherwise[told:])
        mean = self._tracked.note("train", metrics.mean(server_round, self.train_metrics_aggr_fn))
        return self.model(server_round), MetricRecord({**mean, **report.metrics()})

    def model(self, server_round: int) -> ArrayRecord:
        """Return the global model after a round as a state dict: what the clients evaluate, and `start` returns.

        What never travels (counters, frozen parameters) is as in the initial arrays.
        """
        if self._server is None:
            raise ConfigError("the strategy has no model yet: call start() or begin() first")
        values = next(iter(self._server.models(server_round)))
        return state_dict(self.layout, values, self.tied, self._initial)
