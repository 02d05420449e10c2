"""Run folders that may be anybody's: everything is checked, and a mistake is named with its file and line."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from fedmrn.errors import RunError
from fedmrn.experiments.config import Experiment
from fedmrn.experiments.run.json_file import read_json
from fedmrn.experiments.run.record import FILE, MOST, MOST_OF_A_LINE, Record, Whole
from fedmrn.files import open_file
from fedmrn.report.observed import check_observed

_LINE, _FILE = MOST_OF_A_LINE, MOST  # bytes that are read at most
_HELD = TypeAdapter(Annotated[list[Annotated[list[Whole], Field(min_length=1)]], Field(min_length=1)])


def read_rounds(folder: Path, experiment: Experiment) -> list[Record]:
    """Return the lines of rounds.jsonl, up to the last round of the experiment; a torn last line is left out.

    Raises:
        RunError: naming the line that is not of the form that the runner writes.
    """
    path = folder / FILE
    records: list[Record] = []
    with suppress(FileNotFoundError), open_file(path, _FILE, "; leave this run out") as file:
        while len(records) < experiment.train.rounds and (text := file.readline(_LINE + 1)):
            where = f"{path}, line {len(records) + 1}"
            if len(text) > _LINE:
                raise RunError(f"{where} is longer than {_LINE:,} bytes; mend it, or leave this run out")
            try:
                record = Record.of_line(text)
                check_observed(record)
            except RunError as error:
                if not text.endswith(b"\n"):  # being written, or cut off by a crash
                    break
                raise RunError(f"{where}: {error}; mend it, or leave this run out") from error
            if record.round != len(records) + 1:
                raise RunError(f"{where}: round is {record.round}, not {len(records) + 1}; mend it")
            if record.accuracy is None and experiment.train.tests(record.round):
                raise RunError(f"{where}: accuracy: a tested round has one; mend it, or leave this run out")
            if max(record.clients) >= experiment.data.clients:
                raise RunError(f"{where}: clients holds {max(record.clients)}, of {experiment.data.clients} clients")
            records.append(record)
    return records


def read_holdings(folder: Path, experiment: Experiment) -> NDArray[np.int64] | None:
    """Return who holds what, shape (clients, labels), or None for a run from before it was written.

    Raises:
        RunError: partition.json is not what the runner writes.
    """
    path = folder / "partition.json"
    held = read_json(path, _HELD, _FILE >> 6, "; delete it")
    if held is None:
        return None
    if len(held) != experiment.data.clients or len({len(row) for row in held}) != 1 or not any(map(any, held)):
        raise RunError(f"{path} is not a table of samples by client and label, a row for each client; delete it")
    return np.array(held, np.int64)
