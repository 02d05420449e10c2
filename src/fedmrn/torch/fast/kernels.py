"""The kernels of a device."""

from importlib import import_module
from typing import Any

import torch

from fedmrn.errors import UnsupportedModelError


def kernels_of(device: torch.device) -> Any:
    """Return the module of the kernels of a device: None for the CPU, whose kernels are `fedmrn.numerics.masking`'s.

    Raises:
        UnsupportedModelError: they need Triton, which is not installed.
    """
    if device.type == "cpu":
        return None
    try:
        return import_module("fedmrn.torch.fast.gpu")
    except ImportError as error:
        raise UnsupportedModelError(
            f"training through a mask on {device} needs Triton ({error}): pip install 'fedmrn[gpu]', or model.cpu()"
        ) from error
