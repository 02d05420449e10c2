"""The strategy killed at random moments and taken up again: the model, and all that is told, of an undisturbed run."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason='needs Flower: pip install -e ".[cli,flower]"')
SUPPORT = Path(__file__).parents[2] / "support"


def moments(seed: int, count: int) -> list[str]:
    """Random moments: of starting, and (marked +) after the next part of a round is over."""
    chance = random.Random(seed)  # noqa: S311
    return [f"{chance.choice(['', '+', '+'])}{chance.uniform(0, 0.2):.3f}" for _ in range(count)]


def killed(case: str, folder: Path, when: list[str]) -> dict[str, Any]:
    """How the attempts ended, and what the last one told."""
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "kept_flower_run.py"), case, str(folder), ",".join(when)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path]),
            "FEDMRN_CACHE": str(folder.with_suffix(".nodes")),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def begun(case: str, folder: Path) -> Path:
    """A folder in which a run has begun, and has no round yet: copies of it are the same run."""
    import kept_flower_run  # noqa: PLC0415 - it needs Flower

    kept_flower_run.run(case, folder, rounds=0)
    return folder


def same_run(case: str, tmp_path: Path, seed: int, kills: int) -> list[int]:
    first = begun(case, tmp_path / "first")
    shutil.copytree(first, tmp_path / "whole")
    shutil.copytree(first, tmp_path / "killed")
    whole = killed(case, tmp_path / "whole", [])["told"]
    found = killed(case, tmp_path / "killed", moments(seed, kills))
    assert found["told"] == whole
    assert set(whole["test"]) == {str(number) for number in range(7)}
    ends: list[int] = found["ends"]
    return ends


@pytest.mark.slow
@pytest.mark.parametrize("case", ["topk-ef", "fedpm", "fedmrn"])
def test_a_few_kills_of_the_process(case: str, tmp_path: Path) -> None:
    assert same_run(case, tmp_path, 1, 6).count(-signal.SIGKILL) >= 3


@pytest.mark.long
@pytest.mark.parametrize("case", ["topk-ef", "fedpm", "fedmrn"])
def test_twenty_kills_of_the_process(case: str, tmp_path: Path) -> None:
    assert same_run(case, tmp_path, 2, 20).count(-signal.SIGKILL) >= 15
