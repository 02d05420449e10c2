"""The server's memory, as the operating system counts it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PARAMETERS = 10_000_000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_200_clients_of_10_million_parameters_take_less_than_4_dense_models() -> None:
    """At the end: the state, the sum (two), and what the mean is written over; 8 frames that wait are a quarter."""
    script = [sys.executable, str(HERE / "memory_of_a_round.py"), str(PARAMETERS)]
    own = {name: value for name, value in os.environ.items() if not name.startswith("COV")}  # it takes memory too
    env = {**own, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    done = subprocess.run(script, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    dense = float(done.stdout)
    assert 3 < dense < 4  # below 3 the peak would not have been seen
