"""What keeps a model usable: the step of running variances, and the check of every state before it is handed out."""

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import ConfigError, UnusableModelError
from fedmrn.wire.layout import Group, Layout
from fedmrn.wire.variance import fault_of, moved

F32 = NDArray[np.float32]


def move_variances(layout: Layout, before: F32, mean: F32, state: F32) -> None:
    """Write the running variances of the next state: those before, moved by the mean change of their logarithms.

    Args:
        layout: of the model.
        before: the state that the round began with, float32, shape (layout.size,).
        mean: of the updates in the group of variances, float32.
        state: the next state; its part of variances is written.
    """
    where = layout.span(Group.VARIANCE)
    state[where] = moved(before[where], mean)


def check_round(number: int, layout: Layout, state: F32, moments: F32) -> None:
    """Refuse what a round would leave, unless every value is finite and no variance negative.

    Raises:
        UnusableModelError: names the tensor and its value.
    """
    fault, broken = fault_of(layout, state), not _finite(moments)
    if fault is None and not broken:
        return
    what = "the moments of the server's optimizer would not be finite" if fault is None else f"in the new model {fault}"
    raise UnusableModelError(
        f"round {number}: {what}; the round is lost and the old model stays: lower the server's or the clients' "
        "learning rate, or Limits.max_value"
    )


def check_start(layout: Layout, state: F32) -> None:
    """Refuse a state that no round may begin with.

    Raises:
        ConfigError: names the tensor and its value.
    """
    fault = fault_of(layout, state)
    if fault is not None:
        raise ConfigError(f"the state is no usable model: {fault}")


def check_moments(moments: F32) -> None:
    """Refuse moments that no round may begin with.

    Raises:
        ConfigError: says that they are not finite.
    """
    if not _finite(moments):
        raise ConfigError("the moments are not finite: start with those of an earlier round, or with none")


def _finite(vector: F32) -> bool:
    with np.errstate(invalid="ignore"):
        return not vector.size or bool(np.isfinite(vector.min()) and np.isfinite(vector.max()))
