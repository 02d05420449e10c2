"""A data set in memory, ready for training, and `load`, which gets one by name."""

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmrn.data.catalogue import find_source
from fedmrn.data.files import find_extracted, read_extracted, read_files
from fedmrn.data.roles import subset
from fedmrn.data.source import Arrays, FolderSource, Source, Task
from fedmrn.errors import DataError

_UINT8_RANGE = 255


@dataclass(frozen=True, eq=False, slots=True)
class Dataset:
    """Samples and targets on the CPU, as the files hold them, and the constants that normalise images.

    Samples and targets are as in `Arrays`. Means and standard deviations are in units of the full pixel range, one for
    each channel or one for all, or none: then samples are used as they are. `augment` says whether the published
    experiments crop and flip the training images, `class_names` what labels are called, where that is known, and
    `published` whether the files are those that its authors publish, checked as such.
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
    task: Task = "images"
    roles: tuple[NDArray[np.int64], ...] = ()
    class_names: tuple[str, ...] = ()
    published: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        return tuple(self.train_x.shape[1:])

    def digest(self) -> str:
        """Return the SHA-256, in hexadecimal, of all samples, targets and roles, with their types and shapes."""
        whole = sha256()
        arrays = (self.train_x, self.train_y, self.test_x, self.test_y)
        for array in (*(tensor.numpy() for tensor in arrays), *self.roles):
            whole.update(f"{array.dtype.str} {array.shape}\n".encode())
            whole.update(np.ascontiguousarray(array).data)
        return whole.hexdigest()

    def normalised_train(self) -> Tensor:
        """Return all training images, float32: (pixel - mean_train) / std_train; a new tensor each call."""
        return _normalise(self.train_x, self.mean_train, self.std_train)

    def normalised_test(self) -> Tensor:
        """Return all test images, float32: (pixel - mean_test) / std_test; a new tensor each call."""
        return _normalise(self.test_x, self.mean_test, self.std_test)

    def labels(self) -> NDArray[np.int64]:
        """Return a label for each training sample, which partitions go by: int64, shape (n,).

        It is the target; of a segmented image, the class of most of its pixels but background (0), or 0.
        """
        if self.task != "segmentation":
            return self.train_y.numpy()
        counts = [torch.bincount(image.flatten().long(), minlength=256)[1 : self.classes] for image in self.train_y]
        return np.array([int(c.argmax()) + 1 if c.any() else 0 for c in counts], np.int64)

    def with_tests(self, most: int) -> "Dataset":
        """Return this data set with at most `most` test samples (0: all), the same ones in every run."""
        kept = torch.from_numpy(subset(np.arange(len(self.test_y)), most, 0, "test"))
        return (
            self if len(kept) == len(self.test_y) else replace(self, test_x=self.test_x[kept], test_y=self.test_y[kept])
        )

    def black(self) -> Tensor:
        """Return what a black pixel of a training image becomes: float32, shape (channels or 1, 1, 1).

        The published experiments pad images before they normalise them; a crop of normalised images must be
        padded with this value to give the same.
        """
        return _normalise(torch.zeros(1, len(self.mean_train), 1, 1), self.mean_train, self.std_train)[0]


def _normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    if not mean:
        return images
    scaled = images.to(torch.float32, copy=True)
    if images.dtype == torch.uint8:
        scaled /= _UINT8_RANGE
    shift, scale = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (mean, std))
    return scaled.sub_(shift).div_(scale)


def load(name: str, data_dir: Path, *, download: bool = True) -> Dataset:
    """Load a data set by its name in `DATASETS`.

    Args:
        name: such as "digits" or "fashion-mnist".
        data_dir: where files lie or go: `data_dir/<name>/`, or `data_dir` itself for files that lie there
            already.
        download: whether absent files may be downloaded from their official source.

    Raises:
        ConfigError: if no data set has this name.
        DataError: if a file is missing and cannot be downloaded, is damaged, or holds something else.
    """
    return load_source(find_source(name), data_dir, download=download)


def load_source(source: Source | FolderSource, data_dir: Path, *, download: bool = True) -> Dataset:
    """Load a data set that is not in the catalogue, described by a `Source` or a `FolderSource`.

    Raises:
        DataError: as `load`.
    """
    if isinstance(source, FolderSource):
        arrays, constants, augment = _read_folder(source, Path(data_dir)), 2 * (source.mean, source.std), False
    else:
        arrays = _read_published(source, Path(data_dir), download=download)
        _check(source, arrays)
        constants = (source.mean_train, source.std_train, source.mean_test, source.std_test)
        augment = source.augment
    train_x, train_y, test_x, test_y = map(torch.from_numpy, arrays[:4])
    return Dataset(
        source.name,
        train_x,
        train_y,
        test_x,
        test_y,
        source.classes,
        *constants,
        augment=augment,
        task=source.task,
        roles=arrays.roles,
        published=isinstance(source, Source),
    )


def _read_published(source: Source, data_dir: Path, *, download: bool) -> Arrays:
    folder = find_extracted(source, data_dir)
    if folder is None or source.extracted is None:
        return source.read(source, read_files(source, data_dir, download=download))
    return source.extracted.read(source, read_extracted(source, source.extracted, folder))


def _read_folder(source: FolderSource, data_dir: Path) -> Arrays:
    found = source.find(data_dir)
    if found is None:
        raise DataError(f"{source.name}: put {source.expects} into {data_dir / source.name}; see docs/data.md")
    return source.read(found)


def _check(source: Source, arrays: Arrays) -> None:
    """Raise DataError unless a reader's arrays have the shapes, types and labels that the catalogue names."""
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
