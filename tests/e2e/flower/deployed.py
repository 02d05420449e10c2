"""The example's own deployment and app, for tests; whoever imports this is skipped where Flower is not installed."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from unmeasured import unmeasured

pytest.importorskip("flwr", reason='needs Flower: pip install -e ".[cli,flower]"')

EXAMPLES = Path(__file__).parents[3] / "examples"
APP = EXAMPLES / "flower-app"
sys.path.insert(0, str(EXAMPLES / "deployment"))

from deployment import Deployment  # noqa: E402 - found on the path just set


@contextlib.contextmanager
def deployed(nodes: int, folder: Path, through: Callable[[int], int] = lambda port: port) -> Iterator[Deployment]:
    """A deployment of which nothing is left over, whatever happens.

    Its processes are not measured: Flower puts the app's folder on sys.path, coverage sees it in whichever thread runs
    next, and forgets what the app imports meanwhile (`KeyError: 'kept_app'`).
    """
    deployment = Deployment(nodes, folder, through=through, timeout=600)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in os.environ.keys() - unmeasured().keys():
                patch.delenv(name)
            with deployment:
                yield deployment
    finally:
        assert deployment.left_over() == []


def result_of(deployment: Deployment, run: str, out: Path, timeout: float = 900) -> dict[str, Any]:
    """Wait for a run, which must end well, and return what it wrote to its folder."""
    deadline = time.monotonic() + timeout
    while not (status := deployment.status(run)).startswith("finished"):
        assert time.monotonic() < deadline, why(deployment, run)
        time.sleep(1)
    assert status == "finished:completed", why(deployment, run)
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


def why(deployment: Deployment, run: str) -> str:
    """What a failed test shows: the app's own log, in which its exception is, and the SuperLink's."""
    return f"{deployment.run_log(run)}\n--- SuperLink\n{deployment.log('superlink')}"
