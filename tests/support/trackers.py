"""What trackers wrote, read back by their own readers; and a store of MLflow of a test's own."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

Series = dict[str, list[tuple[int, float]]]
"""Metric -> (step, value), in the order in which the tracker keeps them."""


@pytest.fixture
def mlflow_store(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The database that MLflow has in this test; without the network."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    empty = tmp_path_factory.getbasetemp() / "mlflow-empty.db"
    if not empty.exists():  # to make its tables takes seconds: once for all tests of this process
        MlflowClient(f"sqlite:///{empty}").search_experiments()
    path = Path(shutil.copy(empty, tmp_path / "mlflow.db"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return path


def in_tensorboard(folder: Path) -> tuple[Series, dict[str, Any]]:
    """The scalars of a folder of event files, and its hparams."""
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    scalars = {name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    chosen = HParamsPluginData.FromString(content).session_start_info.hparams
    return scalars, {name: getattr(value, value.WhichOneof("kind")) for name, value in chosen.items()}


def in_mlflow(name: str) -> tuple[Series, dict[str, str], str]:
    """The metrics of MLflow's one run of this name, its parameters, and its status."""
    client = MlflowClient()
    experiments = [e.experiment_id for e in client.search_experiments()]
    (run,) = client.search_runs(experiments, f"attributes.run_name = '{name}'")
    histories = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
    series = {
        key: [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)] for key, history in histories.items()
    }
    return series, run.data.params, run.info.status
