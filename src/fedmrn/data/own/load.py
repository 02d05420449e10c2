"""What `data.source` of a setting names -> a data set, checked.

    pictures/             a folder of pictures by class
    arrays.npz            arrays of NumPy's
    saved/                a data set that Hugging Face's datasets saved to disk
    module:function       what the function returns

Paths and modules are looked for beside the setting's file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmrn.data.catalogue import DATASETS
from fedmrn.data.dataset import Dataset
from fedmrn.data.own.arrays import CONTRACT, checked, task_of
from fedmrn.data.own.folder import read_folder
from fedmrn.data.own.module import call, find_object, told
from fedmrn.data.own.npz import read_npz
from fedmrn.data.own.saved import is_saved, read_hugging_face
from fedmrn.data.source import Arrays
from fedmrn.errors import DataError, UsageError
from fedmrn.text import nearest, printable


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A data set of a person's own, as a setting names it.

    Attributes:
        name: what it is called.
        source: what names it, as above.
        folder: of the setting's file.
        data_dir: where data files lie; a function is given it, if it has an argument `data_dir`.
        image_size: pixels a side that pictures are scaled to; 0: they have one size.
        test_share, split_seed: of data that come in one piece: the share for testing, and the seed of the draw.
    """

    name: str
    source: str
    folder: Path
    data_dir: Path
    image_size: int = 0
    test_share: float = 0.2
    split_seed: int = 0


def load_own(wanted: Wanted) -> Dataset:
    """Load a data set, and check it.

    Images of uint8 are normalised by mean and standard deviation of each channel over the training images. Other
    samples are used as they are.

    Raises:
        ConfigError: a module or an installed library is missing.
        DataError: it is not there, or not what it should be: says what, where, and what to do.
    """
    path = wanted.folder / Path(wanted.source).expanduser()
    options: dict[str, Any] = {"share": wanted.test_share, "seed": wanted.split_seed}
    classes: tuple[str, ...] = ()
    if path.is_file() and path.suffix == ".npz":
        arrays, where = read_npz(path, **options), str(path)
    elif path.is_dir():
        read = read_hugging_face if is_saved(path) else read_folder
        try:
            (arrays, classes), where = read(path, side=wanted.image_size, **options), str(path)
        except OSError as error:
            raise DataError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    elif ":" in wanted.source and not path.exists():
        arrays, where = _returned(wanted), f"data.source = {printable(wanted.source)!r}"
    else:
        raise _not_there(wanted, path)
    arrays = checked(arrays, where)
    mean, std = _constants(arrays.train_x)
    train_x, train_y, test_x, test_y = map(torch.from_numpy, arrays[:4])
    return Dataset(
        wanted.name,
        train_x,
        train_y,
        test_x,
        test_y,
        int(arrays.train_y.max()) + 1,
        *(mean, std, mean, std),
        augment=False,
        task=task_of(arrays.train_x),
        roles=arrays.roles,
        class_names=classes,
    )


def _returned(wanted: Wanted) -> Arrays:
    """Return what a person's function returns, if these are four of something.

    Raises:
        ConfigError: the function is not there, or needs arguments.
        DataError: it raised an error, or returned something else.
    """
    what = f"data.source = {printable(wanted.source)!r}"
    function = find_object(wanted.source, wanted.folder, "data.source")
    try:
        found = call(function, {"data_dir": wanted.data_dir.absolute()}, what)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(f"{what} raised an error: {told(error, wanted.folder)}") from error
    if isinstance(found, Arrays):
        return found
    if not isinstance(found, tuple | list):
        raise DataError(f"{what} returned a value of type {type(found).__name__}: it must return {CONTRACT}")
    if len(found) != 4:
        kinds = ", ".join(type(value).__name__ for value in found[:8])
        raise DataError(f"{what} returned {len(found)} values ({kinds}): it must return {CONTRACT}")
    return Arrays(*found)


def _constants(x: NDArray[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, in units of 0 to 1; none but for images of uint8."""
    if task_of(x) != "images" or x.dtype != np.uint8:
        return (), ()
    value = np.arange(256) / 255
    shares = [np.bincount(x[:, c].reshape(-1), minlength=256) / x[:, c].size for c in range(x.shape[1])]
    means = [float(share @ value) for share in shares]
    deviations = [float(np.sqrt(share @ (value - mean) ** 2)) for share, mean in zip(shares, means, strict=True)]
    return tuple(means), tuple(deviation or 1.0 for deviation in deviations)


def _not_there(wanted: Wanted, path: Path) -> DataError:
    if path.is_file():
        return DataError(f"data.source: {path} is a file and not .npz: give a folder, a .npz file or module:function")
    return DataError(
        f"data.source = {printable(wanted.source)!r} is neither in {wanted.folder} nor a data set that is known"
        f"{nearest(wanted.source, DATASETS)}; of your own, give a folder of pictures by class, a .npz file, or "
        "module:function"
    )
