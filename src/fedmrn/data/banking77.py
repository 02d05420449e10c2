"""Banking77: questions to a bank's customer service, each with one of 77 intents; two CSV files, as published.

    train.csv, test.csv     columns text and category, one question a row

Source: Casanueva et al., "Efficient intent detection with dual sentence encoders", 2020.
"""

import csv
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedmrn.data.files import read_limited
from fedmrn.data.source import Arrays
from fedmrn.data.tokens import tokenise
from fedmrn.errors import DataError

CLASSES = 77
LENGTH = 64
"""Tokens of a text that are kept: all of more than 99 % of the published ones."""
MOST_CHARACTERS = 1 << 14
"""Of a text, and of a category."""

_FILES = ("train.csv", "test.csv")
_COLUMNS = ["text", "category"]
_MOST_BYTES = 1 << 26
_MOST_ROWS = 1 << 20


class Question(NamedTuple):
    """A row of a file, and the line that it ends in."""

    text: str
    category: str
    line: int


def find_banking77(data_dir: Path) -> Path | None:
    """Return the folder `data_dir/banking77` if it holds both files."""
    folder = data_dir / "banking77"
    return folder if all((folder / name).is_file() for name in _FILES) else None


def read_banking77(folder: Path) -> Arrays:
    """Return token ids, int32, shape (n, LENGTH), and the number of each text's category, in alphabetical order.

    Raises:
        DataError: a file is not what it should be; names the file and the line.
        ConfigError: what turns texts into tokens is not installed.
    """
    train_path, test_path = (folder / name for name in _FILES)
    train, test = read_questions(train_path), read_questions(test_path)
    categories = sorted({row.category for row in train})
    if len(categories) != CLASSES:
        raise DataError(f"{train_path} has {len(categories)} categories, expected {CLASSES}; get it anew")
    number = {category: i for i, category in enumerate(categories)}
    for row in test:
        if row.category not in number:
            raise _wrong(test_path, row.line, f"category {row.category[:60]!r} is not one of {_FILES[0]}")
    return Arrays(*_part(train, number), *_part(test, number))


def read_questions(path: Path) -> list[Question]:
    """Return the rows of a file, at least one.

    Raises:
        DataError: it is not what it should be; names the line.
    """
    blob = read_limited(path, _MOST_BYTES)
    try:
        text = blob.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = blob.count(b"\n", 0, error.start) + 1
        raise _wrong(path, line, "is not text in UTF-8") from error
    rows: list[Question] = []
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    try:
        if next(reader, None) != _COLUMNS:
            raise _wrong(path, 1, f"is not the header {','.join(_COLUMNS)}")
        for fields in reader:
            rows.append(_row(path, reader.line_num, fields))
            if len(rows) > _MOST_ROWS:
                raise _wrong(path, reader.line_num, f"is beyond the {_MOST_ROWS} texts that are read")
    except csv.Error as error:
        raise _wrong(path, reader.line_num, f"is not sound CSV ({error})") from error
    if not rows:
        raise DataError(f"{path} holds no text; get it anew")
    return rows


def _part(rows: list[Question], number: dict[str, int]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    return tokenise([row.text for row in rows], LENGTH), np.array([number[row.category] for row in rows], np.int64)


def _row(path: Path, line: int, fields: list[str]) -> Question:
    if len(fields) != len(_COLUMNS):
        raise _wrong(path, line, f"has {len(fields)} fields, expected {len(_COLUMNS)}")
    for name, field in zip(_COLUMNS, fields, strict=True):
        if not field.strip():
            raise _wrong(path, line, f"has an empty {name}")
        if len(field) > MOST_CHARACTERS:
            raise _wrong(path, line, f"has a {name} of {len(field)} characters, at most {MOST_CHARACTERS}")
    return Question(fields[0], fields[1], line)


def _wrong(path: Path, line: int, what: str) -> DataError:
    return DataError(f"{path}, line {line}: {what}; get the file anew")
