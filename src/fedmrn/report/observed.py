"""Observations that figures draw, by their names in rounds.jsonl, and what their numbers must be.

An observation that nothing draws needs no entry: it is read with the others (`Record.observed`).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from fedmrn.errors import RunError
from fedmrn.experiments.run.record import Record, explain

DENSITY = "density"
"""The share of ones in the masks."""
NOISE_SCALE = "noise_scale"
"""The geometric mean of the noise scales that clients chose."""

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
_Scale = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
_DRAWN: Mapping[str, TypeAdapter[Any]] = MappingProxyType(
    {DENSITY: TypeAdapter(dict[str, _Share]), NOISE_SCALE: TypeAdapter(dict[str, _Scale])}
)


def check_observed(record: Record) -> None:
    """Refuse observations that no figure could draw.

    Raises:
        RunError: says which one of which tensor.
    """
    for name in _DRAWN.keys() & record.further.keys():
        try:
            _DRAWN[name].validate_python(record.further[name])
        except ValidationError as error:
            raise RunError(explain(error, name)) from error
