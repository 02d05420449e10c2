"""TensorBoard: scalars and hparams in event files, by TensorBoard's own writer."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmrn.tracking.base import Point, Setting


class TensorBoard:
    """Writes a run's rounds to event files.

    Each start writes all rounds again, in a new file whose first event says that what came before no longer counts.
    Readers then see every step once, also of a run that was killed, or was not tracked from its beginning.

    Args:
        folder: of the event files; TensorBoard names the run by its path below `--logdir`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def start(self, configuration: Mapping[str, Setting], before: Sequence[Point]) -> None:
        """Open a new event file, and write the configuration and the rounds that are done."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # noqa: PLC0415 - an extra
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb  # noqa: PLC0415
        from tensorboard.summary.writer.event_file_writer import EventFileWriter  # noqa: PLC0415

        self._writer = EventFileWriter(str(self._folder))
        now = time.time()
        self._writer.add_event(Event(wall_time=now, step=0, session_log=SessionLog(status=SessionLog.START)))
        self._writer.add_event(Event(wall_time=now, summary=hparams_pb(dict(configuration))))
        for point in before:
            self._write(point)
        self._writer.flush()

    def add(self, point: Point) -> None:
        """Write a round; it is on disk when this returns."""
        self._write(point)
        self._writer.flush()

    def close(self, *, whole: bool) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, point: Point) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415
        from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415

        values = [Summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
        self._writer.add_event(Event(wall_time=point.time, step=point.step, summary=Summary(value=values)))
