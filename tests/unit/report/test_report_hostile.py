"""Run folders that nobody should have written: a mistake is named with its file and line, nothing else happens."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from fedmrn.errors import RunError
from fedmrn.report import reading as records
from fedmrn.report import write_report
from fedmrn.report.collect import collect
from fedmrn.report.figures import _around
from run_folders import record, sizes, write_run

GOOD = record(2, 0.8)


def changed(**values: Any) -> str:
    return json.dumps(GOOD | values)


WRONG = [
    ("{", "Invalid JSON"),
    ("[" * 100_000, "Invalid JSON"),
    ("[]", "an object"),
    ("null", "an object"),
    (changed(round=3), "round is 3, not 2"),
    (changed(round=True), "round: "),
    (changed(accuracy="0.8"), "accuracy: "),
    (changed(accuracy=float("nan")), "accuracy: "),
    (changed(accuracy=1.5), "accuracy: "),
    (changed(accuracy=None), "accuracy: "),
    (changed(seconds=float("inf")), "seconds: "),
    (changed(seconds=-1.0), "seconds: "),
    (changed(bits_per_parameter=0.0), "bits_per_parameter: "),
    (changed(clients=[]), "clients: "),
    (changed(clients=[0, 4]), "clients holds 4, of 4 clients"),
    (changed(clients=[-1]), "clients.0: "),
    (changed(clients=[10**400]), "clients.0: "),
    (changed(up={}), "up.coded: "),
    (changed(up=sizes(250) | {"total": 1}), "total is not the sum"),
    (changed(up=dict.fromkeys(sizes(0), 0)), "total is not the sum"),
    (changed(down=sizes(10) | {"coded": 1e3}), "down.coded: "),
    (changed(raw={"up": sizes(1)}), "raw.down: "),
    (changed(density={"a": 1.2}), "density.a: "),
    (changed(density={"a": float("nan")}), "density.a: "),
    (changed(density={"\x1b[31m": "x"}), r"density.\?\[31m: "),
    (changed(density=[0.5]), "density: "),
    (changed(noise_scale={"a": 0.0}), "noise_scale.a: "),
    (changed(noise_scale={"a": float("inf")}), "noise_scale.a: "),
    (changed(noise_scale={"a": "0.1"}), "noise_scale.a: "),
    (changed(noise_scale=0.1), "noise_scale: "),
]


@pytest.mark.parametrize(("line", "words"), WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_a_line_that_the_runner_did_not_write(tmp_path: Path, line: str, words: str) -> None:
    folder = write_run(tmp_path / "r", accuracies=[0.5])
    with (folder / "rounds.jsonl").open("a") as file:
        file.write(f"{line}\n{json.dumps(record(3, 0.9))}\n")
    with pytest.raises(RunError, match=rf"rounds\.jsonl, line 2: .*{words}") as caught:
        collect([folder])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_what_may_be_missing_or_odd(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", accuracies=[0.5])
    odd = {k: v for k, v in GOOD.items() if k != "raw"} | {"loss": float("nan"), "of a later version": {"x": 1}}
    with (folder / "rounds.jsonl").open("a") as file:
        file.write(json.dumps(odd) + "\n")
    (comparison,), _ = collect([folder])
    assert [r.accuracy for r in comparison.variants[0].records[0]] == [0.5, 0.8]


def test_a_torn_last_line_is_not_there_and_a_whole_one_is(tmp_path: Path) -> None:
    for cut, rounds in ((40, 1), (1, 2)):  # in the middle of the line, and before its end only
        folder = write_run(tmp_path / f"{cut}", accuracies=[0.5, 0.8])
        log = folder / "rounds.jsonl"
        log.write_bytes(log.read_bytes()[:-cut])
        (comparison,), _ = collect([folder])
        assert len(comparison.variants[0].records[0]) == rounds


def test_no_more_is_read_than_a_run_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "r")
    with (folder / "rounds.jsonl").open("a") as file:
        file.write("after the last round nothing is read\n")
    assert len(collect([folder])[0][0].runs[0].records) == 3
    length = len((folder / "rounds.jsonl").read_bytes().splitlines()[0])
    monkeypatch.setattr(records, "_LINE", length - 1)
    with pytest.raises(RunError, match=r"rounds\.jsonl, line 1 is longer than"):
        collect([folder])
    monkeypatch.setattr(records, "_FILE", 1000)
    with pytest.raises(RunError, match=r"rounds\.jsonl is larger than"):
        collect([folder])
    monkeypatch.setattr("fedmrn.experiments.run.folder._MOST", 10)
    with pytest.raises(RunError, match=r"config\.toml is larger than"):
        collect([folder])


@pytest.mark.parametrize(
    "text",
    ["", "a = ", "x = " + "[" * 5000, 'preset = "p"\nmethod = "none"\nseed = 1', "\x00", "seed = 1e999"],
)
def test_a_configuration_that_is_none(tmp_path: Path, text: str) -> None:
    folder = write_run(tmp_path / "r")
    (folder / "config.toml").write_text(text)
    with pytest.raises(RunError, match=r"config\.toml"):
        collect([folder])


@pytest.mark.parametrize(
    "text",
    ["[", "{}", "[]", "[[]]", "[[1],[2]]", "[[1],[2],[3],[4,5]]", "[[0],[0],[0],[0]]", "[[1],[2],[3],[-4]]", "[[1.5]]"],
)
def test_a_partition_that_is_none(tmp_path: Path, text: str) -> None:
    folder = write_run(tmp_path / "r")
    (folder / "partition.json").write_text(text)
    with pytest.raises(RunError, match=r"partition\.json"):
        collect([folder])


def header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII5s", 13, b"IHDR", width, height, b"\x08\x02\0\0\0") + b"crc!"


@pytest.mark.parametrize(
    "data", [b"", b"<svg onload=alert(1)>", header(1 << 30, 1 << 30), header(10, 0), header(1, 1000), header(8, 8)]
)
def test_a_picture_that_is_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "partition.png"
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"partition\.png"):
        _around(path)


@pytest.mark.parametrize(
    "change",
    [
        {"methods": {}, "option": 3},
        {"methods": {"fedmrn": {"tried": {"0.1": "high"}, "chosen": "0.1", "at_the_edge": False}}},
        {"methods": {"fedmrn": {"tried": {"9": 0.5}, "chosen": "0.1", "at_the_edge": False}}},
        {"methods": {"fedmrn": {"tried": {"0.1": 0.5, "1": None}, "chosen": "7", "at_the_edge": False}}},
    ],
)
def test_a_tuning_that_is_none(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = write_run(tmp_path / "r")
    whole = {"option": "lr", "values": ["0.1", "1"], "rounds": 1, "seed": 0, "changes": []}
    (tmp_path / "tuning.json").write_text(json.dumps(whole | change))
    with pytest.raises(RunError, match=r"tuning\.json"):
        write_report(tmp_path, [folder])
