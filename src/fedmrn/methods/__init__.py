"""The methods that can be compared: a table with a row each."""

from fedmrn.methods.method import Method
from fedmrn.methods.table import METHODS, method

__all__ = ["METHODS", "Method", "method"]
