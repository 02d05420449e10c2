"""Trackers from the command line: runs and sweeps, finished ones too, and what is told where one is missing."""

from pathlib import Path

import pytest
from command import Cli, changes, refused_in_one_line
from trackers import in_tensorboard

import fedmrn

SWEEP = """
preset = "digits"
seeds = [1]
methods = ["fedavg", "fedmrn"]
[set]
train.rounds = 1
train.local_epochs = 1
train.clients_per_round = 1
"""


def test_the_version(cli: Cli) -> None:
    done = cli("--version")
    assert (done.returncode, done.stdout) == (0, f"fedmrn {fedmrn.__version__}\n")


def test_an_unknown_tracker_is_told_before_anything_is_made(cli: Cli, tmp_path: Path) -> None:
    refused_in_one_line(cli("run", "digits", "--track", "tensorboart"), ["tensorboart", "did you mean 'tensorboard'?"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_comparison_is_tracked_run_by_run(cli: Cli, tmp_path: Path) -> None:
    done = cli("compare", "digits", "--methods", "fedavg,fedmrn", *changes(), "--track", "tensorboard")
    assert done.returncode == 0, done.stderr
    for name in ("fedavg", "fedmrn"):
        found, hparams = in_tensorboard(tmp_path / "runs" / "digits" / f"{name}-seed1")
        assert [step for step, _ in found["test/accuracy"]] == [1, 2]
        assert hparams["method"] == name


@pytest.mark.slow
def test_a_sweep_tells_its_cells_also_those_that_are_finished(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(SWEEP)
    assert cli("sweep", "mine.toml", "--jobs", "1").returncode == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("rounds.jsonl")}
    assert len(before) == 2
    done = cli("sweep", "mine.toml", "--jobs", "1", "--track", "tensorboard")
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before, "no round is run again"
    for path in before:
        assert [step for step, _ in in_tensorboard(path.parent)[0]["test/accuracy"]] == [1]
