"""A run as trackers are told of it: its configuration by dotted names, and its rounds from their records."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedmrn.experiments.config import Experiment
from fedmrn.experiments.run.record import Record
from fedmrn.tracking import Measured, Place, Tracking, find_trackers
from fedmrn.tracking.base import ACCURACY, DOWN, FOLDED, LOSS, TRAIN_LOSS, UP, UP_BITS, Setting


@contextmanager
def tracked(
    names: Sequence[str], folder: Path, experiment: Experiment, records: Sequence[Record], warn: Callable[[str], None]
) -> Iterator[Tracking]:
    """Tell trackers of a run: its configuration and the rounds that are done now, the others as they come.

    Args:
        names: keys of `fedmrn.tracking.TRACKERS`.
        folder: of the run, which is this process's.
        experiment: what is run.
        records: of the rounds that are done.
        warn: is told of a tracker that fails.

    Raises:
        UsageError: as `find_trackers`.
    """
    name = "/".join(folder.resolve().parts[-2:])
    with Tracking(find_trackers(names, Place(name, folder)), warn) as told:
        told.start(dict(_flat(experiment.as_dict())), [measured(record) for record in records])
        yield told


def measured(record: Record) -> Measured:
    """Return what trackers are told of a round; what was not tested is left out."""
    values = {
        ACCURACY: record.accuracy,
        LOSS: record.loss,
        TRAIN_LOSS: record.train_loss,
        UP: record.total("up"),
        DOWN: record.total("down"),
        UP_BITS: record.bits_per_parameter,
        FOLDED: len(record.clients),
    }
    return Measured(record.round, record.seconds, {name: v for name, v in values.items() if v is not None})


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Setting]]:
    """Yield the values of nested tables by dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
