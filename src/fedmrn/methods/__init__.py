"""The table of methods, and their options."""

from fedmrn.methods.consent import ANY, MASKED, PRIVATE, Accept, check_consent
from fedmrn.methods.method import DOWN, SIDE, Method, Options
from fedmrn.methods.option import AUTO, Option, ReadBy, Value
from fedmrn.methods.table import METHODS, method

__all__ = [
    "ANY",
    "AUTO",
    "DOWN",
    "MASKED",
    "METHODS",
    "PRIVATE",
    "SIDE",
    "Accept",
    "Method",
    "Option",
    "Options",
    "ReadBy",
    "Value",
    "check_consent",
    "method",
]
