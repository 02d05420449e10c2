"""A real ServerApp killed (SIGKILL) at random moments while its SuperNodes live, and submitted again each time.

Slow: Flower starts a process for each message, and polls every 3 seconds.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from deployed import deployed, why
from deployment import Deployment

SUPPORT = Path(__file__).parents[2] / "support"
LICENSE = Path(__file__).parents[3] / "LICENSE"
pytestmark = pytest.mark.xdist_group("flower")


def server_apps(deployment: Deployment) -> list[int]:
    """The processes of this deployment that run a server's app."""
    found = []
    for pid in deployment.left_over():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if any(Path(os.fsdecode(word)).name == "flwr-serverapp" for word in words):
                found.append(pid)
    return found


def submit(deployment: Deployment, case: str, folder: Path, rounds: int) -> tuple[str, int]:
    """Submit the app, and return the run and the process of its server."""
    before = {*server_apps(deployment)}
    run = deployment.submit(
        deployment.folder.parent / "app", (f'case="{case}"', f'folder="{folder}"', f"rounds={rounds}")
    )
    deadline = time.monotonic() + 120
    while not (found := {*server_apps(deployment)} - before):
        assert time.monotonic() < deadline, why(deployment, run)
        time.sleep(0.1)
    return run, found.pop()


def result(deployment: Deployment, case: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Run to the end."""
    run, _ = submit(deployment, case, folder, rounds)
    out, deadline = folder.with_suffix(".json"), time.monotonic() + 1800
    while not out.exists():
        assert time.monotonic() < deadline, why(deployment, run)
        if deployment.status(run).startswith("finished"):
            assert deployment.status(run) == "finished:completed", why(deployment, run)
        time.sleep(1)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def state(folder: Path) -> tuple[int, int]:
    """When run.jsonl was written, which each start does, and how many lines it has."""
    path = folder / "run.jsonl"
    return path.stat().st_mtime_ns, path.read_bytes().count(b"\n")


def wait_for_a_moment(folder: Path, chance: random.Random, before: tuple[int, int]) -> None:
    """Wait for some seconds from when the strategy has started, or from when the next part of a round is over.

    Not from before: a ServerApp that is killed before it has fetched its task is started again by Flower itself.
    """
    deadline, which = time.monotonic() + 300, chance.randrange(2)
    while state(folder)[0] == before[0] or state(folder)[1] < before[1] + which:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(chance.uniform(0, 8))
    assert not folder.with_suffix(".json").exists(), "it ended: ask for more rounds"


def same_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: str,
    *,
    rounds: int,
    kills: int,
) -> None:
    import kept_flower_run  # noqa: PLC0415 - it needs Flower

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SUPPORT), *sys.path]))
    monkeypatch.setenv("FEDMRN_CACHE", str(tmp_path / "nodes"))
    kept_flower_run.run(case, tmp_path / "whole", 0)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.copytree(SUPPORT / "kept_app", tmp_path / "app")
    shutil.copy(LICENSE, tmp_path / "app")  # Flower wants one
    chance, progress = random.Random(kills), list[int]()  # noqa: S311
    with deployed(2, tmp_path / "state") as deployment:
        whole = result(deployment, case, tmp_path / "whole", rounds)
        while len(progress) < kills:
            before = state(tmp_path / "killed")
            _, server = submit(deployment, case, tmp_path / "killed", rounds)
            wait_for_a_moment(tmp_path / "killed", chance, before)
            os.kill(server, signal.SIGKILL)
            progress.append(state(tmp_path / "killed")[1])
        found = result(deployment, case, tmp_path / "killed", rounds)
    with capsys.disabled():
        sys.stdout.write(f"\nlines on record at each kill: {progress}\n")
    assert found == whole
    assert len(found["test"]) == rounds + 1


@pytest.mark.slow
def test_a_few_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    same_run(tmp_path, monkeypatch, capsys, "topk-ef", rounds=3, kills=2)


@pytest.mark.long
def test_twenty_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    same_run(tmp_path, monkeypatch, capsys, "topk-ef", rounds=16, kills=20)


@pytest.mark.long
@pytest.mark.parametrize("case", ["fedpm", "fedmrn"])
def test_five_kills(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A state that is no model, and none that clients keep; caps and moments, with public models."""
    same_run(tmp_path, monkeypatch, capsys, case, rounds=5, kills=5)
