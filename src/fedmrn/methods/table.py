"""The table of methods: everything that can be compared, a row each. `docs/methods.md` has a section a row."""

from collections.abc import Mapping
from types import MappingProxyType

from fedmrn.errors import ConfigError
from fedmrn.methods import masked, others
from fedmrn.methods.method import Method
from fedmrn.text import nearest
from fedmrn.whole import shown

METHODS: Mapping[str, Method] = MappingProxyType(
    {row.name: row for row in sorted((*masked.ROWS, *others.ROWS), key=lambda row: row.id)}
)
"""Every method by name, in the order of their ids."""


def method(name: str) -> Method:
    """Return the method of this name.

    Raises:
        ConfigError: if there is none, or it is no text; the message suggests the nearest.
    """
    if not isinstance(name, str):
        raise ConfigError(f"a method is named by a word such as 'fedmrn', got {shown(name)}")
    if name not in METHODS:
        raise ConfigError(f"method {name!r} does not exist{nearest(name, METHODS)}")
    return METHODS[name]
