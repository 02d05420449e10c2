"""The real command line, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import Cli


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run `fedmrn ...` in an empty folder."""

    def call(*args: str) -> subprocess.CompletedProcess[str]:
        nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
        env = {**os.environ, **nowhere, "no_proxy": "", "NO_PROXY": ""}  # no download, whatever the machine can reach
        env |= {"COLUMNS": "120", "FEDMRN_DATA": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-m", "fedmrn", *args],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return call
