"""Real kills at random moments: the same command goes on to the files of an undisturbed run."""

import os
import random
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command import Cli, changes

from fedmrn.experiments.many.sweep import load_sweep
from fedmrn.experiments.run.runner import run
from silent import Silent

KILLING = Path(__file__).with_name("killing.py")
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
ORPHANED = re.compile(
    r'Traceback \(most recent call last\):\n  File "<string>", line 1, in <module>\n'
    r'(?:  File "[^"]*multiprocessing/spawn\.py", line .*\n(?:    .*\n)+)+EOFError: Ran out of input\n'
)
"""What Python itself prints in a worker whose parent was killed between starting it and telling it what it is for, some
milliseconds: no line of ours has run in it."""


def killed(folder: Path, where: str, moments: list[str], *command: str) -> tuple[list[int], str]:
    """How a command ended each time before it ended well, and what it said as errors."""
    done = subprocess.run(
        [sys.executable, str(KILLING), where, ",".join(moments), *command],
        cwd=folder,
        env=ENV,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    errors = ORPHANED.sub("", done.stderr)
    assert "Traceback" not in errors
    return [int(end) for end in done.stdout.splitlines()[-1].removeprefix("ends: ").split()], errors


def moments(seed: int, count: int) -> list[str]:
    """Random moments: of starting, and (marked +) after the next round."""
    chance = random.Random(seed)  # noqa: S311
    return [f"{chance.choice(['', '+', '+'])}{chance.uniform(0, 0.3):.3f}" for _ in range(count)]


def left(folder: Path) -> dict[str, bytes]:
    """All files of the runs below a folder, without the clock."""
    names = ("rounds.jsonl", "config.toml", "*.bin", "*.part")
    found = {str(p.relative_to(folder)): p.read_bytes() for name in names for p in folder.rglob(name)}
    return {k: re.sub(rb'"seconds": [0-9.e-]+', b"", v) if k.endswith(".jsonl") else v for k, v in found.items()}


@pytest.mark.slow
def test_a_run(cli: Cli, tmp_path: Path) -> None:
    many = ("run", "digits", "--method", "topk-ef", *changes("train.rounds=8"))
    assert cli(*many, "--out", "whole").returncode == 0
    ends, _ = killed(tmp_path, "killed", moments(1, 8), *many, "--out", "killed", "--resume")
    assert ends.count(-signal.SIGKILL) >= 4
    whole = left(tmp_path / "whole")
    assert len(whole) == 4 + 4  # configuration, rounds, checkpoint, an update, and what four clients keep
    assert left(tmp_path / "killed") == whole


SWEEP = """
preset = "digits"
methods = ["fedmrn", "topk-ef"]
seeds = [1]
[set]
train.rounds = 10
train.local_epochs = 1
train.clients_per_round = 2
data.clients = 4
[axes]
method.lr = [0.1, 0.05]
"""


@pytest.mark.slow
def test_a_sweep(tmp_path: Path) -> None:
    """Stopped by Ctrl-C, then killed: its workers end too, as the next attempt finds the folders free."""
    (tmp_path / "mine.toml").write_text(SWEEP)
    when = moments(2, 10)
    (first, *ends), errors = killed(tmp_path, "runs", ["^0", *when], "sweep", "mine.toml", "--jobs", "2")
    assert first == 130
    assert [end for end, moment in zip(ends, when, strict=True) if moment[0] == "+"][:3] == [-signal.SIGKILL] * 3
    assert set(ends) <= {-signal.SIGKILL, 0}  # 0: it came too late, the sweep had ended well
    assert errors == "stopped, every whole round is in runs/mine; the same command goes on from there\n"
    for cell in load_sweep(str(tmp_path / "mine.toml")).cells:
        run(cell.experiment, tmp_path / "whole" / cell.folder, data_dir=tmp_path, resume=False, progress=Silent())
    assert left(tmp_path / "runs/mine") == left(tmp_path / "whole")


def without_room(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command whose files may not grow to the size of the checkpoint."""
    limit = 100_000
    return subprocess.run(
        [sys.executable, "-m", "fedmrn", *command],
        cwd=folder,
        env={k: v for k, v in ENV.items() if not k.startswith("COV")},  # its data would not fit either
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )


FULL = (
    "checkpoint.bin: File too large; the 0 rounds before are kept; put that right, and the same command goes on "
    "(run and compare with --resume)"
)


def test_a_disk_that_is_full(cli: Cli, tmp_path: Path) -> None:
    """One line, nothing half-written; with room it goes on."""
    done = without_room(tmp_path, "run", "digits", "--out", "r", *changes())
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"error: r/{FULL}\n"
    assert not list(tmp_path.rglob("*.part"))
    done = cli("run", "digits", "--out", "r", "--resume", *changes())
    assert done.returncode == 0, done.stderr


def test_a_disk_that_is_full_in_a_sweep(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(SWEEP)
    done = without_room(tmp_path, "sweep", "mine.toml", "--jobs", "2")
    assert done.returncode == 2, done.stderr
    assert (
        done.stderr
        == "error: no cell of sweep mine is finished: what failed is told above, and the same command tries again\n"
    )
    assert " ".join(done.stdout.split()).count(FULL.removeprefix("checkpoint.bin")) == 4  # or what a client keeps
    assert not list(tmp_path.rglob("*.part"))
    done = cli("sweep", "mine.toml", "--jobs", "2")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a folder that not even root can write to: /sys")
@pytest.mark.parametrize("command", [("run", "digits", *changes()), ("sweep", "mine.toml")], ids=["run", "sweep"])
def test_a_folder_that_cannot_be_written(cli: Cli, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "mine.toml").write_text(SWEEP)
    done = cli(*command, "--out", "/sys/fedmrn")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: /sys/fedmrn")
    assert done.stderr.count("\n") == 1
