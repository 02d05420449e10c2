"""data.json of a run folder: which data the run is of, where no author publishes a digest of its files."""

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from fedmrn.data import Dataset
from fedmrn.errors import RunError
from fedmrn.experiments.run.json_file import read_json
from fedmrn.files import write_atomic

FILE = "data.json"
_MOST = 1 << 20  # bytes that are read at most


@dataclass(frozen=True)
class _Data:
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


_DATA = TypeAdapter(_Data)


def check_data(folder: Path, dataset: Dataset) -> str:
    """Compare a data set with that of the run that a folder holds, if it says; return its digest.

    The digest of a data set of published files, which are checked themselves, is empty.

    Raises:
        RunError: it is another one, or the file cannot be read.
    """
    if dataset.published:
        return ""
    digest = dataset.digest()
    begun = (folder / "config.toml").exists()  # else the file is of a run that never began
    there = read_json(folder / FILE, _DATA, _MOST, "; delete it, if the data are those of the run") if begun else None
    if there is not None and there.sha256 != digest:
        raise RunError(
            f"{folder} holds a run of other data: {dataset.name} has SHA-256 {digest[:16]}... here and "
            f"{there.sha256[:16]}... there; put the data back, or --out FOLDER for a new run"
        )
    return digest


def write_data(folder: Path, dataset: Dataset, digest: str) -> None:
    """Note which data a run is of; nothing where the digest is empty."""
    if not digest:
        return
    said = {
        "sha256": digest,
        "train": len(dataset.train_y),
        "test": len(dataset.test_y),
        "shape": dataset.shape,
        "classes": dataset.classes,
        "class_names": dataset.class_names,
    }
    write_atomic(folder / FILE, json.dumps(said).encode())
