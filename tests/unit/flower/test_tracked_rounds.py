"""Rounds of the strategy, told to trackers under the names that experiments have."""

import logging
from pathlib import Path

import pytest
from flower_clients import grid, initial, strategy
from flwr.app import ArrayRecord, MetricRecord
from trackers import in_mlflow, in_tensorboard, mlflow_store

from fedmrn.errors import ConfigError
from fedmrn.tracking import TensorBoard

__all__ = ["mlflow_store"]

TRAFFIC = {f"traffic/{name}" for name in ("up_bytes", "down_bytes", "total_bytes", "up_bits_per_parameter")}


def accuracy(number: int, _: ArrayRecord) -> MetricRecord:
    return MetricRecord({"accuracy": number / 4, "loss": 1.0 - number / 4})


@pytest.mark.parametrize("by_place", [True, False])
def test_names_numbers_and_steps(by_place: bool, tmp_path: Path) -> None:
    plan = strategy(track=[TensorBoard(tmp_path)], options={"scale": 0.01})
    arguments = (None, None, accuracy) if by_place else ()
    more = {} if by_place else {"evaluate_fn": accuracy}
    result = plan.start(grid(), initial(), 2, 3600, *arguments, **more)
    found, hparams = in_tensorboard(tmp_path)
    assert found["test/accuracy"] == [(0, 0.0), (1, 0.25), (2, 0.5)]
    assert found["test/loss"] == [(0, 1.0), (1, 0.75), (2, 0.5)]
    own = {"clients/folded", "time/round_seconds"}
    assert set(found) == {"train/loss", "eval/accuracy", "test/accuracy", "test/loss", *TRAFFIC, *own}
    both = [(report.total_up, report.total_down) for report in plan.reports]
    assert [value for _, value in found["traffic/up_bytes"]] == [up for up, _ in both]
    assert [value for _, value in found["traffic/down_bytes"]] == [down for _, down in both]
    assert found["traffic/total_bytes"] == [(1, sum(both[0])), (2, sum(map(sum, both)))]
    assert found["clients/folded"] == [(1, 3), (2, 3)]
    for number in (1, 2):
        told = result.train_metrics_clientapp[number]
        assert found["train/loss"][number - 1] == (number, pytest.approx(told["train_loss"], rel=1e-6))
        bits = found["traffic/up_bits_per_parameter"][number - 1]
        assert bits == (number, pytest.approx(told["uplink-bits-per-parameter"], rel=1e-6))
    assert [*result.evaluate_metrics_serverapp] == [0, 1, 2]
    wanted = {"method": "fedmrn", "options.specific.scale": 0.01, "options.down": "float32", "train.rounds": 2}
    assert wanted.items() <= hparams.items()


@pytest.mark.xdist_group("mlflow")
@pytest.mark.usefixtures("mlflow_store")
def test_by_name_below_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO, "flwr"):
        strategy(track=["tensorboard", "mlflow"]).start(grid(), initial(), num_rounds=1)
    (folder,) = (tmp_path / "runs" / "flower").iterdir()
    assert f"tracked by mlflow as runs/flower/{folder.name}" in caplog.text
    board, _ = in_tensorboard(folder)
    lab, params, status = in_mlflow(f"flower/{folder.name}")
    assert set(board) == set(lab) >= {"train/loss", "eval/accuracy", *TRAFFIC}
    assert (params["method"], status) == ("fedmrn", "FINISHED")


def test_one_that_fails_does_not_stop_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    plan = strategy(track=[TensorBoard(tmp_path / "file" / "run")])
    with caplog.at_level(logging.WARNING, "flwr"):
        plan.start(grid(), initial(), num_rounds=2)
    assert len(plan.reports) == 2
    assert caplog.text.count("tracker TensorBoard (0) failed and is told no more") == 1


def test_an_unknown_name_is_told_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="there is no tracker 'wandb'"):
        strategy(track=["wandb"])
