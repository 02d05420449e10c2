"""The client in JavaScript: its own tests under node, and a federation of Python, node and a page in a real browser."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser import CHROMIUM
from chromium import opened
from node import NODE, needs_node

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "javascript"
SIZES = ((1280, 1400), (390, 1400))
ROUNDS = 6
TOKEN, START = "document.getElementById('token')", "document.getElementById('start')"
pytestmark = needs_node
# What a reader would stumble over, in a window of any width.
FAULTS = """
(() => {
  const width = document.documentElement.clientWidth;
  const reaches = e => !e.closest(".scroll") && e.getBoundingClientRect().right > width + 1;
  const small = e => e.textContent && parseFloat(getComputedStyle(e).fontSize) < 12;
  return [
    ...(document.documentElement.scrollWidth > width ? ["the page is wider than its window"] : []),
    ...[...document.body.querySelectorAll("*")].filter(reaches).map(e => `${e.tagName} reaches out of the page`),
    ...[...document.querySelectorAll("p, td, th, small, label")].filter(small).map(e => `${e.tagName} is too small`),
  ];
})()
"""
ROWS = "[...document.querySelectorAll('#rows tr')].map(r => [...r.cells].map(c => c.textContent))"
COLOURS = (
    "[document.body, document.querySelector('h1')].map(e => getComputedStyle(e)).map(s => [s.backgroundColor, s.color])"
)


@dataclass
class Federation:
    """A federation that runs.

    Attributes:
        process: of the server.
        lines: that it printed so far.
        folder: where it is saved.
    """

    process: subprocess.Popen[str]
    lines: list[str]
    folder: Path

    def told(self, pattern: str) -> list[str]:
        """What a pattern's group matches in the lines, in order."""
        return [found[1] for found in (re.search(pattern, line) for line in self.lines) if found]


@contextmanager
def federation(folder: Path, *options: str) -> Iterator[Federation]:
    """Start the example's server and its Python clients; yield once it has said how to start the others."""
    command = [sys.executable, str(EXAMPLE / "federation.py"), "--port=0", "--pages=0", f"--folder={folder}", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        found = Federation(process, [], folder)
        ready = threading.Event()

        def listen() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                found.lines.append(line.rstrip())
                if "/#server" in line:
                    ready.set()
            ready.set()

        listener = threading.Thread(target=listen)
        listener.start()
        try:
            assert ready.wait(120), found.lines
            yield found
            process.wait(timeout=120)
        finally:
            process.kill()
            listener.join()
    assert process.returncode == 0, found.lines


@contextmanager
def node_client(run: Federation, client: int) -> Iterator[subprocess.Popen[str]]:
    """Take part as a client, in node."""
    digits = run.folder / "digits" / f"{client}.json"
    (command,) = (line.split() for line in run.lines if f"{digits}" in line and "node-client.js" in line)
    token, *rest = command
    environment = {**os.environ, "FEDMRN_TOKEN": token.partition("=")[2]}
    with subprocess.Popen([str(NODE), *rest[1:]], env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_its_own_tests() -> None:
    done = subprocess.run(
        [str(NODE), "--test", "--test-reporter=tap"],
        cwd=EXAMPLE,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    counts = {name: int(n) for name, n in re.findall(r"^# (pass|fail|cancelled) (\d+)$", done.stdout, re.M)}
    assert counts["pass"] > 30
    assert counts["fail"] == counts["cancelled"] == 0


def test_a_client_without_a_token() -> None:
    command = [str(NODE), str(EXAMPLE / "node-client.js")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "usage" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
@pytest.mark.xdist_group("browser")
def test_two_in_python_one_in_node_and_a_page(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with (
        federation(folder, f"--rounds={ROUNDS}", "--clients=4", "--python=2") as run,
        opened(tmp_path / "profile") as page,
    ):
        with node_client(run, 2) as node:
            page.open(run.told(r"(http://127\.0\.0\.1:\d+/#\S+)")[-1])
            assert page.evaluate("document.getElementById('status').textContent") == "Not connected yet."
            page.evaluate(f"{TOKEN}.value = 'a token of nobody'; {START}.click()")
            page.wait_for("document.getElementById('status').textContent.includes('401')")
            page.evaluate(f"{TOKEN}.value = new URLSearchParams(location.hash).get('token'); {START}.click()")
            page.wait_for("document.getElementById('status').textContent === 'The run is over.'", 240)
            seen, _ = node.communicate(timeout=60)
        rows = page.evaluate(ROWS)
        colours = []
        for width, height in SIZES:
            for dark in (False, True):
                page.resize(width, height, dark=dark)
                assert page.evaluate(FAULTS) == [], (width, dark)
                assert len(page.screenshot()) > 10_000
                colours.append(str(page.evaluate(COLOURS)))
        assert len(set(colours)) == 2, "light and dark differ"
        # A wrong token and the run's end are statuses that a browser logs as errors; nothing else is.
        assert [fault for fault in page.faults if "401" not in fault and "410" not in fault] == []

    outcomes = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert [outcome["folded"] for outcome in outcomes] == [[0, 1, 2, 3]] * ROUNDS
    assert not any(outcome["refused"] or outcome["failed"] or outcome["failed_otherwise"] for outcome in outcomes)
    accuracies = [outcome["evaluation"]["accuracy"] for outcome in outcomes]
    assert accuracies[-1] > 0.85
    # All have the same test images and, to the bit, the same model: node, the page and the mean of all say the same.
    in_node = dict(re.findall(r"^after round (\d+): accuracy ([\d.]+)", seen, re.M))
    in_page = {row[0]: row[1] for row in rows}
    for number, accuracy in enumerate(accuracies, 1):
        assert float(in_node[str(number)]) == pytest.approx(accuracy, abs=1e-4)
        assert in_page[str(number)] == f"{100 * accuracy:.1f} %"
    sent = {row[4] for row in rows if row[4]}
    assert sent == {"441 B"}, "a bit for each of 2,410 parameters, scales, headers, a checksum"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "down", "told"),
    [("fedmrn", "float32", "coding=entropy"), ("fedmrn-s", "eden4", "noise_key=round")],
)
def test_other_masks_and_broadcasts(tmp_path: Path, method: str, down: str, told: str) -> None:
    """Node alone, twice: coded masks; scales that the server tells."""
    options = ("--rounds=3", "--clients=2", "--python=0", f"--method={method}", f"--down={down}", f"--set={told}")
    folder = tmp_path / "run"
    with federation(folder, *options) as run, node_client(run, 0) as first, node_client(run, 1) as second:
        assert "the run is over" in first.communicate(timeout=240)[0]
        assert "the run is over" in second.communicate(timeout=60)[0]
    outcomes = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert [outcome["folded"] for outcome in outcomes] == [[0, 1]] * 3
    assert outcomes[-1]["evaluation"]["accuracy"] > outcomes[0]["evaluation"]["accuracy"]
