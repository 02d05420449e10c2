"""Running variances: how they travel so that none can become negative, and what makes a model unusable.

A state holds a variance itself, always as float32. An update holds the change of its logarithm, so that the server
multiplies: whatever coding loses or a client sends, a variance stays above 0. What is averaged over clients are the
logarithms; the mean of variances is geometric.

A variance may be 0 (a feature that is constant), and has no logarithm then. Changes are those of max(variance, FLOOR),
and a variance that does not change stays as it is.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import EncodeError
from fedmrn.wire.layout import Group, Layout

F32 = NDArray[np.float32]

FLOOR = 2.0**-60
"""The least variance that has a logarithm: a millionth of a layer's eps of 1e-12, and far below the usual 1e-5."""
CEILING = 2.0**126
"""The largest variance that an update leads to; a few local steps cannot take it out of float32."""


def log_change(before: F32, after: F32) -> F32:
    """Return log(max(after, FLOOR)) - log(max(before, FLOOR)), float32; all shapes (d,), finite and at least 0."""
    changed: F32 = (np.log(_within(after)) - np.log(_within(before))).astype(np.float32)
    return changed


def moved(before: F32, change: F32) -> F32:
    """Return the variances after a change of their logarithms, float32, FLOOR to CEILING; all shapes (d,).

    Where the change is exactly 0, a variance stays what it was, be it 0.
    """
    logs = np.log(_within(before)) + change
    with np.errstate(over="ignore", under="ignore"):
        after = np.exp(logs).clip(FLOOR, CEILING)
    return np.where(change == 0, before, after).astype(np.float32)


def _within(variance: F32) -> NDArray[np.float64]:
    return np.maximum(variance.astype(np.float64), FLOOR)


@dataclass(frozen=True, slots=True)
class Fault:
    """The first value that makes a vector no usable model; its text names the tensor.

    Attributes:
        tensor: its name.
        element: the index within the tensor.
        value: NaN, infinite, or a negative variance.
    """

    tensor: str
    element: int
    value: float

    @property
    def finite(self) -> bool:
        """Whether the value is a number: a negative variance."""
        return bool(np.isfinite(self.value))

    def __str__(self) -> str:
        what = "a negative variance" if self.finite else "not a finite number"
        return f"tensor {self.tensor} has {self.value:g} in element {self.element}, {what}"


def fault_of(layout: Layout, state: F32) -> Fault | None:
    """Return what makes a state, float32, shape (layout.size,), unusable: a value that is not finite, or a negative
    variance; None where nothing does. It takes no memory in proportion to the state."""
    variances = state[layout.span(Group.VARIANCE)]
    with np.errstate(invalid="ignore"):
        finite = not state.size or bool(np.isfinite(state.min()) and np.isfinite(state.max()))
    if finite and (not variances.size or variances.min() >= 0):
        return None
    for tensor in layout.tensors:
        part = state[layout.slices[tensor.name]]
        bad = ~np.isfinite(part)
        if tensor.group is Group.VARIANCE:
            bad |= part < 0
        if bad.any():
            element = int(bad.argmax())
            return Fault(tensor.name, element, float(part[element]))
    return None


def check_trained(layout: Layout, variances: F32) -> None:
    """Refuse running variances of a client that are not finite or are negative.

    Args:
        layout: of the model.
        variances: of all tensors of the group, joined, float32.

    Raises:
        EncodeError: names the tensor.
    """
    own = Layout(tuple(tensor for tensor in layout.tensors if tensor.group is Group.VARIANCE))
    fault = fault_of(own, variances)
    if fault is not None:
        raise EncodeError(f"{fault}: training diverged; lower the learning rate, or scale the inputs")
