"""layout.json of a run folder: names, shapes and groups of the model's tensors, in flat order; needs no framework."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from fedmrn.errors import ConfigError, RunError
from fedmrn.experiments.run.json_file import read_json
from fedmrn.files import write_atomic
from fedmrn.wire.layout import Group, Layout, TensorSpec

FILE = "layout.json"
_MOST_BYTES, _MOST_TENSORS = 1 << 24, 1 << 16
_MOST_ELEMENTS = 1 << 40  # of all tensors together


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class _Tensor:
    """A tensor as the file names it; the group is the name of a `fedmrn.wire.layout.Group` in lower case."""

    name: Annotated[str, Field(min_length=1, max_length=1000, strict=True)]
    shape: Annotated[list[Annotated[int, Field(ge=0, le=_MOST_ELEMENTS, strict=True)]], Field(max_length=16)]
    group: Literal["coded", "dense", "stats", "variance"]


_FILE = TypeAdapter(Annotated[list[_Tensor], Field(max_length=_MOST_TENSORS)])


def write_layout(folder: Path, layout: Layout) -> None:
    """Write layout.json into a run folder, a tensor a line."""
    tensors = ({"name": t.name, "shape": t.shape, "group": t.group.name.lower()} for t in layout.tensors)
    lines = ",\n".join(map(json.dumps, tensors))
    write_atomic(folder / FILE, f"[\n{lines}\n]\n".encode())


def read_layout(folder: Path) -> Layout | None:
    """Return the layout of a run's model, or None for a run from before it was written.

    Raises:
        RunError: layout.json is not what the runner writes.
    """
    path = folder / FILE
    found = read_json(path, _FILE, _MOST_BYTES, "; delete it")
    if found is None:
        return None
    try:
        layout = Layout(tuple(TensorSpec(t.name, tuple(t.shape), Group[t.group.upper()]) for t in found))
    except ConfigError as error:
        raise RunError(f"{path}: {error}; delete it") from error
    if sum(tensor.size for tensor in layout.tensors) > _MOST_ELEMENTS:
        raise RunError(f"{path}: its tensors have more than {_MOST_ELEMENTS:,} elements; delete it")
    return layout
