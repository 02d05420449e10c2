"""Rounds of the strategy told to trackers, under the names that experiments have too (`fedmrn.tracking.base`)."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from logging import INFO, WARNING, getLogger
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, MetricRecord

from fedmrn.federation.report import RoundReport
from fedmrn.methods import Method
from fedmrn.tracking import Measured, Place, Tracker, Tracking, check_trackers, find_trackers
from fedmrn.tracking.base import DOWN, FOLDED, UP, UP_BITS, Setting

log = getLogger("flwr").log
_Values = Mapping[str, int | float | list[int] | list[float]]
_Evaluate = Callable[[int, ArrayRecord], MetricRecord | None]


class Tracked:
    """Collects what is known of each round, and tells it at the round's end.

    Metrics of training are `train/NAME`, those of evaluation on clients `eval/NAME`, and those of the server's own
    `evaluate_fn` `test/NAME`; a `train_` or `eval_` in front of a name is dropped. Lists are left out.

    Args:
        track: names of `fedmrn.tracking.TRACKERS`, or trackers.
        method: of the run.
        options: of the method.
        configuration: what else is set; of its values words, numbers and truth values are told.

    Raises:
        ConfigError, UsageError: a name that is not one, or whose library is not installed.
    """

    def __init__(
        self,
        track: Sequence[str | Tracker],
        method: Method,
        options: Mapping[str, Any] | None,
        configuration: Mapping[str, object],
    ) -> None:
        check_trackers(name for name in track if isinstance(name, str))
        self._track, self._method = track, method.name
        self._configuration: dict[str, Setting] = {"method": method.name}
        self._configuration |= {f"options.specific.{name}": value for name, value in method.resolve(options).items()}
        self._configuration |= {k: v for k, v in configuration.items() if isinstance(v, str | int | float | bool)}
        self._values: dict[str, float] = {}
        self._started = 0.0

    def note(self, kind: str, values: _Values) -> _Values:
        """Keep the numbers of this kind (`train`, `eval`, `test`) until the round ends; return the values."""
        for name, value in values.items():
            if isinstance(value, int | float):
                self._values[f"{kind}/{name.removeprefix(f'{kind}_')}"] = value
        return values

    @contextmanager
    def run(
        self, rounds: int, reports: Callable[[], Sequence[RoundReport]], arguments: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """Tell the rounds of a run.

        Args:
            rounds: that it will have.
            reports: returns those of its rounds so far.
            arguments: of Flower's `start`, by name.

        Yields:
            The same with another `evaluate_fn`, which Flower calls at the end of each round.
        """
        if not self._track:
            yield arguments
            return
        name = f"flower/{self._method}-{time.strftime('%Y%m%d-%H%M%S')}"
        place = Place(name, Path("runs", name))
        evaluate: _Evaluate | None = arguments.get("evaluate_fn")
        trackers: dict[str, Tracker] = {}
        for track in self._track:
            if isinstance(track, str):
                trackers |= find_trackers([track], place)
                log(INFO, "\t├──> fedmrn: tracked by %s as %s", track, place.folder)
            else:
                trackers[f"{type(track).__name__} ({len(trackers)})"] = track
        self._started, self._values = time.perf_counter(), {}
        with Tracking(trackers, lambda text: log(WARNING, "%s", text)) as told:
            told.start({**self._configuration, "train.rounds": rounds})

            def ended(number: int, arrays: ArrayRecord) -> MetricRecord | None:
                """Evaluate the model as the application does, and tell the round."""
                found = None if evaluate is None else evaluate(number, arrays)
                self.note("test", {} if found is None else dict(found))
                self._tell(told, number, reports())
                return found

            yield {**arguments, "evaluate_fn": ended}

    def _tell(self, told: Tracking, number: int, reports: Sequence[RoundReport]) -> None:
        """Tell a round with its bytes, and begin to collect the next."""
        now = time.perf_counter()
        for report in reports[-1:]:
            if report.round == number:
                self._values |= {UP: report.total_up, DOWN: report.total_down, FOLDED: len(report.folded)}
                if report.folded:
                    self._values[UP_BITS] = 8 * report.up / (len(report.folded) * report.trainable)
        if self._values:
            told.round(Measured(number, now - self._started, self._values))
        self._started, self._values = now, {}
