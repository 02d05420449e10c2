"""Trackers: rounds told to TensorBoard and MLflow, under the same names in both.

    base          what a tracker is, what it is told, and the names of metrics
    several       tells several trackers; one that fails is dropped, and training goes on
    table         trackers by the names that `--track` takes
    tensorboard   one tracker
    mlflow        another

A tracker's library is an extra, and is imported only where the tracker is asked for.
"""

from fedmrn.tracking.base import Measured, Point, Tracker
from fedmrn.tracking.mlflow import MLflow
from fedmrn.tracking.several import Tracking
from fedmrn.tracking.table import TRACKERS, Place, check_trackers, find_trackers
from fedmrn.tracking.tensorboard import TensorBoard

__all__ = [
    "TRACKERS",
    "MLflow",
    "Measured",
    "Place",
    "Point",
    "TensorBoard",
    "Tracker",
    "Tracking",
    "check_trackers",
    "find_trackers",
]
