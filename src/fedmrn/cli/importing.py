"""Imports of large libraries, for a command that is to start at once."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Collect no garbage while libraries are imported: they leave next to none, and each collection walks them all."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
