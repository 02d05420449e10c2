"""A run that is tracked: what trackers have is what its records say, whenever it was stopped or tracked."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from trackers import in_mlflow, in_tensorboard, mlflow_store

from fedmrn.experiments.run.record import read_records
from fedmrn.experiments.run.runner import run
from fedmrn.experiments.settings import load_setting
from silent import Silent

__all__ = ["mlflow_store"]

SMALL = ["data.clients=4", "train.clients_per_round=2", "train.local_epochs=1", "train.threads=1"]
NAMES = {
    "test/accuracy",
    "test/loss",
    "train/loss",
    "traffic/up_bytes",
    "traffic/down_bytes",
    "traffic/total_bytes",
    "traffic/up_bits_per_parameter",
    "clients/folded",
    "time/round_seconds",
}


class Warned(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


def run_to(folder: Path, rounds: int, track: Sequence[str], *changes: str) -> Warned:
    experiment = load_setting("digits", [*SMALL, *changes, f"train.rounds={rounds}"]).experiment("fedmrn", 1)
    progress = Warned()
    run(experiment, folder, data_dir=folder, resume=True, progress=progress, track=track)
    return progress


@pytest.mark.xdist_group("mlflow")
@pytest.mark.usefixtures("mlflow_store")
def test_both_have_the_same_names_and_the_numbers_of_the_records(tmp_path: Path) -> None:
    folder = tmp_path / "digits" / "mine"
    run_to(folder, 1, ["tensorboard", "mlflow"], "train.calibrate=every")
    run_to(folder, 2, [], "train.calibrate=every")  # untracked
    run_to(folder, 3, ["tensorboard", "mlflow"], "train.calibrate=every")
    records = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    board, hparams = in_tensorboard(folder)
    lab, params, status = in_mlflow("digits/mine")
    assert set(board) == set(lab) == NAMES
    assert all([step for step, _ in values] == [1, 2, 3] for values in [*board.values(), *lab.values()])
    moved = [{way: r[way]["total"] + r["calibration"][way]["total"] for way in ("up", "down")} for r in records]
    total = 0
    for number, (record, both) in enumerate(zip(records, moved, strict=True)):
        total += both["up"] + both["down"]
        expected = {
            "test/accuracy": record["accuracy"],
            "test/loss": record["loss"],
            "train/loss": record["train_loss"],
            "traffic/up_bytes": both["up"],
            "traffic/down_bytes": both["down"],
            "traffic/total_bytes": total,
            "traffic/up_bits_per_parameter": record["bits_per_parameter"],
            "clients/folded": 2,
            "time/round_seconds": record["seconds"],
        }
        assert {name: values[number][1] for name, values in lab.items()} == expected
        for name, values in board.items():
            assert values[number][1] == pytest.approx(expected[name], rel=2**-23), "TensorBoard's are float32"
    assert status == "FINISHED"
    assert (hparams["train.rounds"], params["train.rounds"]) == (1, "1"), "both keep a parameter's first value"
    assert params["options.specific.scale"] == hparams["options.specific.scale"] == "auto"


def test_a_finished_run_can_be_tracked_afterwards_and_what_was_not_tested_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_to(folder, 3, (), "train.test_every=2")
    run_to(folder, 3, ["tensorboard"], "train.test_every=2")
    found, _ = in_tensorboard(folder)
    assert [step for step, _ in found["test/accuracy"]] == [2, 3]
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3]


def test_a_tracker_that_fails_is_warned_of_once_and_the_run_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/all.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    told = run_to(tmp_path / "run", 2, ["mlflow", "tensorboard"])
    assert len(told.said) == 1
    assert told.said[0].startswith("tracker mlflow failed and is told no more of this run, which goes on: ")
    assert len(read_records(tmp_path / "run")) == 2
    assert len(in_tensorboard(tmp_path / "run")[0]["test/accuracy"]) == 2
