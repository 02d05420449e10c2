"""The real command line on Flower's simulation engine, with Ray's processes: the numbers of this process."""

import json
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install fedmrn[flower]")
pytest.importorskip("ray", reason="Ray is not installed: pip install flwr[simulation]")
from command import Cli, changes


def records(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "rounds.jsonl").read_text("utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.mark.slow
@pytest.mark.xdist_group("flower")  # not beside other processes of Flower: ports, and two cores
def test_a_run_on_flower_is_the_run_of_this_process(cli: Cli, tmp_path: Path) -> None:
    """Accuracy, losses, the bytes of every frame, and the checkpoint."""
    for engine in ("process", "flower"):
        done = cli("run", "digits", *changes("train.rounds=3"), "--out", engine, "--engine", engine)
        assert done.returncode == 0, done.stderr
        assert not done.stderr.strip(), "Ray and Flower are to be quiet"
    assert records(tmp_path / "flower") == records(tmp_path / "process")
    assert len(records(tmp_path / "flower")) == 3
    for name in ("last-update.bin", "checkpoint.bin"):
        assert (tmp_path / "flower" / name).read_bytes() == (tmp_path / "process" / name).read_bytes()
