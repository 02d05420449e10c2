"""A round's record: one schema for writing, resuming and reports."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_federation import federation, run

from fedmrn.errors import RunError
from fedmrn.experiments.run.record import Record, read_records, to_record
from fedmrn.methods import method
from run_folders import record

KEYS = ["round", "accuracy", "loss", "train_loss", "up", "down", "raw", "by_client", "bits_per_parameter"]


@pytest.mark.parametrize(
    ("name", "options", "observed"),
    [
        ("fedavg", {}, []),
        ("fedmrn", {"scale": 0.01}, ["density"]),
        ("fedmrn", {"scale": "auto"}, ["density", "noise_scale"]),
    ],
)
def test_a_line_is_read_as_it_was_written(name: str, options: dict[str, Any], observed: list[str]) -> None:
    for result in run(federation(scheme=method(name).scheme(options))):
        written = to_record(result)
        line = written.as_line()
        assert list(json.loads(line)) == [*KEYS, *observed, "clients", "seconds"]
        assert Record.of_line(line) == written
        assert Record.of_line(line).as_line() == line
        assert list(written.observed) == observed


def test_a_calibrated_round_says_what_it_was_before_and_what_that_took() -> None:
    plain, calibrated = (to_record(run(federation(calibrate=when, rounds=1))[0]) for when in ("never", "last"))
    line = calibrated.as_line()
    assert list(json.loads(line)) == [*KEYS, "calibration", "density", "clients", "seconds"]
    assert Record.of_line(line).as_line() == line
    assert calibrated.observed.keys() == {"density"}, "it is no table by tensor"
    found = calibrated.calibration
    assert found is not None
    assert (found.accuracy, found.loss) == (plain.accuracy, plain.loss)
    assert found.clients == calibrated.clients
    assert calibrated.up == plain.up
    for way, own in (("up", found.up), ("down", found.down)):
        assert calibrated.total(way) == plain.total(way) + own.total
    assert found.up.coded == found.up.dense == 0 < found.up.stats == found.up.variance
    assert found.down.coded > 0
    with pytest.raises(RunError, match=r"calibration\.accuracy"):
        Record.of_line(
            json.dumps(json.loads(line) | {"calibration": json.loads(line)["calibration"] | {"accuracy": 2}})
        )


def test_whatever_else_a_line_holds_is_kept_and_tables_of_numbers_are_observations() -> None:
    table = {"0.weight": 0.25, "2.weight": -3}
    others = {"word": "x", "mixed": {"a": 1.0, "b": "c"}, "truth": {"a": True}, "none": {}, "list": [1.0]}
    found = Record.of_line(json.dumps(record(1, 0.5) | {"made_up": table} | others))
    assert found.observed == {"made_up": table}
    assert json.loads(found.as_line()) == record(1, 0.5) | {"made_up": table} | others


def test_lines_from_before_raw_and_clients_were_counted_are_read(tmp_path: Path) -> None:
    old = [{k: v for k, v in record(i, 0.5).items() if k not in ("raw", "by_client")} for i in (1, 2)]
    text = "".join(json.dumps(line) + "\n" for line in old)
    (tmp_path / "rounds.jsonl").write_text(text)
    found = read_records(tmp_path)
    assert [r.raw for r in found] == [None, None]
    assert "".join(r.as_line() for r in found) == text


@pytest.mark.parametrize(
    "third", ["", "{", json.dumps(record(4, 0.5)), json.dumps(record(3, 1.5)), '{"round": 3}', "[]", "\xff"]
)
def test_a_run_goes_on_after_the_last_line_that_is_whole(tmp_path: Path, third: str) -> None:
    lines = [json.dumps(record(1, 0.5)), json.dumps(record(2, 0.6)), third, json.dumps(record(4, 0.7))]
    (tmp_path / "rounds.jsonl").write_bytes("\n".join(lines).encode("latin-1"))
    assert [r.accuracy for r in read_records(tmp_path)] == [0.5, 0.6]
    assert read_records(tmp_path / "none") == []


def test_a_record_without_a_round_s_bytes_is_not_made() -> None:
    with pytest.raises(RunError, match=r"up: .*total is not the sum"):
        Record.of_line(json.dumps(record(1, 0.5) | {"up": record(1, 0.5)["up"] | {"total": 1}}))


@pytest.mark.parametrize("name", ["loss", "clients", "up", "round"])
def test_an_observation_cannot_take_the_place_of_a_key(name: str) -> None:
    (result, *_) = run(federation(rounds=1))
    with pytest.raises(ValueError, match=f"'{name}' is a key of every record"):
        to_record(replace(result, observed={name: {"w": 1.0}}))


def test_a_further_key_may_be_deep() -> None:
    text = json.dumps(record(1, 0.5))[:-1] + ', "deep": ' + "[" * 60 + "]" * 60 + "}"
    found = Record.of_line(text)
    assert json.loads(found.as_line()) == json.loads(text)


@pytest.mark.parametrize("depth", [70, 600, 980, 5_000, 200_000])
def test_a_line_so_deep_that_nothing_could_write_it_again_is_refused(depth: int) -> None:
    text = json.dumps(record(1, 0.5))[:-1] + ', "deep": ' + "[" * depth + "]" * depth + "}"
    with pytest.raises(RunError, match=r"nested more than 64 deep|maximum recursion depth"):
        Record.of_line(text)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (', "x": ' + "1" * 5000 + "}", "Exceeds the limit|bits"),
        (', "x": ' + "1" * 4290 + "}", "bits"),
        (', "round": 1}', "the key 'round' twice"),
        (', "x": {"a": 1, "a": 2}}', "the key 'a' twice"),
    ],
)
def test_a_line_that_could_not_be_written_again_or_says_two_things_is_refused(more: str, words: str) -> None:
    with pytest.raises(RunError, match=words):
        Record.of_line(json.dumps(record(1, 0.5))[:-1] + more)
