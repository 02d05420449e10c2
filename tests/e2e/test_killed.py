"""Real kills at random moments: the same command goes on to the files of an undisturbed run."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import Cli, changes

KILLING = Path(__file__).with_name("killing.py")


def killed(folder: Path, seconds: list[float], *command: str) -> int:
    """How often a command was killed before it ended well."""
    done = subprocess.run(
        [sys.executable, str(KILLING), ",".join(f"{s:.3f}" for s in seconds), *command],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return int(re.findall(r"killed (\d+) times", done.stdout)[-1])


def left(folder: Path) -> dict[str, bytes]:
    """All files of the runs below a folder, without the clock."""
    names = ("rounds.jsonl", "config.toml", "*.bin", "*.part")
    found = {str(p.relative_to(folder)): p.read_bytes() for name in names for p in folder.rglob(name)}
    return {k: re.sub(rb'"seconds": [0-9.e-]+', b"", v) if k.endswith(".jsonl") else v for k, v in found.items()}


@pytest.mark.slow
def test_a_run(cli: Cli, tmp_path: Path) -> None:
    many = ("run", "digits", "--method", "topk-ef", *changes("train.rounds=8"))
    assert cli(*many, "--out", "whole").returncode == 0
    took = sum(json.loads(line)["seconds"] for line in (tmp_path / "whole/rounds.jsonl").read_text().splitlines())
    generator = random.Random(1)  # noqa: S311
    seconds = [generator.uniform(0.05, 1.0 + took / 5) for _ in range(8)]
    assert killed(tmp_path, seconds, *many, "--out", "killed", "--resume") >= 3
    whole = left(tmp_path / "whole")
    assert len(whole) == 4 + 4  # configuration, rounds, checkpoint, an update, and what four clients keep
    assert left(tmp_path / "killed") == whole
