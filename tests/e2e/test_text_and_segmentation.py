"""Shakespeare and Pascal VOC on made-up files, through the command line."""

import json
from pathlib import Path

import pytest
from command import Cli

from made_up import raw_document, texts, write_raw, write_voc

COMMON = ("train.rounds=2", "train.clients_per_round=2", "train.threads=1", "train.local_epochs=1")
CHANGES = {
    "shakespeare-short": ("data.clients=3", "data.min_size=100", "data.max_samples=20", "data.max_test=30"),
    "voc": ("data.clients=2", "train.batch_size=2"),
}


@pytest.mark.parametrize(("preset", "score"), [("shakespeare-short", "next-character accuracy"), ("voc", "mean IoU")])
def test_a_run(cli: Cli, tmp_path: Path, preset: str, score: str) -> None:
    write_voc(tmp_path / "data", train=4, val=2)
    write_raw(tmp_path / "data", raw_document(texts(6)))
    changes = [word for change in (*COMMON, *CHANGES[preset]) for word in ("--set", change)]
    done = cli("run", preset, *changes)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / preset / "fedmrn-seed1"
    records = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert [0 <= r["accuracy"] <= 1 for r in records] == [True, True]
    assert score in done.stdout
    assert score in (folder / "report.html").read_text()
    assert (folder / "partition.png").stat().st_size > 0
