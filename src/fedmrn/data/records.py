"""What is known about a data set before it is read: frozen records, no images.

A `Source` is one row of the catalogue. Its `read` turns the verified bytes of its files into `Arrays`; a new
data set is a row, and a new file format is one module with one such function.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Arrays(NamedTuple):
    """A data set as its files hold it.

    Images are uint8 (0 to 255) or float32 (0 to 1), shape (n, channels, height, width); labels are int64,
    shape (n,).
    """

    train_x: NDArray[Any]
    train_y: NDArray[np.int64]
    test_x: NDArray[Any]
    test_y: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as its authors publish it: its name, where it is, its MD5 in hexadecimal, its size in bytes."""

    name: str
    url: str
    md5: str
    size: int


@dataclass(frozen=True, slots=True)
class Source:
    """A data set: where it comes from, what it must hold, and how its images are normalised.

    `shape` is (channels, height, width); `train` and `test` count images. Means and standard deviations are
    in units of the full pixel range (0 to 1), one value for each channel or one for all. `read` gets this
    record and the bytes of `files` in their order.
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

    @property
    def download_bytes(self) -> int:
        """The size of all files together; 0 if the data set needs no download."""
        return sum(file.size for file in self.files)


Reader = Callable[[Source, Sequence[bytes]], Arrays]
