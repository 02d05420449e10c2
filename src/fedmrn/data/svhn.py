"""SVHN's cropped digits: two MATLAB files, each with X (32, 32, 3, n) and y (n, 1); label 10 is the digit 0.

Source: Netzer et al., "Reading digits in natural images with unsupervised feature learning", 2011.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmrn.data.source import Arrays, Source
from fedmrn.errors import DataError

_ZERO = 10  # MATLAB counts from 1, so the authors gave the digit 0 the label 10


def _stream(blob: bytes) -> Any:
    """Return a file in memory; scipy reads one, though its stubs know of paths only."""
    return io.BytesIO(blob)


def parse_mat(
    blob: bytes, count: int, shape: tuple[int, int, int], where: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images, uint8, shape (count, *shape), and labels 0 to 9, int64, shape (count,).

    Raises:
        DataError: if the file is not a MATLAB file, or its X and y have another type or shape.
    """
    from scipy.io import loadmat, whosmat  # noqa: PLC0415 - heavy, and only this format needs it

    channels, height, width = shape
    try:
        # Headers first: nothing is allocated for a file that declares other arrays.
        declared = {name: (tuple(dims), kind) for name, dims, kind in whosmat(_stream(blob))}
        if declared.get("X") != ((height, width, channels, count), "uint8"):
            raise DataError(f"{where} declares X as {declared.get('X')}; put the right file there")
        if declared.get("y", ((), ""))[0] != (count, 1):
            raise DataError(f"{where} declares y as {declared.get('y')}; put the right file there")
        arrays = loadmat(_stream(blob), variable_names=["X", "y"])
    except DataError:
        raise
    except Exception as error:  # a damaged file can fail in any way at all
        what = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{where} is not a sound MATLAB file ({what}); delete it and get it anew") from error
    labels = np.asarray(arrays["y"]).reshape(count)
    if not np.isin(labels, np.arange(1, _ZERO + 1)).all():
        raise DataError(f"{where} has labels outside 1 to {_ZERO}; delete it and get it anew")
    images = np.ascontiguousarray(np.asarray(arrays["X"], np.uint8).transpose(3, 2, 0, 1))
    return images, labels.astype(np.int64) % _ZERO


def read_svhn(source: Source, blobs: Sequence[bytes]) -> Arrays:
    """Read two MATLAB files: the training images and the test images with their labels.

    Raises:
        DataError: as `parse_mat`.
    """
    parts: list[NDArray[np.uint8] | NDArray[np.int64]] = []
    for file, blob, count in zip(source.files, blobs, (source.train, source.test), strict=True):
        parts += parse_mat(blob, count, source.shape, f"{source.name}: {file.name}")
    train_x, train_y, test_x, test_y = parts
    return Arrays(train_x, train_y.astype(np.int64), test_x, test_y.astype(np.int64))
