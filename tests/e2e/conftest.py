"""The real command line, in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import SECONDS, Cli
from unmeasured import unmeasured


@pytest.fixture(scope="session")
def zygote() -> Iterator[subprocess.Popen[str]]:
    """The process that command lines are forked from; coverage starts in those, not in this."""
    command = [sys.executable, str(Path(__file__).parent / "zygote.py")]
    env = {**unmeasured(), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def cli(tmp_path: Path, request: pytest.FixtureRequest) -> Cli:
    """Run `fedmrn ...` in an empty folder: forked where all is imported, or, `fresh`, from the start of Python."""

    def call(*args: str, fresh: bool = False) -> subprocess.CompletedProcess[str]:
        nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
        env = {**os.environ, **nowhere, "no_proxy": "", "NO_PROXY": ""}  # no download, whatever the machine can reach
        env |= {"COLUMNS": "120", "FEDMRN_DATA": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"}
        if not fresh and sys.platform == "linux":
            return _forked(request.getfixturevalue("zygote"), args, tmp_path, env)
        command = [sys.executable, "-m", "fedmrn", *args]
        return subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    return call


def _forked(
    zygote: subprocess.Popen[str], args: tuple[str, ...], folder: Path, env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    assert zygote.stdin is not None
    assert zygote.stdout is not None
    with (
        tempfile.NamedTemporaryFile("r", encoding="utf-8") as out,
        tempfile.NamedTemporaryFile("r", encoding="utf-8") as err,
    ):
        print(json.dumps([args, str(folder), env, out.name, err.name]), file=zygote.stdin, flush=True)
        code = zygote.stdout.readline()
        assert code, "the process that command lines are forked from has ended"
        return subprocess.CompletedProcess(args, int(code), out.read(), err.read())
