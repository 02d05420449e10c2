"""The command that keeps results: a run of one's own, its records, a page, and what it says when nothing fits."""

import json
from pathlib import Path

from command import Cli, changes


def test_a_run_becomes_records_and_a_page(cli: Cli, tmp_path: Path) -> None:
    run = cli("run", "digits", "--method", "fedmrn", "--out", "r", *changes())
    assert run.returncode == 0, run.stderr
    machine = json.loads((tmp_path / "r" / "machine.json").read_text())
    assert [each["device"] for each in machine] == ["cpu"]
    done = cli("results", "mine", "--add", "trial=r", "--title", "A trial", "--code", "abc")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "mine" / "trial.md").read_text().splitlines()
    assert lines[0] == "# A trial"
    (command,) = [
        line.strip() for line in lines if line.startswith("    fedmrn compare digits --methods fedmrn --seeds 1")
    ]
    assert command.endswith("--out runs/trial")
    rounds = [json.loads(line) for line in (tmp_path / "r" / "rounds.jsonl").read_text().splitlines()]
    (stored,) = json.loads((tmp_path / "mine" / "records" / "trial.json").read_text())["runs"]
    assert stored["accuracy"] == [round(each["accuracy"], 6) for each in rounds]
    assert (tmp_path / "mine" / "trial.png").read_bytes()[:4] == b"\x89PNG"
    assert cli("results", "mine", "--check").returncode == 0
    (tmp_path / "mine" / "trial.md").write_text("<!-- table: trial -->\n<!-- end -->\n")
    checked = cli("results", "mine", "--check")
    assert checked.returncode == 1
    assert "would change" in checked.stdout
    again = cli("results", "mine")
    assert again.returncode == 0
    assert "| fedmrn | 0.1 | 1 |" in (tmp_path / "mine" / "trial.md").read_text()


def test_what_is_wrong_ends_in_a_line(cli: Cli, tmp_path: Path) -> None:
    for words, said in (
        (["nothing"], "holds no records"),
        (["mine", "--add", "trial"], "is not of the form NAME=FOLDER"),
        (["mine", "--add", "../trial=r"], "is not of the form NAME=FOLDER"),
        (["mine", "--add", "trial=absent"], "holds no run"),
        (["mine", "--check", "--add", "trial=r"], "--check writes nothing"),
    ):
        done = cli("results", *words)
        assert done.returncode == 2
        assert said in done.stderr
        assert done.stderr.count("\n") <= 3
