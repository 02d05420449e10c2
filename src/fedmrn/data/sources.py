"""A data set in memory, ready for training, and `load`, which gets one by name."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedmrn.data.catalogue import DATASETS
from fedmrn.data.files import read_files
from fedmrn.data.records import Arrays, Source
from fedmrn.errors import ConfigError, DataError
from fedmrn.text import nearest

_UINT8_RANGE = 255


@dataclass(frozen=True, eq=False, slots=True)
class Dataset:
    """Images and labels on the CPU, as the files hold them, and the constants that normalise them.

    Images are uint8 (0 to 255) or float32 (0 to 1), shape (n, channels, height, width); labels are int64 in
    [0, classes), shape (n,). Means and standard deviations are in units of the full pixel range, one for each
    channel or one for all. `augment` says whether the published experiments crop and flip the training
    images.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
    mean_train: tuple[float, ...]
    std_train: tuple[float, ...]
    mean_test: tuple[float, ...]
    std_test: tuple[float, ...]
    augment: bool

    def normalised_train(self) -> Tensor:
        """Return all training images, float32: (pixel - mean_train) / std_train; a new tensor each call."""
        return _normalise(self.train_x, self.mean_train, self.std_train)

    def normalised_test(self) -> Tensor:
        """Return all test images, float32: (pixel - mean_test) / std_test; a new tensor each call."""
        return _normalise(self.test_x, self.mean_test, self.std_test)

    def black(self) -> Tensor:
        """Return what a black pixel of a training image becomes: float32, shape (channels or 1, 1, 1).

        The published experiments pad images before they normalise them; a crop of normalised images must be
        padded with this value to give the same.
        """
        return _normalise(torch.zeros(1, len(self.mean_train), 1, 1), self.mean_train, self.std_train)[0]


def _normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    scaled = images.to(torch.float32, copy=True)
    if images.dtype == torch.uint8:
        scaled /= _UINT8_RANGE
    shift, scale = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (mean, std))
    return scaled.sub_(shift).div_(scale)


def load(name: str, data_dir: Path, *, download: bool = True) -> Dataset:
    """Load a data set by its name in `DATASETS`.

    Args:
        name: "digits", "fashion-mnist", "mnist", "cifar10", "cifar100" or "svhn".
        data_dir: where files lie or go: `data_dir/<name>/`, or `data_dir` itself for files that lie there
            already.
        download: whether absent files may be downloaded from their official source.

    Raises:
        ConfigError: if no data set has this name.
        DataError: if a file is missing and cannot be downloaded, is damaged, or holds something else.
    """
    return load_source(find_source(name), data_dir, download=download)


def find_source(name: str) -> Source:
    """Return the row of the catalogue of this name.

    Raises:
        ConfigError: if no data set has this name.
    """
    if name not in DATASETS:
        raise ConfigError(f"data set {name!r} does not exist{nearest(name, DATASETS)}")
    return DATASETS[name]


def load_source(source: Source, data_dir: Path, *, download: bool = True) -> Dataset:
    """Load a data set of one's own, described by a `Source`.

    Raises:
        DataError: as `load`.
    """
    arrays = source.read(source, read_files(source, Path(data_dir), download=download))
    _check(source, arrays)
    return Dataset(
        name=source.name,
        train_x=torch.from_numpy(arrays.train_x),
        train_y=torch.from_numpy(arrays.train_y),
        test_x=torch.from_numpy(arrays.test_x),
        test_y=torch.from_numpy(arrays.test_y),
        classes=source.classes,
        mean_train=source.mean_train,
        std_train=source.std_train,
        mean_test=source.mean_test,
        std_test=source.std_test,
        augment=source.augment,
    )


def _check(source: Source, arrays: Arrays) -> None:
    """Hold every reader to the catalogue: shapes, types and labels."""
    for part, images, labels, count in (
        ("train", arrays.train_x, arrays.train_y, source.train),
        ("test", arrays.test_x, arrays.test_y, source.test),
    ):
        if images.shape != (count, *source.shape) or images.dtype not in (np.uint8, np.float32):
            raise DataError(
                f"{source.name}: the {part} images are {images.dtype} of shape {images.shape}, "
                f"expected {(count, *source.shape)}; get the files anew from {source.homepage}"
            )
        if labels.shape != (count,) or not ((labels >= 0) & (labels < source.classes)).all():
            raise DataError(
                f"{source.name}: the {part} labels are not {count} numbers from 0 to {source.classes - 1}; "
                f"get the files anew from {source.homepage}"
            )
