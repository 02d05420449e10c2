"""Records: what is written is read again, small and a run a line; what is wrong is named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmrn.errors import RunError
from fedmrn.results.records import (
    Collection,
    Provenance,
    StoredRun,
    read_collection,
    shortened,
    spread,
    write_collection,
)


def test_what_is_written_is_read(store: Path, collection: Collection) -> None:
    assert read_collection(store / "records" / "four.json") == collection


def test_a_run_is_a_line_and_bytes_that_stay_the_same_are_a_number(store: Path) -> None:
    lines = (store / "records" / "four.json").read_text().splitlines()
    runs = [line for line in lines if '"accuracy"' in line]
    assert len(runs) == 6
    assert all('"up": 4000000,' in line or '"up": 130000,' in line for line in runs)
    assert not any("stated" in line or "note" in line for line in runs)


@given(st.lists(st.integers(0, 1 << 53), min_size=1, max_size=5))
def test_shortened_numbers_are_spread_again(values: list[int]) -> None:
    assert spread(shortened(values), len(values)) == values


def test_what_is_zero_or_false_stays(tmp_path: Path) -> None:
    said = {"train.statistics": 0, "train.graphs": False, "data.alpha": 0.5, "data.partition": "labels"}
    run = StoredRun(setting="digits", method="fedavg", seed=0, set=said, accuracy=[0.0, 1.0])
    write_collection(tmp_path / "x.json", Collection(title="x", runs=[run]))
    (found,) = read_collection(tmp_path / "x.json").runs
    assert found == run
    assert [type(value) for value in found.set.values()] == [int, bool, float, str]


RUN = {"setting": "digits", "method": "fedavg", "seed": 1, "accuracy": [0.5, 0.6]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"accuracy": [0.5, 1.5]}, "runs.0.accuracy.1"),
        ({"accuracy": "high"}, "runs.0.accuracy"),
        ({"up": [1, 2, 3]}, "a list of bytes or clients has not 2 rounds"),
        ({"up": [1, -2]}, "runs.0.up"),
        ({"seed": -1}, "runs.0.seed"),
        ({"colour": "red"}, "runs.0.colour"),
        ({"set": {"train.rounds": [1]}}, "runs.0.set"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"title": "x", "runs": [{**RUN, **change}]}))
    with pytest.raises(RunError, match=r"x\.json") as error:
        read_collection(path)
    assert said in str(error.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"title": "x", "title": "y"}', b"\xff", b'{"title": NaN}'])
def test_what_is_no_record_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(RunError, match="mend it"):
        read_collection(tmp_path / "x.json")


def test_a_link_is_refused_and_what_is_missing_is_named(store: Path) -> None:
    (store / "records" / "link.json").symlink_to(store / "records" / "four.json")
    with pytest.raises(RunError, match="is a link"):
        read_collection(store / "records" / "link.json")
    with pytest.raises(RunError, match="does not exist"):
        read_collection(store / "records" / "five.json")


def test_a_run_stands_once(collection: Collection) -> None:
    with pytest.raises(ValueError, match="fedavg with seed 1 is there twice"):
        replace(collection, runs=[*collection.runs, collection.runs[0]])


def test_a_table_has_rows_as_wide_as_its_header() -> None:
    assert Collection(title="x", header=["a", "b"], rows=[["1", "2"]]).rows == [["1", "2"]]
    with pytest.raises(ValueError, match="2 cells of the header"):
        Collection(title="x", header=["a", "b"], rows=[["1"]])
    assert Provenance() == Collection(title="x").origin
