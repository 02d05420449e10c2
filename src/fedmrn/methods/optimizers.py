"""Optimizers of local training, by name; this table needs no framework."""

from collections.abc import Mapping
from types import MappingProxyType

LOCAL_OPTIMIZERS: Mapping[str, str] = MappingProxyType({"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"})
"""What a person types -> the class of `torch.optim`."""
