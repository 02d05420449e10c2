"""Trackers by the names that `--track` takes."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from fedmrn.errors import ConfigError, UsageError
from fedmrn.text import nearest
from fedmrn.tracking.base import Tracker
from fedmrn.tracking.mlflow import MLflow
from fedmrn.tracking.tensorboard import TensorBoard


class Place(NamedTuple):
    """Where a run is tracked.

    Attributes:
        name: of the run, for a person.
        folder: of the run.
    """

    name: str
    folder: Path


class _Row(NamedTuple):
    """A tracker: what it imports, and how it is made; its extra has the name that it has here."""

    library: str
    make: Callable[[Place], Tracker]


TRACKERS: Mapping[str, _Row] = MappingProxyType(
    {
        "tensorboard": _Row("tensorboard.summary", lambda place: TensorBoard(place.folder)),
        "mlflow": _Row("mlflow.tracking", lambda place: MLflow(place.name, place.folder)),
    }
)


def check_trackers(names: Iterable[str]) -> None:
    """Import what these trackers need: now, and not after hours of training.

    Raises:
        ConfigError: there is no such tracker.
        UsageError: its library is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"there is no tracker {name!r}{nearest(name, TRACKERS)}")
        try:
            import_module(TRACKERS[name].library)
        except ImportError as error:
            text = f'tracking by {name} needs what is not installed ({error}): pip install "fedmrn[{name}]"'
            raise UsageError(text) from error


def find_trackers(names: Iterable[str], place: Place) -> dict[str, Tracker]:
    """Return new trackers of a run, by name.

    Raises:
        ConfigError, UsageError: as `check_trackers`.
    """
    names = dict.fromkeys(names)
    check_trackers(names)
    return {name: TRACKERS[name].make(place) for name in names}
