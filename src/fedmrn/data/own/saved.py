"""A data set that Hugging Face's `datasets` saved to disk: pictures, and a class for each.

`DatasetDict.save_to_disk(path)` with parts `train` and `test` (or `validation`); or one `Dataset.save_to_disk(path)`,
of which a part is for testing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmrn.data.files import read_limited
from fedmrn.data.own.folder import TEST
from fedmrn.data.own.module import told
from fedmrn.data.own.pictures import MOST_OF_A_FILE, collect_pictures
from fedmrn.data.own.split import split
from fedmrn.data.source import Arrays
from fedmrn.errors import ConfigError, DataError
from fedmrn.text import printable

_LABELS = ("label", "labels", "target", "fine_label", "class")
_OTHERWISE = 'keep the two by select_columns, or write a function that returns arrays: data.source = "module:function"'


def is_saved(folder: Path) -> bool:
    """Whether a folder is one that `save_to_disk` wrote."""
    one = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return one or (folder / "dataset_dict.json").is_file()


def read_hugging_face(folder: Path, *, side: int, share: float, seed: int) -> tuple[Arrays, tuple[str, ...]]:
    """Return images and labels of such a folder, and the classes' names, if it has any; as `read_folder`.

    Raises:
        ConfigError: `datasets` is not installed.
        DataError: it cannot be read, lacks a part, or has no or several columns of pictures or classes.
    """
    try:
        import datasets  # noqa: PLC0415 - an extra, and a second to import
    except ModuleNotFoundError as error:
        raise ConfigError(f'{folder} was saved by Hugging Face datasets: pip install "fedmrn[datasets]"') from error
    except Exception as error:
        raise ConfigError(f"{folder}: datasets cannot be imported: {told(error, None)}") from error
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # a damaged one can fail in any way at all
        raise DataError(f"{folder} cannot be read by datasets: {printable(str(error), 300)}; save it anew") from error
    parts = _parts(loaded, folder) if isinstance(loaded, dict) else [loaded]
    picture, label, names = _columns(parts[0].features, datasets, folder)
    found: list[NDArray[Any]] = []
    for part in parts:
        if picture not in part.features or label not in part.features:
            raise DataError(f"{folder}: a part lacks the column {picture} or {label}; save all parts alike")
        plain = part.select_columns([picture, label]).cast_column(picture, datasets.Image(decode=False))
        if not len(plain):
            raise DataError(f"{folder} has a part without a row; save it anew")
        rows = ((_blob(row[picture], folder, i), f"{folder}, row {i}") for i, row in enumerate(_rows(plain)))
        found += [collect_pictures(rows, len(plain), side), np.array(plain[label][:])]
    if len(parts) == 2:
        train_x, train_y, test_x, test_y = found
        if train_x.shape[1] != test_x.shape[1]:
            raise DataError(f"{folder}: one part is grey and the other is not; save all parts alike")
        return Arrays(train_x, train_y, test_x, test_y), names
    x, y = found
    if not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{folder}: the column {label} has rows without a class; drop them")
    train, test = split(y.astype(np.int64), share, seed, str(folder))
    return Arrays(x[train], y[train], x[test], y[test]), names


def _parts(loaded: Any, folder: Path) -> list[Any]:
    test = next((name for name in TEST if name in loaded), None)
    if "train" not in loaded or test is None:
        raise DataError(f"{folder} has the parts {', '.join(loaded)}: give train and test")
    return [loaded["train"], loaded[test]]


def _columns(features: Any, datasets: Any, folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Return the column of the pictures, that of the classes, and the classes' names."""
    pictures = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    classes = classes or [name for name in _LABELS if name in features][:1]
    if len(pictures) != 1 or len(classes) != 1:
        raise DataError(
            f"{folder} has the columns {', '.join(features)}, of which {len(pictures)} hold pictures and "
            f"{len(classes)} classes: {_OTHERWISE}"
        )
    kind = features[classes[0]]
    return pictures[0], classes[0], tuple(kind.names) if isinstance(kind, datasets.ClassLabel) else ()


def _rows(part: Any) -> Iterator[Any]:
    yield from part


def _blob(picture: Any, folder: Path, row: int) -> bytes:
    """Return the bytes of a picture; it may lie in a file of its own."""
    if picture and isinstance(picture.get("bytes"), bytes):
        return bytes(picture["bytes"])
    if picture and picture.get("path"):
        return read_limited(Path(picture["path"]), MOST_OF_A_FILE, f"save {folder} anew, or drop row {row}")
    raise DataError(f"{folder}, row {row} has no picture; drop it")
