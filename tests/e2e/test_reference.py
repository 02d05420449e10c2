"""The algorithm in one file runs by itself, and learns."""

import re
import subprocess
import sys
from pathlib import Path


def test_it_runs_by_itself_and_its_accuracy_rises(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "fedmrn.reference"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    runs = re.split(r"^(?=binary|signed)", done.stdout, flags=re.MULTILINE)[1:]
    assert [text.split()[0] for text in runs] == ["binary", "signed"]
    for text in runs:
        accuracy = [float(value) for value in re.findall(r"^round \d+: accuracy (\d\.\d+)$", text, re.MULTILINE)]
        assert len(accuracy) == 6
        assert accuracy[0] < 0.7
        assert accuracy[-1] > 0.85
