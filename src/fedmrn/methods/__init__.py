"""The table of methods, and their options."""

from fedmrn.methods.method import DOWN, SIDE, Method, Options
from fedmrn.methods.option import AUTO, Option, ReadBy, Value
from fedmrn.methods.table import METHODS, method

__all__ = ["AUTO", "DOWN", "METHODS", "SIDE", "Method", "Option", "Options", "ReadBy", "Value", "method"]
