"""The example of a tree: one command, every process of its own, and the model of a single server."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "tree"


def free_port(count: int) -> int:
    """The first of so many ports in a row that nobody has."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            if port + count > 1 << 16:
                continue
            try:
                for at in range(port + 1, port + count):
                    with socket.socket() as other:
                        other.bind(("127.0.0.1", at))
            except OSError:
                continue
            return int(port)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fedmrn-s", "fedavg"])
def test_the_tree_is_one_server(method: str) -> None:
    options = ["--clients", "3", "--edges", "2", "--rounds", "2", "--method", method, "--port", str(free_port(3))]
    command = [sys.executable, str(EXAMPLE / "grow.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)  # noqa: PLW1510 - told below
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"round \d: 3 clients; to edges [\d,]+ bytes up", done.stdout)) == 2
    assert "the same model, to the bit" in done.stdout
