"""Arrays of a person's own: checked before anything is trained, each mistake told with its cure.

Samples are uint8 or of floats, shape (n, ...), at least two dimensions. Of four dimensions they are images, (n,
channels, height, width); uint8 is 0 to 255, and floats are used as they are. Others may be whole numbers (tokens).
Labels are whole numbers from 0 without a gap, shape (n,).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmrn.data.source import Arrays, Task
from fedmrn.errors import DataError
from fedmrn.text import printable

CONTRACT = (
    "four arrays, (train_x, train_y, test_x, test_y): samples of shape (n, ...) as uint8 or float32, images as "
    "(n, channels, height, width), and labels of shape (n,) as whole numbers from 0"
)
_CHANNELS = (1, 3, 4)


def checked(arrays: Arrays, where: str) -> Arrays:
    """Return the same samples and labels as C-ordered arrays that can be written: uint8, float32 or int64; int64.

    Args:
        arrays: anything that NumPy takes for an array; `roles` as they are documented.
        where: they come from, for messages.

    Raises:
        DataError: says which of them is wrong, how, and what to do.
    """
    parts: list[NDArray[Any]] = []
    for part in ("train", "test"):
        x, y = arrays[len(parts)], arrays[len(parts) + 1]
        x, y = _samples(x, f"{where}: {part}_x"), _labels(y, f"{where}: {part}_y")
        if len(x) != len(y):
            raise DataError(f"{where}: {part}_x has {len(x)} samples, and {part}_y {len(y)} labels: give one each")
        parts += [x, y]
    train_x, train_y, test_x, test_y = parts
    if train_x.shape[1:] != test_x.shape[1:] or train_x.dtype != test_x.dtype:
        raise DataError(
            f"{where}: samples of train_x are {train_x.dtype} of shape {train_x.shape[1:]}, those of test_x "
            f"{test_x.dtype} of shape {test_x.shape[1:]}: give them alike"
        )
    _check_range(train_y, test_y, where)
    return Arrays(train_x, train_y, test_x, test_y, tuple(_roles(arrays.roles, len(train_x), where)))


def task_of(x: NDArray[Any]) -> Task:
    """Return what samples are: images, if they have channels, height and width."""
    return "images" if x.ndim == 4 else "samples"


def _array(values: Any, what: str) -> NDArray[Any]:
    try:
        found = np.asarray(values)
    except Exception as error:  # whatever a person's own type does
        raise DataError(f"{what} is no array ({printable(str(error), 200)}): give one of NumPy's") from error
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise DataError(f"{what} has masked values, which would be used as they are: fill them in, or leave them out")
    if found.dtype.hasobject:
        raise DataError(f"{what} is an array of Python objects: give numbers, all samples of one shape")
    return found


def _samples(values: Any, what: str) -> NDArray[Any]:
    x = _array(values, what)
    if x.ndim < 2:
        raise DataError(f"{what} has shape {x.shape}: give (n, ...), images as (n, channels, height, width)")
    if not x.size:
        raise DataError(f"{what} is empty, of shape {x.shape}: give at least one sample")
    if x.ndim == 4 and x.shape[3] in _CHANNELS and min(x.shape[1:3]) > max(_CHANNELS):
        raise DataError(
            f"{what} has shape {x.shape}, channels last: give (n, channels, height, width), as "
            "x.transpose(0, 3, 1, 2) does"
        )
    if x.ndim == 3 and x.dtype == np.uint8:
        raise DataError(f"{what} is uint8 of shape {x.shape}: grey images need their channel, as x[:, None] gives it")
    if x.dtype == np.uint8:
        kind: type[np.generic] = np.uint8
    elif np.issubdtype(x.dtype, np.floating):
        kind = np.float32
    elif np.issubdtype(x.dtype, np.integer) and x.ndim != 4:
        kind = np.int64
    else:
        raise DataError(f"{what} is {x.dtype}: give uint8 (0 to 255) or float32, such as x.astype(np.float32)")
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.require(x, kind, ["C", "W"])
    if kind is np.float32 and not np.isfinite(found).all():
        first = int(np.flatnonzero(~np.isfinite(found).reshape(len(found), -1).all(1))[0])
        raise DataError(
            f"{what} has values that are not finite as float32 (NaN, infinite, too large), first in sample {first}: "
            "leave it out"
        )
    if kind is np.int64 and x.dtype == np.uint64 and (found < 0).any():
        raise DataError(f"{what} has whole numbers beyond int64: give smaller ones")
    return found


def _labels(values: Any, what: str) -> NDArray[np.int64]:
    y = _array(values, what)
    if y.ndim == 2 and y.shape[1] == 1:
        raise DataError(f"{what} has shape {y.shape}: give (n,), as y[:, 0] does")
    if y.ndim == 2:
        raise DataError(f"{what} has shape {y.shape}: give each sample's class as a number, as y.argmax(1) does")
    if y.ndim != 1:
        raise DataError(f"{what} has shape {y.shape}: give (n,), a class a sample")
    if not np.issubdtype(y.dtype, np.integer):
        cure = "np.unique(y, return_inverse=True)[1]" if y.dtype.kind in "US" else "y.astype(np.int64)"
        raise DataError(f"{what} is {y.dtype}: give whole numbers, as {cure} does")
    if not y.size:
        raise DataError(f"{what} is empty: give at least one label")
    if y.dtype == np.uint64 and (y > np.iinfo(np.int64).max).any():
        raise DataError(f"{what} has label {y.max()}: number the classes from 0 without a gap")
    return np.require(y, np.int64, ["C", "W"])


def _check_range(train_y: NDArray[np.int64], test_y: NDArray[np.int64], where: str) -> None:
    """Refuse labels that are not 0, 1, 2, ... or that no training sample has."""
    found = np.unique(train_y)
    if len(found) < 2:
        raise DataError(f"{where}: train_y has one class only, {found[0]}: give at least two")
    if found[0] != 0 or found[-1] != len(found) - 1:
        wrong = f"has label {found[0]}" if found[0] < 0 else f"has labels up to {found[-1]}, and no {_gap(found)}"
        raise DataError(
            f"{where}: train_y {wrong}: number them from 0 without a gap, as np.unique(y, return_inverse=True)[1] does "
            "for training and test labels together"
        )
    strange = np.setdiff1d(test_y, found)
    if len(strange):
        raise DataError(f"{where}: test_y has label {strange[0]}, which train_y has not: leave it out, or add samples")


def _gap(found: NDArray[np.int64]) -> int:
    """Return the first number from 0 on that is not in an ascending array."""
    return next((i for i, label in enumerate(found) if label != i), len(found))


def _roles(roles: Any, count: int, where: str) -> list[NDArray[np.int64]]:
    if not isinstance(roles, tuple | list):
        raise DataError(f"{where}: roles are a {type(roles).__name__}: give a tuple, an array of indices for each user")
    found = [_array(role, f"{where}: roles") for role in roles]
    for role in found:
        if role.ndim != 1 or not np.issubdtype(role.dtype, np.integer) or not ((role >= 0) & (role < count)).all():
            raise DataError(f"{where}: roles must be indices of training samples, 0 to {count - 1}, an array a user")
    return [role.astype(np.int64) for role in found]
