"""Secure sums on a deployment of five nodes over TLS, one of which is killed (SIGKILL) after it has shared.

Slow: each exchange of keys, shares and unmasking is a process of each node, and nodes poll every 3 seconds.
"""

import json
import os
import re
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from deployed import deployed, why
from deployment import Deployment

SUPPORT = Path(__file__).parents[2] / "support"
LICENSE = Path(__file__).parents[3] / "LICENSE"
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("flower")]
NODES, THRESHOLD = 5, 4


def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLWR_LOG_LEVEL", "DEBUG")  # or the SuperLink's log leaves polls out
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SUPPORT), *sys.path]))
    shutil.copytree(SUPPORT / "secure_app", tmp_path / "app")
    shutil.copy(LICENSE, tmp_path / "app")  # Flower wants one
    return tmp_path / "app"


def wait_for(path: Path, deployment: Deployment, run: str) -> None:
    deadline, next_look = time.monotonic() + 900, time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, why(deployment, run)
        if time.monotonic() > next_look:
            status = deployment.status(run)
            assert path.exists() or status in ("pending", "starting", "running"), why(deployment, run)
            next_look = time.monotonic() + 20
        time.sleep(0.1)


def told(deployment: Deployment, app: Path, folder: Path, threshold: int, victim: int = -1) -> dict[str, Any]:
    """Run two rounds to the end, in the second of which a node may be killed, and return what the server told."""
    folder.mkdir()
    run = deployment.submit(app, (f'folder="{folder}"', f"threshold={threshold}", f"victim={victim}"))
    if victim >= 0:
        wait_for(folder / "training", deployment, run)
        deployment.nodes[victim].kill()
    wait_for(folder / "told.json", deployment, run)
    while not deployment.status(run).startswith("finished"):
        time.sleep(1)
    found: dict[str, Any] = json.loads((folder / "told.json").read_text())
    return found


def asked_of_the_superlink(deployment: Deployment, since: int) -> Counter[str]:
    """How often nodes (fleet) and the server's app (runtime) asked it for what, from a place of its log on."""
    return Counter(re.findall(r'"POST /v1/((?:fleet|runtime)/[a-z-]+)', deployment.log("superlink")[since:]))


def show(name: str, found: dict[str, Any], asked: Counter[str]) -> None:
    sys.stdout.write(f"\n{name}: each exchange of {NODES} nodes: its messages, the server's looks, and seconds\n")
    for one in found["exchanges"]:
        sys.stdout.write(f"  {one['kind']:13} {one['messages']:3} {one['looks']:4} {one['seconds']:7.1f}\n")
    sys.stdout.write(f"  asked of the SuperLink in both rounds: {dict(sorted(asked.items()))}\n")


def test_a_node_killed_after_it_has_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The round goes on, and the model is the plain sum of the others to the bit."""
    import secure_sums_on_flower  # noqa: PLC0415 - it needs Flower

    source, folder = app(tmp_path, monkeypatch), tmp_path / "secure"
    with deployed(NODES, tmp_path / "state") as deployment:
        everyone = [int(node.id) for node in deployment.nodes]
        plain = told(deployment, source, tmp_path / "plain", 0)
        plain_asked, half = asked_of_the_superlink(deployment, 0), len(deployment.log("superlink"))
        found = told(deployment, source, folder, THRESHOLD, victim=3)
        asked = asked_of_the_superlink(deployment, half)
    with capsys.disabled():
        show("without secure sums", plain, plain_asked)
        show("with", found, asked)
    others = [node for node in everyone if node != everyone[3]]
    first, second = found["rounds"]
    assert ({*first["asked"]}, {*second["asked"]}) == ({*everyone}, {*everyone})
    assert ({*first["folded"]}, {*second["folded"]}) == ({*everyone}, {*others})
    assert not first["failed"]
    assert [line.split(":")[0] for line in second["failed"]] == [f"node {everyone[3]}"]
    assert [one["kind"] for one in found["exchanges"]] == 2 * ["train.secure", "train.secure", "train", "train.secure"]
    assert [one["messages"] for one in found["exchanges"]] == [5, 5, 5, 5, 5, 5, 5, 4]
    assert second["stages"]["keys received"] == {"keys": 5 * (32 + 192)}
    assert second["stages"]["shares received"] == {"shares": 5 * (32 + 4 * 50)}
    assert second["stages"]["unmask received"] == {"unmasking": 4 * (32 + 5 * 18)}
    for number, folded in ((1, everyone), (2, others)):
        after = (folder / f"after-{number}.bin").read_bytes()
        assert after == secure_sums_on_flower.plain_state(folder, number, folded, everyone)
    assert (folder / "after-2.bin").read_bytes() != (folder / "after-1.bin").read_bytes()
