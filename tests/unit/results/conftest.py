"""A store with a handful of runs, written by hand."""

from pathlib import Path

import pytest
from stored_runs import FEDAVG, MASKS, ORIGIN, stored

from fedmrn.results.records import Collection, write_collection


@pytest.fixture
def collection() -> Collection:
    runs = [stored("fedavg", seed, values) for seed, values in FEDAVG.items()]
    runs += [stored("fedmrn", seed, values, set={"method.scale": "auto"}) for seed, values in MASKS.items()]
    return Collection(title="Four rounds", origin=ORIGIN, notes=["A note."], runs=runs)


@pytest.fixture
def store(tmp_path: Path, collection: Collection) -> Path:
    """A folder with one file of records, and no page."""
    folder = tmp_path / "mine"
    (folder / "records").mkdir(parents=True)
    write_collection(folder / "records" / "four.json", collection)
    return folder
