"""The example of a federation over HTTP: one command, every process of its own, accuracy that rises."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "http"


@pytest.mark.slow
def test_the_example_learns() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(EXAMPLE / "federate.py"), "--clients", "2", "--rounds", "3", "--port", str(port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)  # noqa: PLW1510 - told below
    assert done.returncode == 0, done.stderr
    accuracies = [float(found) for found in re.findall(r"round \d: accuracy (\S+), 2 of 2 updates", done.stdout)]
    assert len(accuracies) == 3
    assert accuracies[-1] > 0.8
