"""Run folders that may be anybody's: everything is checked, and a mistake is named with its file and line."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedmrn.errors import RunError
from fedmrn.experiments.config import Experiment, Positive
from fedmrn.experiments.run.folder import read_experiment
from fedmrn.experiments.run.record import Record
from fedmrn.text import printable

_CONFIG, _LINE, _FILE = 1 << 20, 1 << 22, 1 << 28  # bytes that are read at most
_SHAPE = ConfigDict(extra="ignore")
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
_Whole = Annotated[int, Field(ge=0, le=1 << 53, strict=True)]
_Number = Annotated[float, Field(strict=True)]  # a loss may be infinite


@dataclass(frozen=True, config=_SHAPE)
class _Sizes:
    coded: _Whole
    dense: _Whole
    stats: _Whole
    header: _Whole
    checksum: _Whole
    total: _Whole

    def __post_init__(self) -> None:
        if not 0 < self.total == self.coded + self.dense + self.stats + self.header + self.checksum:
            raise ValueError("total is not the sum of the other parts, or is 0")


@dataclass(frozen=True, config=_SHAPE)
class _Ways:
    up: _Sizes
    down: _Sizes


@dataclass(frozen=True, config=_SHAPE)
class _Line:
    """What the report uses of a line of rounds.jsonl."""

    round: _Whole
    accuracy: _Share
    loss: _Number
    train_loss: _Number
    up: _Sizes
    down: _Sizes
    bits_per_parameter: Positive
    clients: Annotated[list[_Whole], Field(min_length=1)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
    raw: _Ways | None = None  # missing in runs from before it was counted
    density: dict[str, _Share] | None = None  # of methods with masks only
    noise_scale: dict[str, Positive] | None = None  # where clients choose it


_LINES = TypeAdapter(_Line)
_HELD = TypeAdapter(Annotated[list[Annotated[list[_Whole], Field(min_length=1)]], Field(min_length=1)])


def read_setting(folder: Path) -> Experiment:
    """Return the experiment of a run folder.

    Raises:
        RunError: the folder holds no run, or its configuration cannot be read.
    """
    path = folder / "config.toml"
    _limit(path, _CONFIG)
    try:
        return read_experiment(folder)
    except RecursionError as error:
        raise RunError(f"{path} cannot be read: it is nested too deeply") from error


def read_rounds(folder: Path, experiment: Experiment) -> list[Record]:
    """Return the lines of rounds.jsonl, up to the last round of the experiment; a torn last line is left out.

    Raises:
        RunError: naming the line that is not of the form that the runner writes.
    """
    path = folder / "rounds.jsonl"
    if not path.exists():
        return []
    _limit(path, _FILE)
    records: list[Record] = []
    with path.open("rb") as file:
        while len(records) < experiment.train.rounds and (text := file.readline(_LINE + 1)):
            where = f"{path}, line {len(records) + 1}"
            if len(text) > _LINE:
                raise RunError(f"{where} is longer than {_LINE:,} bytes; mend it, or leave this run out")
            try:
                line = _LINES.validate_json(text)
            except ValidationError as error:
                if not text.endswith(b"\n"):  # being written, or cut off by a crash
                    break
                raise RunError(f"{where}: {_explain(error)}; mend it, or leave this run out") from error
            if line.round != len(records) + 1:
                raise RunError(f"{where}: round is {line.round}, not {len(records) + 1}; mend it")
            if max(line.clients) >= experiment.data.clients:
                raise RunError(f"{where}: clients holds {max(line.clients)}, of {experiment.data.clients} clients")
            records.append({key: value for key, value in asdict(line).items() if value is not None})
    return records


def read_holdings(folder: Path, experiment: Experiment) -> NDArray[np.int64] | None:
    """Return who holds what, shape (clients, labels), or None for a run from before it was written.

    Raises:
        RunError: partition.json is not what the runner writes.
    """
    path = folder / "partition.json"
    if not path.exists():
        return None
    _limit(path, _FILE >> 4)
    try:
        held = _HELD.validate_json(path.read_bytes())
    except ValidationError as error:
        raise RunError(f"{path}: {_explain(error)}; delete it") from error
    if len(held) != experiment.data.clients or len({len(row) for row in held}) != 1 or not any(map(any, held)):
        raise RunError(f"{path} is not a table of samples by client and label, a row for each client; delete it")
    return np.array(held, np.int64)


def _limit(path: Path, most: int) -> None:
    if path.exists() and path.stat().st_size > most:
        raise RunError(f"{path} is larger than {most:,} bytes, so no run of fedmrn wrote it")


def _explain(error: ValidationError) -> str:
    first: Any = error.errors()[0]
    place = ".".join(str(p) for p in first["loc"])
    text = f"{place}: {first['msg']}" if place else str(first["msg"])
    return printable(text)
