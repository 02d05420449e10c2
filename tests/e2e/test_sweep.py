"""Sweeps from the command line: what is run, what is told, what is there at the end."""

import json
from pathlib import Path

import pytest
from command import Cli

SWEEP = """
description = "scales, and one that diverges"
preset = "digits"
seeds = [1]
[set]
train.rounds = 1
train.local_epochs = 1
train.clients_per_round = 1
[[block]]
methods = ["fedavg"]
set.method.lr = 1e30
[[block]]
methods = ["fedmrn", "fedmrn-s"]
axes.method.scale = [0.01, 0.02]
"""


@pytest.mark.slow
def test_failures_are_told_tables_are_written_and_finished_cells_are_not_run_again(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(SWEEP)
    done = cli("sweep", "mine.toml", "--jobs", "1")
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["mine: scales, and one that diverges", "5 cells: 0 finished, 0 begun, 5 new"]
    cells = [f"scale={scale}/{method}-seed1" for scale in ("0.01", "0.02") for method in ("fedmrn", "fedmrn-s")]
    told = [line[9:] for line in lines[2:7]]
    assert "lower the learning rate" in told[0]
    assert told[0].startswith("[1/5] fedavg-seed1: failed after 0 rounds: ")
    for place, (line, cell) in enumerate(zip(told[1:], cells, strict=True), 2):
        assert line.startswith(f"[{place}/5] {cell}: 1 rounds, accuracy ")
    folder = tmp_path / "runs/mine"
    for scale in ("0.01", "0.02"):
        rows = json.loads((folder / f"scale={scale}" / "summary.json").read_text())
        assert [row["method"] for row in rows] == ["fedmrn", "fedmrn-s"]
        assert (folder / f"scale={scale}" / "report.html").exists()
        assert sum(line.split()[:1] == [f"scale={scale}"] for line in lines) == 2
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("rounds.jsonl") if "scale" in str(path)}
    assert len(before) == 4

    (tmp_path / "mine.toml").write_text(
        SWEEP.replace("0.02]", "0.03]").replace('"fedavg"', '"topk"').replace("1e30", "0.1")
    )
    done = cli("sweep", "mine.toml", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert "5 cells: 2 finished, 0 begun, 3 new; not of this sweep: fedavg-seed1, " in done.stdout
    assert "scale=0.02/fedmrn-s-seed1" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before

    (tmp_path / "mine.toml").write_text(SWEEP.replace("train.rounds = 1", "train.rounds = 2"))  # more is no difference
    done = cli("sweep", "mine.toml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "5 cells: 0 finished, 5 begun, 0 new; not of this sweep: " in done.stdout

    (tmp_path / "mine.toml").write_text(SWEEP.replace("train.local_epochs = 1", "train.local_epochs = 2"))
    done = cli("sweep", "mine.toml", "--dry-run")
    assert done.returncode == 2
    assert "fedavg-seed1 holds another configuration: train.local_epochs is 1 there and 2 here" in done.stderr


def test_a_dry_run_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    done = cli("sweep", "digits-ablation", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "fedmrn-no-pm-seed2  0 of 10" in done.stdout
    assert "10 cells: 0 finished, 0 begun, 10 new" in done.stdout
    assert not list(tmp_path.iterdir())
