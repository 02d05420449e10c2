"""The measurement of contexts on a run of its own: its figures fit together, and it says what it cannot measure."""

import re
import subprocess
import sys
from pathlib import Path

from command import Cli, changes

SCRIPT = Path(__file__).parents[2] / "studies" / "contexts.py"


def measure(run: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(SCRIPT), str(run)]
    return subprocess.run(command, cwd=run.parent, capture_output=True, text=True, timeout=300, check=False)


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found is not None, f"{pattern} is not in:\n{text}"
    return float(found[1])


def test_entropy_falls_with_what_is_known_and_the_codecs_come_near_it(cli: Cli, tmp_path: Path) -> None:
    assert cli("run", "digits", "--method", "fedmrn", "--out", "a", *changes("method.scale=0.01")).returncode == 0
    done = measure(tmp_path / "a")
    assert done.returncode == 0, done.stderr
    tensor = number(r"│ tensor +│ (0\.\d+)", done.stdout)
    noise = number(r"│ tensor, \|n\| +│ (0\.\d+)", done.stdout)
    weight = number(r"size of the weight +│ (0\.\d+)", done.stdout)
    assert 1 >= tensor >= noise >= weight > 0.1
    information = number(r"information (0\.\d+)", done.stdout)
    coded = number(r"coded-mask: \d+ bytes, (0\.\d+) bits", done.stdout)
    code = number(r"random-code: \d+ bytes, (0\.\d+) bits", done.stdout)
    # A few hundred bytes of tables on 93,000 elements; the random code spends 1.125 bits on a bit of information.
    assert noise < coded < 1.02 * noise + 0.02
    assert information < code < 1.125 * information + 0.03 < coded


def test_a_run_without_masks(cli: Cli, tmp_path: Path) -> None:
    assert cli("run", "digits", "--method", "fedavg", "--out", "a", *changes()).returncode == 0
    done = measure(tmp_path / "a")
    assert done.returncode == 2
    assert "fedavg sends no mask over noise of one scale" in done.stderr
