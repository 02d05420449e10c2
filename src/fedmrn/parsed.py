"""JSON from outside -> plain values: nothing in them nests without end, has a key twice, or cannot be shown."""

import json
import math
from typing import Any

from fedmrn.errors import ConfigError
from fedmrn.text import printable

_DEEPEST = 64  # tables in tables: more than any file of ours has, and less than anything here can walk
_LONGEST = 14_000  # bits of a whole number, about 4,200 digits: longer ones Python will not show


def parse_json(data: str | bytes, *, finite: bool = True) -> Any:
    """Return what bytes from outside say as JSON in UTF-8.

    Args:
        data: all of it.
        finite: whether NaN and infinity, which Python writes and JSON does not have, are refused.

    Raises:
        ConfigError: it is not JSON, nests too deep, has a key twice or an endless whole number.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
        values = json.loads(text, object_pairs_hook=_once)
        check_plain(values, finite=finite)
    except (ValueError, RecursionError) as error:
        raise ConfigError(printable(f"Invalid JSON: {error}")) from error
    return values


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it has the key {next(k for k in keys if keys.count(k) > 1)!r} twice")
    return found


def check_plain(values: Any, *, finite: bool = False) -> None:
    """Refuse what was read but cannot be shown or compared: it nests without end, or its numbers are endless.

    Raises:
        ValueError: says which.
    """
    level = [values]
    for _ in range(_DEEPEST):
        for value in level:
            if isinstance(value, int) and value.bit_length() > _LONGEST:
                raise ValueError(f"it has a whole number of {value.bit_length():,} bits")
            if finite and isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"it has the number {value}")
        inner = (v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list))
        level = [value for values in inner for value in values]
        if not level:
            return
    raise ValueError(f"it is nested more than {_DEEPEST} deep")
