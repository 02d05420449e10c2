"""`fedmrn ... | head -1`: who reads the output goes away, and the command does its work to the end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import Cli, changes


def into_nowhere(folder: Path, *arguments: str, errors_too: bool = False) -> tuple[int, str]:
    """Run a command whose output nobody reads from the start; return its exit code and what it says as errors."""
    there, here = os.pipe()
    os.close(there)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fedmrn", *arguments],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=here,
            stderr=here if errors_too else subprocess.PIPE,
            text=True,
            timeout=600,
            check=False,
        )
    finally:
        os.close(here)
    return done.returncode, done.stderr or ""


@pytest.mark.parametrize("errors_too", [False, True])
def test_a_run_is_whole(cli: Cli, tmp_path: Path, errors_too: bool) -> None:
    code, errors = into_nowhere(tmp_path, "run", "digits", "--out", "r", *changes(), errors_too=errors_too)
    assert code == 0
    assert errors == ("" if errors_too else errors)
    assert errors_too or errors.splitlines() == [
        "nobody reads the output any more: the command goes on to its end without it"
    ]
    assert len((tmp_path / "r" / "rounds.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "r" / "report.html").exists()
    for command in (["report", "r"], ["inspect", "r/last-update.bin"], ["methods"], ["presets"], ["datasets"]):
        code, errors = into_nowhere(tmp_path, *command)
        assert code == 0, command
        assert errors.count("\n") == (command[0] == "report")


def test_a_comparison_and_a_sweep_are_whole(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(
        'preset = "digits"\nmethods = ["fedavg", "fedmrn"]\nseeds = [1]\n[set]\ntrain.rounds = 1\n'
        "train.local_epochs = 1\ndata.clients = 4\ntrain.clients_per_round = 2\n"
    )
    assert into_nowhere(tmp_path, "sweep", "s.toml", "--out", "s", "--jobs", "1")[0] == 0
    assert into_nowhere(tmp_path, "compare", "digits", "--methods", "fedavg", "--out", "c", *changes())[0] == 0
    assert len(list(tmp_path.rglob("rounds.jsonl"))) == 3
    assert len(list(tmp_path.rglob("report.html"))) == 2
