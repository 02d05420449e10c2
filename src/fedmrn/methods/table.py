"""The table of methods: everything that can be compared, a row each. `docs/methods.md` has a section a row."""

from collections.abc import Mapping
from types import MappingProxyType

from fedmrn.errors import ConfigError
from fedmrn.methods import masked, others
from fedmrn.methods.method import Method
from fedmrn.text import nearest

METHODS: Mapping[str, Method] = MappingProxyType(
    {row.name: row for row in sorted((*masked.ROWS, *others.ROWS), key=lambda row: row.id)}
)
"""Every method by name, in the order of their ids."""


def method(name: str) -> Method:
    """Return the method of this name.

    Raises:
        ConfigError: if there is none; the message suggests the nearest.
    """
    if name not in METHODS:
        raise ConfigError(f"method {name!r} does not exist{nearest(name, METHODS)}")
    return METHODS[name]
