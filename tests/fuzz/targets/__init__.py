"""The fuzz targets: one for each kind of bytes that come from outside. A module is imported when its target is used."""

from functools import cache
from importlib import import_module

from .base import Target, ViolationError

MODULES = {
    "frame": "frames",
    "update": "exchanges",
    "broadcast": "exchanges",
    "inspect": "exchanges",
    "partial": "trees",
    "assignment": "trees",
    "section": "sections",
    "public": "public_models",
    "held": "public_models",
    "numbers": "numbers",
    "checkpoint": "checkpoints",
    "configuration": "configurations",
    "layout": "layouts",
    "data": "datasets",
}
"""Name of a target -> the module that holds it, under its name in capitals."""


@cache
def target(name: str) -> Target:
    """Return the target of this name."""
    found: Target = getattr(import_module(f"targets.{MODULES[name]}"), name.upper())
    return found


__all__ = ["MODULES", "Target", "ViolationError", "target"]
