"""The fuzz targets: one for each kind of bytes that come from outside."""

from .base import Target, ViolationError
from .checkpoints import CHECKPOINT
from .configurations import CONFIGURATION
from .datasets import DATA
from .exchanges import BROADCAST, INSPECT, UPDATE
from .frames import FRAME
from .sections import SECTION

_ALL = (FRAME, UPDATE, BROADCAST, INSPECT, SECTION, CHECKPOINT, CONFIGURATION, DATA)
TARGETS = {target.name: target for target in _ALL}

__all__ = ["TARGETS", "Target", "ViolationError"]
