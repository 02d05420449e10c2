"""Data files: IDX in gzip, CIFAR's archive and its pickles, SVHN's MATLAB files.

An input is a byte that says which format, and the file; two of the formats come without their gzip too, which the target
adds, so that a mutation is not lost on a checksum.
"""

import gzip
import sys
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmrn.data import cifar, idx, pickles, svhn
from fedmrn.data.cifar import read_members
from fedmrn.data.idx import parse_idx
from fedmrn.data.pickles import read_batch
from fedmrn.data.svhn import parse_mat
from fedmrn.errors import DataError

from .base import Target, require

sys.path.append(str(Path(__file__).parents[2] / "unit" / "data"))

from data_samples import idx as idx_file  # noqa: E402
from data_samples import mat, python2_pickle, tar_gz, zipped  # noqa: E402

_COUNT, _PIXELS = 5, 12
_IMAGES = (np.arange(_COUNT * _PIXELS, dtype=np.uint8) * 37).reshape(_COUNT, _PIXELS)
_LABELS = [3, 1, 4, 1, 5]
_NAMES = ("top/one", "top/two")
_MEMBER = 2048


def _labels(found: NDArray[np.int64], most: int) -> None:
    require(found.shape == (_COUNT,) and found.dtype == np.int64, "labels of another shape")
    require(bool(((found >= 0) & (found <= most)).all()), "a label out of range")


def _idx(blob: bytes) -> None:
    found = parse_idx(blob, (_COUNT, 3, 4), "fuzzed")
    require(found.shape == (_COUNT, 3, 4) and found.dtype == np.uint8, "images of another shape")


def _tar(blob: bytes) -> None:
    found = read_members(blob, _NAMES, _MEMBER, "fuzzed")
    require(set(found) == set(_NAMES) and max(map(len, found.values())) <= _MEMBER, "other members than asked for")


def _pickle(blob: bytes) -> None:
    pixels, labels = read_batch(blob, (_COUNT, _PIXELS), b"labels", "fuzzed")
    require(pixels.shape == (_COUNT, _PIXELS) and pixels.dtype == np.uint8, "images of another shape")
    _labels(labels, 255)


def _mat(blob: bytes) -> None:
    images, labels = parse_mat(blob, _COUNT, (3, 2, 2), "fuzzed")
    require(images.shape == (_COUNT, 3, 2, 2) and images.dtype == np.uint8, "images of another shape")
    _labels(labels, 9)


_READERS = (
    _idx,
    lambda blob: _idx(zipped(blob)),
    _tar,
    lambda blob: _tar(zipped(blob)),
    _pickle,
    _mat,
)


def _check(data: bytes) -> None:
    if not data:
        return
    try:
        _READERS[data[0] % len(_READERS)](data[1:])
    except DataError as error:
        require("\n" not in str(error), "a message of several lines")
        require(not isinstance(error.__cause__, MemoryError), "a reader asked for more memory than there is")


def _seeds() -> list[bytes]:
    images = idx_file(_IMAGES.reshape(_COUNT, 3, 4))
    batches = {name: python2_pickle(_IMAGES, _LABELS, b"labels", fortran) for name, fortran in zip(_NAMES, (0, 1))}
    archive = tar_gz({"top/readme": b"text", **batches})
    cube, column = _IMAGES.T.reshape(2, 2, 3, _COUNT), np.array(_LABELS, np.uint8)[:, None]
    return [
        b"\0" + zipped(images),
        b"\1" + images,
        b"\2" + archive,
        b"\3" + gzip.decompress(archive),
        *(b"\4" + batch for batch in batches.values()),
        b"\5" + mat(cube, column),
        b"\5" + mat(cube, column, compress=False),
        b"\5" + mat(cube, column.astype(np.float64), compress=False),
    ]


# Most that inflates or unpickles is C, which allocates without being asked by Python: the process's limit holds there.
DATA = Target("data", _check, _seeds, (idx, cifar, pickles, svhn, tarfile), memory=4 << 20, longest=12 << 10)
