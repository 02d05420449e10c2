"""studies/fresh_statistics.py says a run's accuracies, and others beside them."""

import json
import re
import subprocess
import sys
from pathlib import Path

from command import Cli, changes

STUDY = Path(__file__).parents[2] / "studies" / "fresh_statistics.py"


def test_accuracies_are_those_of_the_run(cli: Cli, tmp_path: Path) -> None:
    small = ["train.local_epochs=1", "train.clients_per_round=3"]
    asked = ("--method", "fedmrn-s", "--out", "run", *changes("train.rounds=2", "train.threads=1", *small))
    done = cli("run", "digits", *asked)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, str(STUDY), "digits", "fedmrn-s", "--rounds", "2", *changes(*small)]
    study = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True)
    rounds = [json.loads(line) for line in (tmp_path / "run/rounds.jsonl").read_text().splitlines()]
    found = re.findall(r"round (\d): (0\.\d+), with fresh statistics (0\.\d+)", study.stdout)
    assert [(int(n), float(a)) for n, a, _ in found] == [(r["round"], round(r["accuracy"], 4)) for r in rounds]
    assert any(fresh != handed_out for _, handed_out, fresh in found)
