"""Text from outside -> values, and values -> frozen dataclasses: every mistake is named in one printable line."""

import tomllib
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from fedmrn.errors import ConfigError
from fedmrn.parsed import check_plain
from fedmrn.text import nearest, printable

T = TypeVar("T")


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Return what a text from outside says as TOML.

    Raises:
        ConfigError: it is not TOML, or nests too deep, or has a whole number too long to be shown.
    """
    try:
        values = tomllib.loads(text)
        check_plain(values)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not valid TOML: {printable(str(error))}") from error
    return values


def parse_value(text: str) -> Any:
    """Return what a text says as TOML; a bare word is a string."""
    try:
        return parse_toml(f"v = {text}", "the value")["v"]
    except ConfigError:
        return text.strip()


def fields_of(kind: Any) -> list[str]:
    """Return the names of a dataclass's fields."""
    return list(kind.__dataclass_fields__)


def word_of(choices: Collection[str]) -> Callable[[object], str]:
    """Return a check, for pydantic, that a value is one of these words; the message suggests the nearest."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            word = value if isinstance(value, str) else ""
            raise ValueError(f"it does not exist{nearest(word, choices)}")
        return value

    return check


def validate(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Return values as a frozen dataclass.

    Raises:
        ConfigError: names the place and the key that is wrong, unknown or missing.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{printable(where, 500)}: {_explain(kind, first)}") from error


def _explain(kind: Any, error: Any) -> str:
    path = [printable(str(p), 60) for p in error["loc"]]
    key = ".".join(path)
    if error["type"] == "unexpected_keyword_argument":
        for part in path[:-1]:
            kind = kind.__dataclass_fields__[part].type
        return f"unknown key {key}{nearest(path[-1], fields_of(kind), ''.join(f'{p}.' for p in path[:-1]))}"
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return (
        f"{key} is missing" if error["type"] == "missing" else f"{key} = {printable(repr(error['input']))}: {message}"
    )
