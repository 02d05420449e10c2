"""MLflow: metrics and parameters of one of its runs, where `MLFLOW_TRACKING_URI` says."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmrn.files import read_file, write_atomic
from fedmrn.tracking.base import Point, Setting

FILE = "mlflow-run"
"""Holds the id of the run of MLflow that a folder is tracked as."""
_EXPERIMENT = "fedmrn"
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""Unless the environment says otherwise: by MLflow's own a server that is away would stop a run for minutes."""
_ID = re.compile(r"[0-9a-f]{32}")
_MOST = 1000
"""Metrics of a batch, as MLflow allows them."""
_LONGEST = 500
"""Characters of a parameter, as every version of MLflow allows them."""


class MLflow:
    """Tells MLflow of a run. Its own environment variables hold: `MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME`.

    No run of MLflow becomes the active one, so that an application's own calls of MLflow are not disturbed.

    Args:
        name: of the run.
        folder: keeps the id of MLflow's run, so that a run that is resumed goes on there; None: always a new one.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self._name, self._folder = name, folder
        self._client: Any = None
        self._run = ""

    def start(self, configuration: Mapping[str, Setting], before: Sequence[Point]) -> None:
        """Find or create MLflow's run; log its parameters, and of the rounds that are done those that it lacks."""
        from mlflow.entities import Param, RunTag  # noqa: PLC0415 - an extra
        from mlflow.tracking import MlflowClient  # noqa: PLC0415

        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        self._client = MlflowClient()
        there = self._there()
        if there is None:
            self._run = self._create()
            there = {}
        values = {name: str(value)[:_LONGEST] for name, value in configuration.items()}
        # A parameter is set once. What a longer run changes (its rounds) is a tag.
        changed = [RunTag(name, value) for name, value in values.items() if there.get(name, value) != value]
        params = [Param(name, value) for name, value in values.items() if name not in there]
        self._client.log_batch(self._run, params=params[:100], tags=changed)
        for at in range(100, len(params), 100):
            self._client.log_batch(self._run, params=params[at : at + 100])
        had = {name: self._steps(name) for name in {name for point in before for name in point.values}}
        self._log(
            Point(p.step, p.time, {name: v for name, v in p.values.items() if p.step not in had[name]}) for p in before
        )

    def add(self, point: Point) -> None:
        """Log a round."""
        self._log([point])

    def close(self, *, whole: bool) -> None:
        """Say how the run ended."""
        if self._run:
            self._client.set_terminated(self._run, "FINISHED" if whole else "KILLED")

    def _there(self) -> dict[str, str] | None:
        """Go on with the run that the folder names; return its parameters, or None where this store has no such run."""
        data = None if self._folder is None else read_file(self._folder / FILE, 1 << 10, "; delete it")
        name = b"" if data is None else data.strip()
        if not _ID.fullmatch(name.decode("ascii", "replace")):
            return None
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        try:
            found = self._client.get_run(name.decode())
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        if found.info.lifecycle_stage != "active":
            return None
        self._run = found.info.run_id
        self._client.update_run(self._run, status="RUNNING")
        return dict(found.data.params)

    def _create(self) -> str:
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        found = self._client.get_experiment_by_name(title)
        where = self._client.create_experiment(title) if found is None else found.experiment_id
        run: str = self._client.create_run(where, run_name=self._name).info.run_id
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self._folder / FILE, f"{run}\n".encode())
        return run

    def _steps(self, name: str) -> set[int]:
        return {metric.step for metric in self._client.get_metric_history(self._run, name)}

    def _log(self, points: Iterable[Point]) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415

        found = [Metric(name, v, int(1000 * p.time), p.step) for p in points for name, v in p.values.items()]
        for at in range(0, len(found), _MOST):
            self._client.log_batch(self._run, metrics=found[at : at + _MOST])
