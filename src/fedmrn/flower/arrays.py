"""A model's state dict as Flower's arrays: to the flat vector and back, and into the frame of a model."""

from collections.abc import Callable, Mapping
from math import prod
from typing import Protocol

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedmrn.errors import ConfigError
from fedmrn.federation.model_frames import model_frames
from fedmrn.server import Server
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Layout

_FLOATS = ("float32", "float16")
_WRAPPERS = ("_orig_mod.", "module.")
"""What torch.compile and DataParallel put before the names of a state dict."""


class View(Protocol):
    """What the strategy needs to know of a model; `fedmrn.torch.ModelLayout` is one."""

    @property
    def layout(self) -> Layout:
        """The flat vector."""

    @property
    def tied(self) -> Mapping[str, str]:
        """Further names of its tensors in the state dict."""


def flat(layout: Layout, arrays: ArrayRecord) -> NDArray[np.float32]:
    """Return a state dict's values in the order of a layout, float32, shape (layout.size,).

    Raises:
        ConfigError: a tensor is not there, neither float32 nor float16, or of another shape.
    """
    vector = np.empty(layout.size, np.float32)
    for tensor in layout.tensors:
        array = arrays.get(tensor.name)
        if array is None or array.dtype not in _FLOATS or tuple(array.shape) != tensor.shape:
            found = "not there" if array is None else f"{array.dtype} of shape {tuple(array.shape)}"
            if array is None and any(prefix + tensor.name in arrays for prefix in _WRAPPERS):
                found = "there by the name of a wrapper (take fedmrn.torch.unwrapped(model).state_dict())"
            raise ConfigError(
                f"arrays must be the model's state dict: {tensor.name} is {found}, and must be float32 of "
                f"shape {tensor.shape}"
            )
        if prod(tensor.shape):
            vector[layout.slices[tensor.name]] = array.numpy().reshape(-1)
    return vector


def state_dict(
    layout: Layout, values: NDArray[np.float32], tied: Mapping[str, str], others: Mapping[str, Array]
) -> ArrayRecord:
    """Return the state dict of a flat vector.

    Args:
        layout: of the model.
        values: float32, shape (layout.size,).
        tied: further names of its tensors, and the name that the layout has for each.
        others: what never travels (counters, frozen parameters), by name.
    """
    arrays = dict(others)
    for tensor in layout.tensors:
        arrays[tensor.name] = Array(values[layout.slices[tensor.name]].reshape(tensor.shape))
    return ArrayRecord({**arrays, **{other: arrays[name] for other, name in tied.items()}})


def frames_of(server: Server, arrays: ArrayRecord, number: int) -> Callable[[int], Frame]:
    """Return what makes the frame of a model for a node to evaluate: the same values for all, under a key of its own.

    A server with public models sends what changed since the one that the node holds, unless these arrays are others
    than its own, which somebody has changed: they are sent exactly.

    Raises:
        ConfigError: the arrays are not those of the server's model.
    """
    return model_frames(server, flat(server.layout, arrays), number)
