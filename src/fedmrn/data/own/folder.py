"""A folder of pictures by class.

    train/CLASS/*.png    test/CLASS/*.png      or all in one: CLASS/*.png, of which a part is for testing

`test` may be called `val`, `valid` or `validation`. Classes are numbered in alphabetical order. Names that start with a
dot are passed over.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedmrn.data.files import read_limited
from fedmrn.data.own.pictures import FORMATS, MOST_OF_A_FILE, collect_pictures
from fedmrn.data.own.split import split
from fedmrn.data.source import Arrays
from fedmrn.errors import DataError
from fedmrn.text import printable

TEST = ("test", "val", "valid", "validation")
"""What a part for testing may be called; the first of these that is there."""
_MOST_CLASSES, _MOST_PICTURES = 10_000, 10_000_000


class Listed(NamedTuple):
    """The pictures of a part: files, and the class of each."""

    paths: list[Path]
    labels: NDArray[np.int64]


def read_folder(folder: Path, *, side: int, share: float, seed: int) -> tuple[Arrays, tuple[str, ...]]:
    """Return the images and labels of a folder, and the classes' names.

    Args:
        folder: as above.
        side: pixels that pictures are scaled to (`collect_pictures`); 0: they have one size.
        share, seed: of a folder in one piece, for testing (`split`).

    Raises:
        DataError: there are fewer than two classes, one is empty or of the test part alone, or a file is no picture.
    """
    if (folder / "train").is_dir():
        test = next((folder / name for name in TEST if (folder / name).is_dir()), None)
        if test is None:
            raise DataError(f"{folder} has a folder train and none for testing: add test, with the same classes")
        names = _classes(folder / "train")
        strange = sorted(set(_classes(test, 1)) - set(names))
        if strange:
            raise DataError(f"{test / strange[0]} is a class that {folder / 'train'} has not: move it, or add pictures")
        train_part = _listed(folder / "train", names)
        test_part = _listed(test, [name for name in names if (test / name).is_dir()], names)
    else:
        names = _classes(folder)
        whole = _listed(folder, names)
        train_part, test_part = (
            Listed([whole.paths[i] for i in part], whole.labels[part])
            for part in split(whole.labels, share, seed, str(folder))
        )
    every = [*train_part.paths, *test_part.paths]
    images = collect_pictures(_read(every), len(every), side)
    cut = len(train_part.paths)
    return Arrays(images[:cut], train_part.labels, images[cut:], test_part.labels), tuple(names)


def _read(paths: list[Path]) -> Iterator[tuple[bytes, str]]:
    for path in paths:
        yield read_limited(path, MOST_OF_A_FILE, "replace or delete it"), str(path)


def _classes(folder: Path, least: int = 2) -> list[str]:
    """Return the names of the classes of a part, in alphabetical order."""
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    names = [path.name for path in entries if path.is_dir()]
    if not least <= len(names) <= _MOST_CLASSES:
        found = (
            "no folder" if not names else f"the folder {names[0]} only" if len(names) == 1 else f"{len(names)} folders"
        )
        raise DataError(
            f"{folder} has {found}: it must have one for each class, {least} to {_MOST_CLASSES:,}, with its pictures"
        )
    loose = [path.name for path in entries if path.suffix.lower() in FORMATS]
    if loose:
        raise DataError(f"{folder / loose[0]} lies beside the folders of the classes: move it into one")
    return names


def _listed(folder: Path, names: list[str], every: list[str] | None = None) -> Listed:
    """Return the pictures of these classes; numbers are places in `every`."""
    paths: list[Path] = []
    labels: list[int] = []
    for name in names:
        found = sorted(path for path in (folder / name).iterdir() if not path.name.startswith("."))
        for path in found:
            if path.is_dir() or path.suffix.lower() not in FORMATS:
                raise DataError(
                    f"{printable(str(path), 500)} is not a picture ({', '.join(FORMATS)}): move it out of the class's "
                    "folder"
                )
        if not found:
            raise DataError(f"{folder / name} is a class without a picture: add some, or delete the folder")
        paths += found
        labels += [(every or names).index(name)] * len(found)
        if len(paths) > _MOST_PICTURES:
            raise DataError(f"{folder} has more than {_MOST_PICTURES:,} pictures: use fewer")
    return Listed(paths, np.array(labels, np.int64))
