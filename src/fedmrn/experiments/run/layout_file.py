"""layout.json of a run folder: names, shapes and groups of the model's tensors, in flat order; needs no framework."""

from pathlib import Path

from fedmrn.errors import ConfigError, RunError
from fedmrn.files import read_file, write_atomic
from fedmrn.wire.layout import Layout
from fedmrn.wire.layout_json import MOST_BYTES

FILE = "layout.json"


def write_layout(folder: Path, layout: Layout) -> None:
    """Write layout.json into a run folder, a tensor a line."""
    write_atomic(folder / FILE, layout.to_json().encode())


def read_layout(folder: Path) -> Layout | None:
    """Return the layout of a run's model, or None for a run from before it was written.

    Raises:
        RunError: layout.json is not what the runner writes.
    """
    path = folder / FILE
    data = read_file(path, MOST_BYTES, "; delete it")
    if data is None:
        return None
    try:
        return Layout.from_json(data)
    except ConfigError as error:
        raise RunError(f"{path}: {error}; delete it") from error
