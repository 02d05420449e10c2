"""The methods that can be compared: a table with a row each."""

from fedmrn.methods.method import DOWN, SIDE, Method, Options
from fedmrn.methods.option import AUTO, Option, ReadBy, Value
from fedmrn.methods.table import METHODS, method

__all__ = ["AUTO", "DOWN", "METHODS", "SIDE", "Method", "Option", "Options", "ReadBy", "Value", "method"]
