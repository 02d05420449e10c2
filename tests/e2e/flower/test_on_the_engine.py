"""A user's app on Flower's own simulation engine: what is counted, and how a run that gets nothing ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install fedmrn[flower]")
pytest.importorskip("ray", reason="Ray is not installed: pip install flwr[simulation]")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("flower")]
SUPPORT = Path(__file__).parents[2] / "support"


def run(how: str, folder: Path, script: str = "flower_run.py") -> subprocess.CompletedProcess[str]:
    quiet = {"FLWR_HOME": str(folder), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    quiet["RAY_worker_niceness"] = "0"  # Ray's own is 15: beside other work its actors would starve
    env = {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SUPPORT / script), how]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_a_run_that_gets_nothing_does_not_end_with_exit_code_0(tmp_path: Path) -> None:
    done = run("stock", tmp_path)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "NoUpdatesError: no update was folded in 3 rounds in a row, of which round 3 is the last" in said
    assert said.count("! clients do not answer by frames, as stock Flower clients do") == 1


def test_clients_evaluate_a_frame_and_all_is_counted(tmp_path: Path) -> None:
    done = run("good", tmp_path)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert (counts["updates-folded"], counts["evaluation-answered"]) == (2, 2)
    assert counts["evaluation-uplink-bytes"] == 2 * (len("num-examples") + 8 + len("ok") + 8)
    assert counts["evaluation-downlink-bytes"] < counts["downlink-frame-bytes"]
    config = 4 * (len("server-round") + 8)  # two nodes, two messages
    assert counts["downlink-total-bytes"] > counts["downlink-frame-bytes"] + config


def test_secure_sums_without_a_node_that_fails_after_it_has_shared(tmp_path: Path) -> None:
    """The model is the plain sum of the other four to the bit."""
    import secure_sums_on_flower  # noqa: PLC0415 - it needs Flower

    done = run(str(tmp_path), tmp_path, "secure_flower_run.py")
    assert done.returncode == 0, done.stderr
    rounds = json.loads((tmp_path / "told.json").read_text())
    assert [(len(r["asked"]), len(r["folded"]), r["failed"]) for r in rounds] == [(5, 5, 0), (5, 4, 1)]
    for number, one in enumerate(rounds, 1):
        plain = secure_sums_on_flower.plain_state(tmp_path, number, one["folded"], one["asked"])
        assert (tmp_path / f"after-{number}.bin").read_bytes() == plain
    assert len(list(tmp_path.glob("plain-2-*.bin"))) == 4
