"""The loop over the rounds of a federation over HTTP, on the server's side; needs no training framework.

A round is begun, saved, put on the desk, and finished when all have answered or its time is over. A server that is
killed begins the round again with the same clients and the answers that it has on disk, and comes to the same model.
"""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path

from fedmrn.errors import ConfigError, FrameError, NoUpdatesError, UnusableModelError
from fedmrn.federation.conduct import Conduct
from fedmrn.federation.model_frames import model_frames
from fedmrn.federation.private_run import private_run
from fedmrn.federation.report import RoundReport
from fedmrn.files import append, read_file, write_atomic
from fedmrn.http.desk import Desk
from fedmrn.http.metrics import read_metrics
from fedmrn.http.plan import Plan
from fedmrn.http.spool import Spool
from fedmrn.http.tasks import OpenEvaluation, OpenTask, digest_of
from fedmrn.parsed import parse_json
from fedmrn.server import Server

_log = getLogger(__name__)
ROUNDS = "rounds.jsonl"
"""The file with a line for each round."""
_MOST_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a round.

    Attributes:
        report: who was asked, folded, refused, and every byte of frames, metrics, configurations and verdicts.
        clients: who was drawn.
        metrics: means of what clients said of training.
        evaluation: means of what they said of the new model; empty where nobody was asked.
        seconds: wall time.
    """

    report: RoundReport
    clients: tuple[int, ...]
    metrics: dict[str, float]
    evaluation: dict[str, float] = field(default_factory=dict)
    seconds: float

    def __str__(self) -> str:
        """A line for people."""
        report, evaluation = self.report, sorted(self.evaluation.items())
        said = "".join(f", {name} {value:.4g}" for name, value in (*sorted(self.metrics.items()), *evaluation))
        updates = f"{len(report.folded)} of {len(self.clients)} updates"
        traffic = f"{report.total_up:,} bytes up, {report.total_down:,} down"
        return f"round {report.round}: {updates}, {traffic}{said}"

    def line(self) -> str:
        """Return it as a line of JSON."""
        report = self.report
        return json.dumps(
            {
                "round": report.round,
                "clients": list(self.clients),
                "folded": sorted(report.folded),
                "refused": report.refused,
                "failed": report.failed,
                "failed_otherwise": report.failed_otherwise,
                **({} if report.epsilon is None else {"epsilon": report.epsilon}),
                "metrics": self.metrics,
                "evaluation": self.evaluation,
                "bytes": {kind: {"down": s.sent, "up": s.received} for kind, s in report.stages.items()},
                "total_down": report.total_down,
                "total_up": report.total_up,
                "seconds": round(self.seconds, 3),
            }
        )


class Rounds:
    """Runs the rounds.

    Args:
        server: whose state moves.
        plan: of the federation.
        desk: where clients get their tasks.
        spool: where answers are kept.
        folder: where the server is saved, and `rounds.jsonl` is written.
        lately: seconds within which a client must have asked for work to be drawn.

    Raises:
        ConfigError: masks are private, and the plan's `least` is 1, or there is no account of privacy.
    """

    def __init__(
        self, server: Server, plan: Plan, desk: Desk, spool: Spool, folder: Path, lately: float = 90.0
    ) -> None:
        self._server, self._plan, self._desk, self._spool = server, plan, desk, spool
        self._folder, self._lately = folder, lately
        self._private = private_run(server.scheme, server.layout, plan.least)

    def run(self) -> Iterator[Outcome]:
        """Yield what came of each round that was not finished before.

        Raises:
            NoUpdatesError: deadlines in a row passed without as many updates as the plan asks for.
            UnusableModelError: rounds in a row would have left a model that is not finite.
            OSError: the server cannot be saved, or its lines cannot be written.
            ClosedError: the desk was closed.
        """
        failures = 0
        end_lines(self._folder / ROUNDS)
        if self._private is not None:
            self._private.recall(self._server.round, folded_before(self._folder))
            _log.info("%s", self._private.before(self._plan.rounds))
        while self._server.round < self._plan.rounds:
            try:
                outcome = self._round(self._server.round + 1)
            except UnusableModelError as error:
                _log.warning("%s", error)
                self._spool.clear()
                failures += 1
                if failures >= self._plan.give_up_after:
                    raise
                continue
            failures = 0
            append(self._folder / ROUNDS, f"{outcome.line()}\n".encode())
            _log.info("%s", outcome.report)
            yield outcome
        if self._private is not None:
            _log.info("%s", self._private.after())

    def _round(self, number: int) -> Outcome:
        server, plan, started = self._server, self._plan, time.monotonic()
        asked = [client for client in server.asked if isinstance(client, int)]  # of a round that was not finished
        if not asked:
            self._desk.start()
        chosen = asked or plan.draw(server, number, self._desk.wait_for(plan.wanted, self._lately))
        conduct = Conduct(server.begin(number, chosen), server.layout.trainable)
        server.save(self._folder)
        task = OpenTask(conduct, chosen, plan.told)
        self._take_kept(task)
        self._carry_out(task, plan.least)
        if self._private is not None:
            self._private.close(conduct.report)
        conduct.finish()
        server.save(self._folder)
        self._spool.clear()
        evaluation = self._evaluation(conduct, number) if plan.evaluates(number) else {}
        return Outcome(
            report=conduct.report,
            clients=tuple(chosen),
            metrics=task.means.mean(),
            evaluation=evaluation,
            seconds=time.monotonic() - started,
        )

    def _take_kept(self, task: OpenTask) -> None:
        """Take the answers that came before the server was killed."""
        for client, data, metrics in self._spool.kept(task.name):
            if client not in task.waiting:
                continue
            try:
                task.take(client, data, read_metrics(metrics), digest_of(data, metrics))
            except FrameError as error:
                _log.warning("round %s: what was kept of client %s does not do: %s", task.round, client, error)

    def _carry_out(self, task: OpenTask, least: int) -> None:
        """Open a task until all have answered, or its time is over and there are enough answers."""
        self._desk.put(task, self._plan.deadline)
        try:
            for left in reversed(range(self._plan.give_up_after)):
                done = self._desk.wait()
                if task.answers >= least:
                    return
                why = "nobody is left to answer" if done else f"{self._plan.deadline:g} s are over"
                came = f"{task.answers} of {len(task.clients)} answers"
                _log.warning("%s: %s, at least %s needed, and %s", task.name, came, least, why)
                if left:
                    self._desk.prolong(self._plan.deadline)
            raise NoUpdatesError(_no_updates(task, least))
        finally:
            self._desk.take_away()

    def _evaluation(self, conduct: Conduct, number: int) -> dict[str, float]:
        """Let clients evaluate the new model; return the means of what they say."""
        server, plan = self._server, self._plan
        present = self._desk.present(time.monotonic() - self._lately)
        evaluators = plan.draw_evaluators(server, number, present)
        if not evaluators:
            return {}
        frame = model_frames(server, next(iter(server.models(number))), number)
        task = OpenEvaluation(conduct, evaluators, plan.told, frame)
        self._carry_out(task, 0)
        return task.means.mean()


def end_lines(path: Path) -> None:
    """Cut off a last line that a full disk or a kill left half-written, so that the next one is a line of its own."""
    data = read_file(path, _MOST_BYTES) or b""
    whole, end, last = data.rpartition(b"\n")
    if last:
        with suppress(ConfigError):
            parse_json(last, finite=False)
            whole, end = data, b"\n"
        write_atomic(path, whole + end)


def folded_before(folder: Path) -> Iterator[tuple[int, int]]:
    """Yield each round's number, and how many updates were folded, of the lines of `rounds.jsonl` that can be read."""
    for line in (read_file(folder / ROUNDS, _MOST_BYTES) or b"").splitlines():
        with suppress(ConfigError, TypeError, KeyError, ValueError):
            values = parse_json(line, finite=False)
            yield int(values["round"]), len(values["folded"])


def _no_updates(task: OpenTask, least: int) -> str:
    report = task.conduct.report
    said = [text[:200] for text in (*report.refused, *report.failed)[-3:]]
    return (
        f"round {task.round}: {task.answers} updates came where {least} are the least, time and again; "
        f"the last words of clients: {'; '.join(said) or 'none'}"
    )
