"""Files that are never half-written, and folders that one process uses at a time."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedmrn.errors import RunError

_LOCK = ".lock"
_PATIENCE = 5.0  # seconds: a process that was killed a moment ago may not be gone yet
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


def write_atomic(path: Path, data: bytes, *, private: bool = False) -> None:
    """Replace a file's content as a whole or not at all; when this returns, it is on disk.

    Args:
        path: of the file.
        data: its new content.
        private: only its owner may read it.

    Raises:
        OSError: the file cannot be written; it is then as it was.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        with _named(path):
            mode = 0o600 if private else 0o666
            with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def append(path: Path, data: bytes) -> None:
    """Append bytes to a file; when this returns, they are on disk.

    Raises:
        OSError: the file cannot be written; it may then end in a part of the data.
    """
    with _named(path), path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock an existing folder for this process; the lock ends with the process, however that ends.

    Raises:
        RunError: another process holds it.
        OSError: the folder cannot be written.
    """
    with (folder / _LOCK).open("ab") as file:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RunError(f"{folder} is in use by another process; wait for it, or stop it") from None
                time.sleep(0.05)
            except OSError as error:
                if error.errno in _NO_LOCKS:  # a file system without locks: better unguarded than not at all
                    break
                raise
        yield


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the file's name into an OSError: that of a full disk has none."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _sync_folder(folder: Path) -> None:
    """Sync a folder, so that a new name in it survives a power failure, on file systems that can promise it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
