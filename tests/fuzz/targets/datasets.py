"""Data files: IDX in gzip, CIFAR's archive and its pickles, and the check of size and digest before any of them; and
what has no digest: Shakespeare's JSON in both forms, Pascal VOC's lists, images and masks, Banking77's CSV, and of a
person's own, arrays of NumPy's and pictures.

An input is a byte that says which format, and the file; some of the formats come without their gzip too, which the
target adds, so that a mutation is not lost on a checksum.

MATLAB files (SVHN) are read by scipy, whose compiled code a damaged file can crash (docs/fuzzing.md): what keeps such a
file away from it is the digest, and that is what is fuzzed here.
"""

import gzip
import json
import sys
import tarfile
from dataclasses import replace
from functools import cache, partial
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedmrn.data import DATASETS, banking77, cifar, files, idx, pickles, shakespeare, voc
from fedmrn.data.banking77 import MOST_CHARACTERS, read_questions
from fedmrn.data.cifar import read_members
from fedmrn.data.files import read_files
from fedmrn.data.idx import parse_idx
from fedmrn.data.own import arrays, npz, pictures
from fedmrn.data.own.arrays import checked
from fedmrn.data.own.npz import read_npz
from fedmrn.data.own.pictures import collect_pictures
from fedmrn.data.pickles import read_batch
from fedmrn.data.shakespeare import read_shakespeare
from fedmrn.data.source import Arrays
from fedmrn.data.voc import SIZE, read_voc
from fedmrn.errors import DataError

from .base import Target, own_folder, require

sys.path.append(str(Path(__file__).parents[2]))
sys.path.append(str(Path(__file__).parents[2] / "unit" / "data"))

from data_samples import describe, mat, python2_pickle, tar_gz, zipped
from data_samples import idx as idx_file

from made_up import leaf_document, raw_document, write_leaf, write_raw, write_voc

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


def _arrays(found: Arrays, shape: tuple[int, ...], targets: tuple[int, ...]) -> None:
    for x, y in ((found.train_x, found.train_y), (found.test_x, found.test_y)):
        require(len(x) == len(y) > 0, "no samples, or another number of targets")
        require(x.shape[1:] == shape and y.shape[1:] == targets and x.dtype == np.uint8, "samples of another shape")


def _text(blob: bytes) -> None:
    path = write_raw(_folder(), {})
    path.write_bytes(zipped(blob))
    found = read_shakespeare(path.parent)
    _arrays(found, (80,), ())
    require(max(found.train_x.max(), found.train_y.max()) < 80, "a character out of range")


@cache
def _leaf_folder() -> Path:
    sound = leaf_document({"A": (["a" * 80], ["b"])})
    return write_leaf(own_folder(), [sound], [sound])


def _leaf(blob: bytes) -> None:
    (_leaf_folder() / "train" / "all_data_0_train_8.json").write_bytes(blob)
    found = read_shakespeare(_leaf_folder())
    _arrays(found, (80,), ())
    require(max(found.train_x.max(), found.train_y.max()) < 80, "a character out of range")


@cache
def _voc_file(name: str) -> tuple[Path, bytes]:
    """A folder of its own for each of its files that is fuzzed, and the sound file."""
    folder = write_voc(own_folder(), 1, 1)
    return folder, (folder / name).read_bytes()


def _voc(name: str, blob: bytes) -> None:
    folder, _ = _voc_file(name)
    (folder / name).write_bytes(blob)
    found = read_voc(folder)
    _arrays(found, (3, SIZE, SIZE), (SIZE, SIZE))


def _csv(blob: bytes) -> None:
    path = _folder() / "train.csv"
    path.write_bytes(blob)
    for text, category, line in read_questions(path):
        require(bool(text.strip() and category.strip()), "an empty field")
        require(max(len(text), len(category)) <= MOST_CHARACTERS, "a field that is too long")
        require(1 < line <= 1 + blob.count(b"\n") + blob.count(b"\r"), "a line that the file does not have")


def _npz(blob: bytes) -> None:
    path = _folder() / "arrays.npz"
    path.write_bytes(blob)
    found = checked(read_npz(path, share=0.5, seed=0), "fuzzed")
    require(found.train_x.dtype in (np.uint8, np.float32, np.int64), "samples of another type")
    require(len(found.train_x) == len(found.train_y) > 0 < len(found.test_y) == len(found.test_x), "other lengths")
    require(found.train_y.dtype == np.int64 and 0 == found.train_y.min() < found.train_y.max(), "labels out of range")


def _picture(blob: bytes) -> None:
    found = collect_pictures([(blob, "fuzzed")], 1, 4)
    require(found.dtype == np.uint8 and found.shape in ((1, 1, 4, 4), (1, 3, 4, 4)), "an image of another shape")


def _arrays_file() -> bytes:
    buffer = BytesIO()
    np.savez_compressed(buffer, x=_IMAGES.reshape(_COUNT, 3, 4), y=np.array([0, 1, 0, 1, 0]))
    return buffer.getvalue()


def _picture_file(kind: str) -> bytes:
    buffer = BytesIO()
    Image.fromarray(_IMAGES).save(buffer, kind)
    return buffer.getvalue()


_VOC = (
    "ImageSets/Segmentation/train.txt",
    "JPEGImages/2007_train000.jpg",
    "SegmentationClass/2007_train000.png",
)
_READERS = (
    _idx,
    lambda blob: _idx(zipped(blob)),
    _tar,
    lambda blob: _tar(zipped(blob)),
    _pickle,
    _digest,
    _text,
    _leaf,
    *(partial(_voc, name) for name in _VOC),
    _csv,
    _npz,
    _picture,
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
        b"\6" + json.dumps(raw_document({"A": "a" * 190, "B": "Exit."})).encode(),
        b"\7" + json.dumps(leaf_document({"A": (["a" * 80], ["b"]), "B": ([], [])})).encode(),
        *(bytes([8 + i]) + _voc_file(name)[1] for i, name in enumerate(_VOC)),
        bytes([8 + len(_VOC)]) + b'text,category\r\nWhere is it?,card\r\n"one, ""two""\nthree",cash\r\n',
        bytes([9 + len(_VOC)]) + _arrays_file(),
        *(bytes([10 + len(_VOC)]) + _picture_file(kind) for kind in ("PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP")),
    ]


# Most that inflates or unpickles is C, which allocates without being asked by Python: the process's limit holds there.
DATA = Target(
    "data",
    _check,
    _seeds,
    (idx, cifar, pickles, files, shakespeare, voc, banking77, npz, pictures, arrays, tarfile),
    memory=4 << 20,
    longest=12 << 10,
)
