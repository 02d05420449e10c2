"""Descriptions of data sets as frozen records: where they come from, what they hold, and how they are read.

A `Source` or a `FolderSource` is one row of the catalogue. Its `read` turns files into `Arrays`; a new data set is a
row, and a new file format is one module with one such function.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Task = Literal["images", "text", "sentences", "segmentation", "samples"]
"""What a model predicts: the class of an image, the next character of a text, a sentence's class, each pixel's; or the
class of samples of any other shape."""
SCORES: Mapping[Task, str] = MappingProxyType(
    {
        "images": "accuracy",
        "text": "next-character accuracy",
        "sentences": "accuracy",
        "segmentation": "mean IoU",
        "samples": "accuracy",
    }
)
"""What evaluation reports for each task, in words; its number is in [0, 1]."""


class Arrays(NamedTuple):
    """The samples and targets of a data set, as its files hold them.

    Images are uint8 (0 to 255) or float32 (0 to 1), shape (n, channels, height, width); characters are uint8 codes and
    tokens int32 ids, shape (n, length).
    Targets are int64, shape (n,), or uint8 for each pixel, shape (n, height, width).
    `roles` holds the indices of the training samples of each user that the files name, if they name any.
    """

    train_x: NDArray[Any]
    train_y: NDArray[Any]
    test_x: NDArray[Any]
    test_y: NDArray[Any]
    roles: tuple[NDArray[np.int64], ...] = ()


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as its authors publish it: its name, where it is, its MD5 in hexadecimal, its size in bytes."""

    name: str
    url: str
    md5: str
    size: int


@dataclass(frozen=True, slots=True)
class Extracted:
    """The files of an unpacked archive, and what reads them where the archive is gone.

    Attributes:
        folder: the folder's name in the archive.
        files: name and published MD5 (in hexadecimal) of each file that is read, in the reader's order.
        most: bytes of one of them, at most.
        read: as that of a `Source`, given the bytes of these files.
    """

    folder: str
    files: tuple[tuple[str, str], ...]
    most: int
    read: "Reader"


@dataclass(frozen=True, slots=True)
class Source:
    """A data set of published files: where it comes from, what it must hold, and how its images are normalised.

    `shape` is (channels, height, width); `train` and `test` count images. Means and standard deviations are
    in units of the full pixel range (0 to 1), one value for each channel or one for all. `read` gets this
    record and the bytes of `files` in their order. `places` are folders of a data folder in which other libraries
    leave the files, and `extracted` is what may lie there in place of them.
    """

    name: str
    description: str
    licence: str
    homepage: str
    files: tuple[RemoteFile, ...]
    shape: tuple[int, int, int]
    train: int
    test: int
    classes: int
    mean_train: tuple[float, ...]
    std_train: tuple[float, ...]
    mean_test: tuple[float, ...]
    std_test: tuple[float, ...]
    augment: bool
    read: "Reader"
    places: tuple[str, ...] = ()
    extracted: Extracted | None = None
    task: ClassVar[Task] = "images"

    @property
    def download_bytes(self) -> int:
        """The size of all files together; 0 if the data set needs no download."""
        return sum(file.size for file in self.files)


Reader = Callable[[Source, Sequence[bytes]], Arrays]


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A data set that a person provides: its files are not of fixed bytes, so its reader checks everything.

    `expects` says what must lie in the data folder, `find` returns where in a data folder it does, and `read` reads it.
    `shape` is that of a sample. Without a mean, samples are not normalised.
    """

    name: str
    task: Task
    description: str
    licence: str
    homepage: str
    expects: str
    shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    find: Callable[[Path], Path | None]
    read: Callable[[Path], Arrays]
