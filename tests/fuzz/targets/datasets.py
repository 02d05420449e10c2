"""Data files: IDX in gzip, CIFAR's archive and its pickles, and the check of size and digest before any of them.

An input is a byte that says which format, and the file; two of the formats come without their gzip too, which the
target adds, so that a mutation is not lost on a checksum.

MATLAB files (SVHN) are read by scipy, whose compiled code a damaged file can crash (docs/fuzzing.md): what keeps such a
file away from it is the digest, and that is what is fuzzed here.
"""

import gzip
import sys
import tarfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmrn.data import DATASETS, cifar, files, idx, pickles
from fedmrn.data.cifar import read_members
from fedmrn.data.files import read_files
from fedmrn.data.idx import parse_idx
from fedmrn.data.pickles import read_batch
from fedmrn.errors import DataError

from .base import Target, own_folder, require

sys.path.append(str(Path(__file__).parents[2] / "unit" / "data"))

from data_samples import describe, mat, python2_pickle, tar_gz, zipped
from data_samples import idx as idx_file

_COUNT, _PIXELS = 5, 12
_IMAGES = (np.arange(_COUNT * _PIXELS, dtype=np.uint8) * 37).reshape(_COUNT, _PIXELS)
_LABELS = [3, 1, 4, 1, 5]
_NAMES = ("top/one", "top/two")
_MEMBER = 2048
_MAT = mat(_IMAGES.T.reshape(2, 2, 3, _COUNT), np.array(_LABELS, np.uint8)[:, None])
_ROW = DATASETS["svhn"]
_SVHN = describe(replace(_ROW, files=_ROW.files[:1]), [_MAT])


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


@cache
def _folder() -> Path:
    return own_folder()


def _digest(blob: bytes) -> None:
    (_folder() / _SVHN.files[0].name).write_bytes(blob)
    found = read_files(_SVHN, _folder(), download=False)
    require(found == (_MAT,), "a file with another digest was let through")


_READERS = (
    _idx,
    lambda blob: _idx(zipped(blob)),
    _tar,
    lambda blob: _tar(zipped(blob)),
    _pickle,
    _digest,
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
    batches = {
        name: python2_pickle(_IMAGES, _LABELS, b"labels", fortran)
        for name, fortran in ((_NAMES[0], False), (_NAMES[1], True))
    }
    archive = tar_gz({"top/readme": b"text", **batches})
    return [
        b"\0" + zipped(images),
        b"\1" + images,
        b"\2" + archive,
        b"\3" + gzip.decompress(archive),
        *(b"\4" + batch for batch in batches.values()),
        b"\5" + _MAT,
    ]


# Most that inflates or unpickles is C, which allocates without being asked by Python: the process's limit holds there.
DATA = Target("data", _check, _seeds, (idx, cifar, pickles, files, tarfile), memory=4 << 20, longest=12 << 10)
