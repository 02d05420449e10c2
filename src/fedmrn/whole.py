"""Numbers that a caller hands in: whole ones of any integer type, and any value as a short text for a message."""

from operator import index

import numpy as np

from fedmrn.errors import ConfigError, FedmrnError

_LONGEST = 60
_WRITTEN_OUT = 1 << 128  # larger whole numbers are named by their length


def shown(value: object) -> str:
    """Return a value as a message shows it: one short printable line, whatever it is and however long."""
    if isinstance(value, int) and abs(value) >= _WRITTEN_OUT:
        return f"a whole number of about {round(value.bit_length() * 0.30103):,} digits"  # log10(2)
    try:
        text = repr(value)
    except ValueError:  # a whole number inside it that Python will not write out
        text = f"a value of type {type(value).__name__}"
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def whole(
    value: object, what: str, *, least: int = 1, most: int = (1 << 64) - 1, error: type[FedmrnError] = ConfigError
) -> int:
    """Return a whole number as an int: an int, numpy's integers of any width, or what else Python takes as an index.

    Args:
        value: as the caller gave it. True is no number, and 2.5 and 2.0 are no whole ones.
        what: what it is, to start the message with: "a client's weight".
        least: the smallest that will do.
        most: the largest.
        error: what is raised.

    Raises:
        FedmrnError: `error`, which says what was given and what would do.
    """
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = index(value)  # type: ignore[arg-type]  # it raises for what is none
    except TypeError:
        raise error(f"{what} is a whole number, got {shown(value)} of type {type(value).__name__}") from None
    if number < least:
        raise error(f"{what} is at least {least}, got {shown(number)}")
    if number > most:
        raise error(f"{what} is too large: at most {most}, got {shown(number)}")
    return number
