"""Arrays from a file of NumPy's, `.npz`: nothing is unpickled, and sizes are checked before anything is allocated.

train_x, train_y, test_x, test_y     or, as Keras has them, x_train, y_train, x_test, y_test
x, y                                 in one piece, of which a part is for testing
"""

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedmrn.data.own.split import split
from fedmrn.data.source import Arrays
from fedmrn.errors import DataError
from fedmrn.files import open_file
from fedmrn.text import printable

MOST = 1 << 36
"""Bytes of the file, and of all its arrays, at most."""
_NAMES = (("train_x", "train_y", "test_x", "test_y"), ("x_train", "y_train", "x_test", "y_test"), ("x", "y"))
_RATIO = 1032  # a byte of DEFLATE becomes no more
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npz(path: Path, *, share: float, seed: int) -> Arrays:
    """Return the arrays of a file as they are; `share` and `seed` are those of `split`, where they are in one piece.

    Raises:
        DataError: it is no sound file of this kind, lacks arrays, has Python objects in one, or is too large.
    """
    try:
        with open_file(path, MOST, error=DataError, links=True) as file:
            names = _check(file, path)
            file.seek(0)
            with np.load(file, allow_pickle=False) as found:
                arrays: list[NDArray[Any]] = [found[name] for name in names]
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{path} has more than there is memory for; give fewer samples") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        said = printable(" ".join(str(error).split())) or type(error).__name__
        raise DataError(f"{path} is not a sound .npz file ({said}); write it anew by np.savez") from error
    if len(arrays) == 4:
        train_x, train_y, test_x, test_y = arrays
        return Arrays(train_x, train_y, test_x, test_y)
    x, y = arrays
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer) or x.ndim < 2 or len(x) != len(y):
        return Arrays(x, y, x, y)  # what is wrong with them, `checked` says
    train, test = split(y.astype(np.int64), share, seed, f"{path}: y")
    return Arrays(x[train], y[train].astype(np.int64), x[test], y[test].astype(np.int64))


def _check(file: BinaryIO, path: Path) -> tuple[str, ...]:
    """Return the names of the arrays that are to be read, whose sizes are what the file holds.

    Raises:
        DataError: they are not there, or not sound.
    """
    with zipfile.ZipFile(file) as archive:
        there = [name.removesuffix(".npy") for name in archive.namelist()]
        names = next((row for row in _NAMES if set(row) <= set(there)), None)
        if names is None:
            listed = printable(", ".join(there[:10])) or "nothing"
            raise DataError(
                f"{path} holds {listed}: give train_x, train_y, test_x and test_y, or x and y, as does "
                "np.savez(path, x=x, y=y)"
            )
        total = 0
        for name in names:
            if there.count(name) > 1:
                raise DataError(f"{path} holds {name} twice; write it anew by np.savez")
            info = archive.getinfo(f"{name}.npy" if f"{name}.npy" in archive.namelist() else name)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{path}: {name} is packed as NumPy packs nothing; write it anew by np.savez")
            with archive.open(info) as member:
                version = npy.read_magic(member)
                if version not in _HEADERS:
                    raise DataError(f"{path}: {name} is of a version of .npy that is not read: save plain arrays")
                shape, _, kind = _HEADERS[version](member)
                if kind.hasobject:
                    raise DataError(
                        f"{path}: {name} holds Python objects, a pickle, which would run code: save an array of numbers"
                    )
                size = math.prod(shape) * kind.itemsize
                possible = (
                    info.compress_size if info.compress_type == zipfile.ZIP_STORED else _RATIO * info.compress_size
                )
                if member.tell() + size != info.file_size or info.file_size > possible + _RATIO:
                    raise DataError(f"{path}: {name} declares {size} bytes and holds others; write it anew by np.savez")
            total += size
        if total > MOST:
            raise DataError(f"{path} declares {total >> 30} GiB, more than {MOST >> 30}; give fewer samples")
    return names
