"""Tells several trackers of a run; one that fails is dropped, and the run goes on."""

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from fedmrn.text import printable
from fedmrn.tracking.base import DOWN, SECONDS, TOTAL, UP, Measured, Point, Setting, Tracker


class Tracking:
    """A context manager around a run: the trackers are closed at its end, whatever ends it.

    Args:
        trackers: by name.
        warn: is told of each tracker that fails, once.
    """

    def __init__(self, trackers: Mapping[str, Tracker], warn: Callable[[str], None]) -> None:
        self._trackers, self._warn = dict(trackers), warn
        self._total = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._each(lambda tracker: tracker.close(whole=kind is None))

    def start(self, configuration: Mapping[str, Setting], before: Sequence[Measured] = ()) -> None:
        """Tell the configuration, and the rounds that are done."""
        now = time.time() - sum(measured.seconds for measured in before)
        points = []
        for measured in before:
            now += measured.seconds
            points.append(self._point(measured, now))
        self._each(lambda tracker: tracker.start(configuration, points))

    def round(self, measured: Measured) -> None:
        """Tell a round that has just ended."""
        point = self._point(measured, time.time())
        self._each(lambda tracker: tracker.add(point))

    def _point(self, measured: Measured, now: float) -> Point:
        values = {**measured.values, SECONDS: measured.seconds}
        if UP in values:
            self._total += values[UP] + values[DOWN]
            values[TOTAL] = self._total
        return Point(measured.number, now, values)

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in [*self._trackers.items()]:
            try:
                act(tracker)
            except Exception as error:  # of somebody else's library: the run is worth more than its picture
                del self._trackers[name]
                said = printable(" ".join(f"{type(error).__name__}: {error}".split()), 500)
                self._warn(f"tracker {name} failed and is told no more of this run, which goes on: {said}")
