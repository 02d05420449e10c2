"""The records of a store: a JSON file holds a table's worth of runs, each with its curves; a run is a line of the file.

Files may be anybody's: everything is checked, and a mistake is named with its file and key.
"""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StrictBool, StrictFloat, StrictInt, TypeAdapter
from pydantic.dataclasses import dataclass

from fedmrn.errors import RunError
from fedmrn.experiments.run.json_file import read_json
from fedmrn.experiments.run.record import Whole
from fedmrn.files import write_atomic

FOLDER = "records"
_MOST_BYTES, _MOST_ROUNDS, _MOST_RUNS = 1 << 26, 1 << 20, 1 << 14
_SHAPE = ConfigDict(extra="forbid")
Text = Annotated[str, Field(max_length=4000, strict=True)]
Word = Annotated[str, Field(max_length=200, strict=True)]
Plain = StrictBool | StrictInt | StrictFloat | Word
_Accuracy = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Bytes = Whole | Annotated[list[Whole], Field(max_length=_MOST_ROUNDS)]
"""Bytes of all clients together: a number a round, or one number if all rounds have the same."""


@dataclass(frozen=True, kw_only=True, config=_SHAPE)
class Provenance:
    """Where numbers come from; what is not known is empty.

    Attributes:
        processor: or the GPU.
        torch: version of PyTorch.
        precision: of training.
        date: of the last start, such as 2026-01-31.
        code: version of the package, or commit.
        carried: what a carried-over record was taken from, where its run folders are gone.
    """

    processor: Word = ""
    torch: Word = ""
    precision: Word = ""
    date: Word = ""
    code: Word = ""
    carried: Text = ""


@dataclass(frozen=True, kw_only=True, config=_SHAPE)
class StoredRun:
    """A run: what it was, and what came of it in every round.

    Attributes:
        setting: the preset.
        method: its name.
        seed: of the run; for what was carried over as a mean, those that it is of, such as 1-2.
        lr: the learning rate; 0 where it is not known.
        set: what differs from the preset, as `--set` takes it.
        label: what tables call it; the method, unless given.
        accuracy: of the global model on the test samples after each round, in [0, 1]; None where it was not tested.
        up, down: bytes of all clients together; None where they were not kept.
        mask: of `up`, the bytes of the coded sections.
        again: of `down`, bytes and clients that were sent the difference to a model that they hold, each a round.
        clients: that took part, a number a round, or one number.
        parameters: trainable ones.
        stated: numbers and texts that were kept instead of a curve, by the name of what they are.
        origin: where it is another than that of the collection.
        note: what else one must know.
    """

    setting: Word
    method: Word
    seed: Whole | Word
    lr: float = 0.0
    set: dict[Word, Plain] = Field(default_factory=dict)
    label: Word = ""
    accuracy: Annotated[list[_Accuracy | None], Field(max_length=_MOST_ROUNDS)] = Field(default_factory=list)
    up: Bytes | None = None
    down: Bytes | None = None
    mask: Bytes | None = None
    again: tuple[Bytes, Bytes] | None = None
    clients: Bytes = 0
    parameters: Whole = 0
    stated: dict[Word, float | Text] = Field(default_factory=dict)
    origin: Provenance | None = None
    note: Text = ""

    def __post_init__(self) -> None:
        lists = (self.up, self.down, self.mask, self.clients, *(self.again or ()))
        if any(isinstance(each, list) and len(each) != len(self.accuracy) for each in lists):
            raise ValueError(f"a list of bytes or clients has not {len(self.accuracy)} rounds, as accuracy has")

    @property
    def key(self) -> tuple[object, ...]:
        """What tells runs of a collection apart."""
        return self.setting, self.method, self.seed, self.label, *sorted(self.set.items())


@dataclass(frozen=True, kw_only=True, config=_SHAPE)
class Collection:
    """A table's worth of runs, or a table as it was carried over.

    Attributes:
        title: what was run.
        commands: that run it.
        origin: where its numbers come from.
        notes: what one must know of them.
        runs: the runs.
        header, rows: of a table that is not one of runs.
    """

    title: Text
    commands: list[Text] = Field(default_factory=list)
    origin: Provenance = Provenance()
    notes: list[Text] = Field(default_factory=list)
    runs: Annotated[list[StoredRun], Field(max_length=_MOST_RUNS)] = Field(default_factory=list)
    header: list[Text] = Field(default_factory=list)
    rows: Annotated[list[list[Text]], Field(max_length=_MOST_RUNS)] = Field(default_factory=list)

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in self.rows):
            raise ValueError(f"a row has not the {len(self.header)} cells of the header")
        keys = [run.key for run in self.runs]
        if len(set(keys)) < len(keys):
            run = next(run for i, run in enumerate(self.runs) if run.key in keys[:i])
            raise ValueError(f"{run.method} with seed {run.seed} is there twice with the same options")


_FILE = TypeAdapter(Collection)


def read_collection(path: Path) -> Collection:
    """Return the collection that a file holds.

    Raises:
        RunError: it is not there, or not of this form.
    """
    found = read_json(path, _FILE, _MOST_BYTES, "; mend it, or import its runs anew")
    if found is None:
        raise RunError(f"{path} does not exist: import its runs, or delete the mark that shows it")
    return found


def write_collection(path: Path, collection: Collection) -> None:
    """Write a collection's file, a run or a row of a table a line."""
    lines = [f" {json.dumps(name)}: {_value(value)}" for name, value in _lean(collection).items()]
    write_atomic(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[\n" + ",\n".join(f"  {json.dumps(each, ensure_ascii=False)}" for each in value) + "\n ]"
    return json.dumps(value, ensure_ascii=False)


def _lean(record: Collection | StoredRun | Provenance) -> dict[str, Any]:
    """Return what a record says, without fields that have their default or are empty."""
    found = {field.name: (getattr(record, field.name), field.default) for field in fields(record)}
    return {name: _plain(value) for name, (value, default) in found.items() if value not in (default, [], {})}


def _plain(value: Any) -> Any:
    if isinstance(value, StoredRun | Provenance):
        return _lean(value)
    return [_plain(each) for each in value] if isinstance(value, list) else value


def shortened(values: Sequence[int]) -> Bytes:
    """Return numbers by round as a record holds them: one number if all are the same."""
    return values[0] if values and len(set(values)) == 1 else list(values)


def spread(values: Bytes | None, rounds: int) -> list[int] | None:
    """Return a number for each round."""
    return [values] * rounds if isinstance(values, int) else values
