"""Long runs of everything that keeps something from round to round: memory and open files stay flat.

By the rule of `tests/support/soak.py`. Each run is a process of its own: what other tests left does not matter.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
SUPPORT = Path(__file__).parents[1] / "support"


def soaked(*words: str, folder: Path, seconds: int = 3600) -> str:
    """Run a soak; return what it says."""
    quiet = {"FLWR_HOME": str(folder), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    path = os.pathsep.join([str(SUPPORT), *sys.path])
    env = {**os.environ, **quiet, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SUPPORT / "soak_runs.py"), *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    sys.stdout.write(done.stdout)
    return done.stdout


@pytest.mark.parametrize(("method", "down"), [("fedmrn-s", "grid"), ("topk-ef", "eden4")])
def test_2000_rounds_in_one_process(method: str, down: str, tmp_path: Path) -> None:
    """Public models and the caps of scales; what clients keep, and a coded broadcast."""
    assert "flat" in soaked("rounds", "2000", method, down, folder=tmp_path)


def test_20000_frames_through_one_server(tmp_path: Path) -> None:
    """A hundred clients, of whom some are silent, late, or send a frame that is refused."""
    assert "flat" in soaked("frames", "20000", folder=tmp_path)


def test_300_rounds_over_http(tmp_path: Path) -> None:
    """Server and clients in one process, over sockets; the server's folder stays as large as it is, but for its log."""
    assert "flat" in soaked("http", "300", folder=tmp_path)


def test_1000_rounds_of_the_strategy(tmp_path: Path) -> None:
    """With nodes in this process: a node's files, what the strategy keeps of reports, and of messages."""
    assert "flat" in soaked("strategy", "1000", folder=tmp_path)


def test_500_rounds_on_flowers_engine(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install flwr[simulation]")
    assert "flat" in soaked("engine", "500", folder=tmp_path)
