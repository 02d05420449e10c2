"""Files of JSON that may be anybody's: read up to a limit, and checked against a type."""

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from fedmrn.errors import ConfigError, RunError
from fedmrn.experiments.run.record import explain
from fedmrn.files import read_file
from fedmrn.parsed import parse_json

T = TypeVar("T")


def read_json(path: Path, form: TypeAdapter[T], most: int, cure: str) -> T | None:
    """Return what a file holds, or None if there is no such file.

    Args:
        path: of the file.
        form: what it must hold.
        most: bytes of it, at most.
        cure: what to do with a file that is not of this form, for messages: "; delete it".

    Raises:
        RunError: it cannot be read, or is not of this form: names the file, the key, what is wrong, and the cure.
    """
    data = read_file(path, most, cure)
    if data is None:
        return None
    try:
        parse_json(data)
        return form.validate_json(data)
    except ValidationError as error:
        raise RunError(f"{path}: {explain(error)}{cure}") from error
    except ConfigError as error:
        raise RunError(f"{path}: {error}{cure}") from error
