"""Data of a person's own: found, read and checked. See docs/your-data.md."""

from fedmrn.data.own.load import Wanted, load_own
from fedmrn.data.own.module import call, find_object, told

__all__ = ["Wanted", "call", "find_object", "load_own", "told"]
