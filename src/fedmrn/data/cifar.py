"""CIFAR-10 and CIFAR-100 in their "python version": pickled batches in a tar archive in gzip, or in its folder.

Nothing is written to disk. The archive is read once from front to back; only members whose exact names are
wanted are read, and both their sizes and the inflated size of the whole archive are bounded.

Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009, and the page of the data
    sets.
"""

import gzip
import io
import math
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedmrn.data.pickles import read_batch
from fedmrn.data.source import Arrays, Source
from fedmrn.errors import DataError

# A batch holds a file name and a label for each image, 34 bytes in the published files; the rest is slack.
_EXTRA_PER_IMAGE = 256
_EXTRA = 1 << 16


class _Bounded(gzip.GzipFile):
    """A gzip stream that refuses to inflate to more than `limit` bytes."""

    def __init__(self, blob: bytes, limit: int) -> None:
        super().__init__(fileobj=io.BytesIO(blob))
        self._left = limit

    def read(self, size: int | None = -1) -> bytes:
        room = self._left + 1
        data = super().read(room if size is None or size < 0 else min(size, room))
        self._left -= len(data)
        if self._left < 0:
            raise tarfile.ReadError("it inflates to more than such an archive holds")
        return data


def read_members(blob: bytes, names: Sequence[str], limit: int, where: str) -> dict[str, bytes]:
    """Return the named regular files of a tar.gz archive, none of them larger than `limit` bytes.

    Raises:
        DataError: if the archive is damaged or too large, or if a member is missing, repeated, too large, or
            not a regular file.
    """
    found: dict[str, bytes] = {}
    total = 2 * len(names) * limit + _EXTRA
    try:
        # "r|" reads forwards only, so that the bound counts each inflated byte once.
        inflated = _Bounded(blob, total)
        with tarfile.open(fileobj=inflated, mode="r|") as archive:
            for member in archive:
                if member.name not in names:
                    continue
                regular = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
                stream = archive.extractfile(member) if regular and member.size <= limit else None
                if stream is None or member.name in found:
                    raise tarfile.ReadError(f"its member {member.name} is repeated, too large or not a file")
                found[member.name] = stream.read(limit)
        while inflated.read(_EXTRA):  # gzip's checksum is behind the end of the archive
            pass
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise DataError(f"{where} is not a sound archive: {error}; delete it and get it anew") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{where} lacks {', '.join(missing)}; delete it and get it anew")
    return found


@dataclass(frozen=True, slots=True)
class CifarReader:
    """Reads one CIFAR archive, or its unpacked folder.

    Attributes:
        folder: the archive's only folder.
        train, test: the names of the batches in it.
        label_key: of their labels.
    """

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_key: bytes

    def __call__(self, source: Source, blobs: Sequence[bytes]) -> Arrays:
        """Return the arrays of `source`, whose only file is `blobs[0]`.

        Raises:
            DataError: if the archive or a batch is not what it should be.
        """
        (blob,), (file,) = blobs, source.files
        rows = self._rows(source)
        limit = max(rows.values()) * (math.prod(source.shape) + _EXTRA_PER_IMAGE) + _EXTRA
        names = {name: f"{self.folder}/{name}" for name in rows}
        members = read_members(blob, tuple(names.values()), limit, f"{source.name}: {file.name}")
        return self._arrays(source, {name: members.pop(member) for name, member in names.items()}, file.name)

    def unpacked(self, source: Source, blobs: Sequence[bytes]) -> Arrays:
        """Return the arrays of `source` from its batches: those for training, then those for testing.

        Raises:
            DataError: if a batch is not what it should be.
        """
        return self._arrays(source, dict(zip((*self.train, *self.test), blobs, strict=True)), self.folder)

    def _rows(self, source: Source) -> dict[str, int]:
        """Return how many images each batch holds."""
        parts = (self.train, source.train), (self.test, source.test)
        return {name: count // len(names) for names, count in parts for name in names}

    def _arrays(self, source: Source, blobs: dict[str, bytes], where: str) -> Arrays:
        pixels = math.prod(source.shape)
        batches = {
            name: read_batch(blobs.pop(name), (count, pixels), self.label_key, f"{source.name}: {where}: {name}")
            for name, count in self._rows(source).items()
        }
        train_x, test_x = (
            np.concatenate([batches[name][0] for name in names]).reshape(-1, *source.shape)
            for names in (self.train, self.test)
        )
        train_y, test_y = (np.concatenate([batches[name][1] for name in names]) for names in (self.train, self.test))
        return Arrays(train_x, train_y, test_x, test_y)
