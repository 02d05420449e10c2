"""A layout as JSON: a file's rows, checked, before any of them is a tensor (docs/wire-format.md, section 6.2)."""

import json
from collections.abc import Iterable
from math import prod
from typing import Any

from fedmrn.errors import ConfigError
from fedmrn.parsed import parse_json
from fedmrn.text import printable

Row = tuple[str, tuple[int, ...], str]
"""(name, shape, group) of a tensor; the group is a word."""
GROUPS = ("coded", "dense", "stats", "variance")
"""The words, each in the place of its number."""
MOST_BYTES = 1 << 24
_MOST_TENSORS, _LONGEST_NAME, _MOST_DIMENSIONS = 1 << 16, 1000, 16
_MOST_ELEMENTS = 1 << 40  # of all tensors together
_MEMBERS = ("name", "shape", "group")


def write_rows(rows: Iterable[Row]) -> str:
    """Return the canonical form: a tensor a line."""
    lines = ",\n".join(json.dumps(dict(zip(_MEMBERS, row, strict=True))) for row in rows)
    return f"[\n{lines}\n]\n"


def read_rows(data: str | bytes) -> list[Row]:
    """Return the rows of a layout that came from outside.

    Raises:
        ConfigError: it is too long, no JSON, or not of this form: names the row and the member, and what it must be.
    """
    if len(data) > MOST_BYTES:
        raise ConfigError(f"a layout has {MOST_BYTES} bytes at most, this is longer")
    values = parse_json(data)
    if not isinstance(values, list) or len(values) > _MOST_TENSORS:
        raise ConfigError(f"a layout is an array of {_MOST_TENSORS} tensors at most, {_found(values)}")
    rows = [_row(at, value) for at, value in enumerate(values)]
    if sum(prod(shape) for _, shape, _ in rows) > _MOST_ELEMENTS:
        raise ConfigError(f"the tensors of a layout have more than {_MOST_ELEMENTS:,} elements")
    return rows


def _row(at: int, value: Any) -> Row:
    if not isinstance(value, dict):
        raise ConfigError(f"{at}: a tensor is an object of {', '.join(_MEMBERS)}, {_found(value)}")
    for member in (*_MEMBERS, *value):
        if member not in value or member not in _MEMBERS:
            wrong = "is missing" if member in _MEMBERS else "is no member of a tensor"
            raise ConfigError(f"{at}.{printable(member, 60)} {wrong}; it has {', '.join(_MEMBERS)}")
    name, shape, group = (value[member] for member in _MEMBERS)
    if not isinstance(name, str) or not 1 <= len(name) <= _LONGEST_NAME or not _is_text(name):
        raise ConfigError(f"{at}.name is a text of 1 to {_LONGEST_NAME} characters, {_found(name)}")
    if not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
        raise ConfigError(f"{at}.shape is an array of {_MOST_DIMENSIONS} sizes at most, {_found(shape)}")
    for k, n in enumerate(shape):
        if type(n) is not int or not 0 <= n <= _MOST_ELEMENTS:
            raise ConfigError(f"{at}.shape.{k} is a whole number from 0 to {_MOST_ELEMENTS}, {_found(n)}")
    if not isinstance(group, str) or group not in GROUPS:
        raise ConfigError(f"{at}.group is one of {', '.join(GROUPS)}, {_found(group)}")
    return name, tuple(shape), group


def _is_text(name: str) -> bool:
    """Whether it has a form in UTF-8: half of a surrogate pair has none."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _found(value: Any) -> str:
    """What stands there instead, in a few words."""
    if isinstance(value, list | dict | str):
        kind = {list: "an array", dict: "an object", str: "a text"}[type(value)]
        shown = f" {printable(value, 60)!r}" if isinstance(value, str) else ""
        return f"got {kind}{shown} of length {len(value)}"
    return f"got {printable(json.dumps(value), 60)}"
