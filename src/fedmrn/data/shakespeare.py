"""Read Shakespeare by speaking role: samples of 80 characters, whose target is the character that follows.

Two forms are read. LEAF's own: folders train/ and test/ of JSON files, in which `user_data[role]` holds the texts `x`
of 80 characters each and the characters `y` that follow them. And one file with each role's whole text `raw`, from
which x = raw[i:i+80] and y = raw[i+80]: of a role's samples the first 80% are for training; the test samples begin 80
later, so that they share no character with them.

Source: LEAF (Caldas et al., 2018), its data/shakespeare and models/utils.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedmrn.data.files import read_limited
from fedmrn.data.source import Arrays
from fedmrn.errors import DataError

CHARACTERS = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
"""LEAF's 80 characters, in the order of their codes; any other takes the last code, as in LEAF."""
LENGTH = 80
FILE = "shakespeare_by_role.json.gz"

_TRAIN = 0.8
_MOST_BYTES = 1 << 30
_MOST_TEXT = 1 << 25
_MOST_SAMPLES = 1 << 24  # of a file of texts, or of a folder of LEAF: each becomes LENGTH bytes
_CODES = np.full(128, len(CHARACTERS) - 1, np.uint8)
_CODES[[ord(c) for c in CHARACTERS]] = np.arange(len(CHARACTERS))


class _Samples(NamedTuple):
    x: NDArray[np.uint8]
    y: NDArray[np.uint8]


def find_shakespeare(data_dir: Path) -> Path | None:
    """Return the folder that holds LEAF's two folders, or the file of texts; None if there is neither."""
    folder = data_dir / "shakespeare"
    return folder if _is_leaf(folder) or (folder / FILE).is_file() else None


def read_shakespeare(folder: Path) -> Arrays:
    """Return the texts of both forms as codes, uint8, shape (n, 80), the codes that follow, and each role's samples.

    Raises:
        DataError: a file is not what it should be; names the file and the key.
    """
    if _is_leaf(folder):
        train, test = (list(_leaf(folder / part)) for part in ("train", "test"))
    else:
        texts = [_windows(codes) for codes in _texts(folder / FILE)]
        ends = [int(_TRAIN * len(x)) for x, _ in texts]
        train = [_Samples(x[:end], y[:end]) for (x, y), end in zip(texts, ends, strict=True)]
        test = [_Samples(x[end + LENGTH :], y[end + LENGTH :]) for (x, y), end in zip(texts, ends, strict=True)]
    for part, samples in (("train", train), ("test", test)):
        if not any(len(s.x) for s in samples):
            raise DataError(f"{folder} holds no {part} sample: every text is too short; put other files there")
    bounds = np.cumsum([0, *(len(s.x) for s in train)])
    roles = tuple(np.arange(a, b, dtype=np.int64) for a, b in pairwise(bounds))
    return Arrays(*_joined(train), *_joined(test), roles)


def encode(text: str) -> NDArray[np.uint8]:
    """Return the codes of a text's characters, 0 to 79, shape (len(text),)."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    codes: NDArray[np.uint8] = _CODES[np.minimum(points, len(_CODES) - 1)]
    return codes


def _is_leaf(folder: Path) -> bool:
    return (folder / "train").is_dir() and (folder / "test").is_dir()


def _windows(codes: NDArray[np.uint8]) -> _Samples:
    """Return views of a text: every window of LENGTH characters that has a next one."""
    if len(codes) <= LENGTH:
        return _Samples(np.empty((0, LENGTH), np.uint8), np.empty(0, np.uint8))
    return _Samples(np.lib.stride_tricks.sliding_window_view(codes, LENGTH)[:-1], codes[LENGTH:])


def _joined(samples: list[_Samples]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return np.concatenate([s.x for s in samples]), np.concatenate([s.y for s in samples]).astype(np.int64)


def _texts(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield each role's text as codes."""
    total = 0
    for count, value, where in _users(_inflated(path), path):
        text = value.get("raw")
        if not isinstance(text, str):
            raise _wrong(path, f"{where}.raw", "is not a text")
        if count != max(0, len(text) - LENGTH):
            raise _wrong(path, where, f"has {len(text)} characters, so num_samples must be {LENGTH} less, not {count}")
        total = _counted(path, total, count)
        yield encode(text)


def _leaf(folder: Path) -> Iterator[_Samples]:
    """Yield each role's samples from a folder of LEAF's files."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise DataError(f"{folder} holds no .json file; put LEAF's there")
    seen: set[str] = set()
    total = 0
    for path in paths:
        for count, value, where in _users(read_limited(path, _MOST_BYTES), path):
            if where in seen:
                raise _wrong(path, where, f"is in another file of {folder} too")
            seen.add(where)
            x, y = (
                _strings(path, f"{where}.{name}", value.get(name), count, length)
                for name, length in (("x", LENGTH), ("y", 1))
            )
            total = _counted(path, total, count)
            yield _Samples(encode(x).reshape(count, LENGTH), encode(y))


def _counted(path: Path, total: int, count: int) -> int:
    """Return the samples read so far, `total`, plus the `count` of a user; raise DataError above the limit."""
    if total + count > _MOST_SAMPLES:
        raise DataError(f"{path} brings more than {_MOST_SAMPLES} samples; put the right file there")
    return total + count


def _strings(path: Path, where: str, texts: object, count: int, length: int) -> str:
    """Return a list of texts, each of this length, as one."""
    if not isinstance(texts, list) or len(texts) != count:
        raise _wrong(path, where, f"is not a list of {count}, as num_samples says")
    for i, text in enumerate(texts):
        if not isinstance(text, str) or len(text) != length:
            raise _wrong(path, f"{where}[{i}]", f"is not a text of length {length}")
    return "".join(texts)


def _users(blob: bytes, path: Path) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Yield each user's number of samples, its data, and its key for messages."""
    try:
        document = json.loads(blob)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not sound JSON ({error}); get it anew") from error
    if not isinstance(document, dict):
        raise _wrong(path, "the whole", "is not an object")
    users, counts, data = (document.get(key) for key in ("users", "num_samples", "user_data"))
    if not isinstance(users, list) or not all(isinstance(u, str) for u in users) or len(set(users)) < len(users):
        raise _wrong(path, "users", "is not a list of names, each once")
    if not isinstance(counts, list) or len(counts) != len(users) or not all(type(c) is int for c in counts):
        raise _wrong(path, "num_samples", f"is not a list of {len(users)} whole numbers, one a user")
    if not isinstance(data, dict) or data.keys() != set(users):
        raise _wrong(path, "user_data", "has not the keys that users lists")
    for user, count in zip(users, counts, strict=True):
        where = f"user_data[{user!r}]"
        if not isinstance(data[user], dict):
            raise _wrong(path, where, "is not an object")
        yield count, data[user], where


def _inflated(path: Path) -> bytes:
    packed = read_limited(path, _MOST_BYTES)
    try:
        with gzip.open(BytesIO(packed)) as file:
            blob = b""
            while len(blob) <= _MOST_TEXT and (piece := file.read(1 << 20)):
                blob += piece
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not sound gzip ({error}); get it anew") from error
    if len(blob) > _MOST_TEXT:
        raise DataError(f"{path} inflates to more than {_MOST_TEXT} bytes; put the right file there")
    return blob


def _wrong(path: Path, key: str, what: str) -> DataError:
    return DataError(f"{path}: {key} {what}; get the file anew")
