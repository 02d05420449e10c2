"""Trackers write what they were told: read back by TensorBoard's and MLflow's own readers."""

import os
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from trackers import Series, in_mlflow, in_tensorboard

from fedmrn.tracking import MLflow, Point, TensorBoard, Tracker
from fedmrn.tracking.base import Setting
from fedmrn.tracking.mlflow import FILE

POINTS = [Point(n, 1000.0 + n, {"test/accuracy": n / 8, "traffic/up_bytes": 100.0 * n}) for n in range(1, 6)]
CHOSEN: dict[str, Setting] = {"method": "fedmrn", "train.rounds": 3, "options.lr": 0.125, "flag": True}
pytestmark = [pytest.mark.xdist_group("mlflow"), pytest.mark.usefixtures("mlflow_store")]
Make = Callable[[Path], Tracker]
Read = Callable[[Path], Series]
TRACKERS = {
    "tensorboard": (TensorBoard, lambda folder: in_tensorboard(folder)[0]),
    "mlflow": (lambda folder: MLflow("one", folder), lambda _: in_mlflow("one")[0]),
}


def series(points: Sequence[Point]) -> Series:
    """What a reader must find: the slow way."""
    return {name: [(p.step, p.values[name]) for p in points] for name in points[0].values}


def track(tracker: Tracker, done: int, until: int, **more: Setting) -> None:
    tracker.start(CHOSEN | more, POINTS[:done])
    for point in POINTS[done:until]:
        tracker.add(point)


@pytest.mark.parametrize(("make", "read"), TRACKERS.values(), ids=TRACKERS)
class TestATracker:
    def test_has_every_round_once(self, make: Make, read: Read, tmp_path: Path) -> None:
        tracker = make(tmp_path)
        track(tracker, 0, 3)
        tracker.close(whole=True)
        assert read(tmp_path) == series(POINTS[:3])

    def test_goes_on_in_the_same_run_without_doubled_steps(self, make: Make, read: Read, tmp_path: Path) -> None:
        for done, until in ((0, 3), (3, 4), (4, 4), (4, 5)):
            tracker = make(tmp_path)
            track(tracker, done, until)
            tracker.close(whole=until == 5)
        assert read(tmp_path) == series(POINTS)

    def test_has_its_rounds_also_where_it_was_killed(self, make: Make, read: Read, tmp_path: Path) -> None:
        track(make(tmp_path), 0, 3)  # never closed
        assert read(tmp_path) == series(POINTS[:3])
        tracker = make(tmp_path)
        track(tracker, 2, 5)  # and the run had lost a round that the tracker has
        tracker.close(whole=True)
        found = {name: {step for step, _ in values} for name, values in read(tmp_path).items()}
        assert found == {name: {1, 2, 3, 4, 5} for name in POINTS[0].values}

    def test_is_told_what_it_missed(self, make: Make, read: Read, tmp_path: Path) -> None:
        tracker = make(tmp_path)
        track(tracker, 4, 5)
        tracker.close(whole=True)
        assert read(tmp_path) == series(POINTS)

    def test_takes_a_loss_that_is_infinite(self, make: Make, read: Read, tmp_path: Path) -> None:
        tracker = make(tmp_path)
        tracker.start({}, [])
        tracker.add(Point(1, 1.0, {"test/loss": inf}))
        tracker.close(whole=True)
        ((step, value),) = read(tmp_path)["test/loss"]
        assert step == 1
        assert value > 1e308  # MLflow's database holds the largest double in its place


def test_tensorboard_has_the_configuration_as_hparams(tmp_path: Path) -> None:
    tracker = TensorBoard(tmp_path)
    track(tracker, 0, 3)
    tracker.close(whole=True)
    assert in_tensorboard(tmp_path)[1] == CHOSEN


def test_mlflow_has_the_configuration_as_parameters_and_says_how_the_run_ended(tmp_path: Path) -> None:
    tracker = MLflow("one", tmp_path)
    track(tracker, 0, 1, long="x" * 10_000)
    expected = {name: str(value) for name, value in CHOSEN.items()} | {"long": "x" * 500}
    assert in_mlflow("one")[1:] == (expected, "RUNNING")
    tracker.close(whole=False)
    assert in_mlflow("one")[2] == "KILLED"
    tracker = MLflow("one", tmp_path)
    track(tracker, 1, 2, **{"train.rounds": 9})  # MLflow lets nobody change a parameter
    assert in_mlflow("one")[1:] == (expected, "RUNNING")
    tracker.close(whole=True)
    assert in_mlflow("one")[2] == "FINISHED"


def test_mlflow_takes_more_parameters_and_metrics_than_one_call_of_it_may_have(tmp_path: Path) -> None:
    chosen: dict[str, Setting] = {f"name{i}": i for i in range(250)}
    points = [Point(n, float(n), {f"m{i}": float(i) for i in range(3)}) for n in range(1, 701)]
    tracker = MLflow("one", tmp_path)
    tracker.start(chosen, points)
    tracker.close(whole=True)
    found, params, _ = in_mlflow("one")
    assert found == series(points)
    assert params == {name: str(value) for name, value in chosen.items()}


@pytest.mark.parametrize("held", [b"0" * 32, b"../../etc", b"\xff\x00", b""], ids=["absent", "path", "binary", "empty"])
def test_mlflow_begins_anew_where_the_folder_names_no_run_of_its_store(held: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(held)
    tracker = MLflow("one", tmp_path)
    track(tracker, 2, 3)
    tracker.close(whole=True)
    assert in_mlflow("one")[0] == series(POINTS[:3])
    assert (tmp_path / FILE).read_bytes() != held


def test_mlflow_takes_the_experiment_that_its_variable_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    tracker = MLflow("one")
    track(tracker, 0, 1)
    tracker.close(whole=True)
    found = MlflowClient().get_experiment_by_name("mine")
    assert found is not None
    assert not (tmp_path / FILE).exists()
    assert [r.info.run_name for r in MlflowClient().search_runs([found.experiment_id])] == ["one"]


def test_an_mlflow_server_that_is_away_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By MLflow's own settings it would be asked for four minutes, and the run would stand still."""
    names = ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    for name in names:
        monkeypatch.setenv(name, "")  # so that it is as it was after the test
        monkeypatch.delenv(name)
    MLflow("one", tmp_path / "a").start({}, [])
    assert [os.environ[name] for name in names] == ["10", "1"]
    monkeypatch.setenv(names[1], "7")
    MLflow("one", tmp_path / "b").start({}, [])
    assert os.environ[names[1]] == "7"
