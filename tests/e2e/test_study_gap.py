"""studies/gap.py takes a run's next round apart: its masks make the model that the run itself makes."""

import json
import re
import subprocess
import sys
from pathlib import Path

from command import Cli, changes

GAP = Path(__file__).parents[2] / "studies" / "gap.py"


def gap(folder: Path, run: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(GAP), run, "--rounds", "1", "--fedavg-lr", "0.1"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def test_the_masks_make_the_model_of_the_runs_next_round(cli: Cli, tmp_path: Path) -> None:
    command = ("run", "digits", "--method", "fedmrn")
    for rounds in (1, 2):
        done = cli(
            *command,
            "--out",
            f"{rounds}",
            *changes(f"train.rounds={rounds}", "method.scale=0.01", "method.down=float32"),
        )
        assert done.returncode == 0, done.stderr
    done = gap(tmp_path, "1")
    assert done.returncode == 0, done.stderr
    said = dict(re.findall(r"round 2: (\S.*?)  +([0-9.]+)", done.stdout))
    first, second = map(json.loads, (tmp_path / "2/rounds.jsonl").read_text().splitlines())
    assert f"after round 1: {100 * first['accuracy']:.2f} %" in done.stdout
    assert said["masks"] == f"{100 * second['accuracy']:.2f}"
    # Signs are fair coins, of 93,000 elements in each of two clients: more than eight standard deviations.
    assert 0.49 < float(said["frozen elements"]) < 0.51
    assert float(said["rms u / scale"]) < 3  # of the weights it is 10
    assert "FedAvg, lr 0.1" in said


def test_a_scale_of_each_clients_own_is_refused(cli: Cli, tmp_path: Path) -> None:
    assert cli("run", "digits", "--out", "1", *changes("train.rounds=1")).returncode == 0
    done = gap(tmp_path, "1")
    assert done.returncode == 2
    assert 'with scale = "auto" each tensor and client has noise of its own scale' in done.stderr
