"""Files in folders that may come from anybody: what is written is never half-written, and nothing goes through a link.

All of the library's files are read and written here. A reader never waits for a pipe, opens no device, and checks a
file's size before it reads. A writer makes its temporary file in the same folder, under a name that nobody can guess
and that must not exist; such a file that a killed process left behind ends in `.part` and is no result.
"""

import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fedmrn.errors import RunError, UsageError

_LOCK = ".lock"
_PATIENCE = 5.0  # seconds: a process that was killed a moment ago may not be gone yet
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
_SCRAP = re.compile(r"\..+\.[0-9a-f]{16}\.part")
# Of POSIX only; where they are missing, the checks before an open stand alone.
_NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT: int = getattr(os, "O_NONBLOCK", 0)


def write_atomic(path: Path, data: bytes, *, private: bool = False) -> None:
    """Replace a file's content as a whole or not at all; when this returns, it is on disk.

    Args:
        path: of the file.
        data: its new content.
        private: only its owner may read it.

    Raises:
        RunError: the path is a link.
        OSError: the file cannot be written; it is then as it was.
    """
    _refuse_link(path)
    with _named(path):
        while not _replaced(path, data, 0o600 if private else 0o666):
            pass
    _sync_folder(path.parent)


def _replaced(path: Path, data: bytes, mode: int) -> bool:
    """Write a file and rename it; False where `clear_scraps` of another process took it in the moment after."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with _open(temporary, "xb", permissions=mode) as file:
            with suppress(ModuleNotFoundError, OSError):
                _lock_now(file)  # says to others that it is being written
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            temporary.replace(path)
        except FileNotFoundError:
            if path.parent.is_dir():
                return False
            raise
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    return True


def append(path: Path, data: bytes) -> None:
    """Append bytes to a file; when this returns, they are on disk.

    Raises:
        RunError: the path is a link, or the file has another name too (a hard link).
        OSError: the file cannot be written; it may then end in a part of the data.
    """
    _refuse_link(path)
    with _named(path), _open(path, "ab") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise RunError(
                f"{path} is a hard link, or not a regular file: nothing is appended to it; put a copy in its place"
            )
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_file(
    path: Path, most: int, cure: str = "", *, error: type[UsageError] = RunError, links: bool = False
) -> bytes | None:
    """Return the bytes of a regular file, or None if there is nothing of this name.

    Args:
        path: of the file.
        most: bytes that it has at most.
        cure: what to do about a file that is refused, for the message; it starts with its own separator.
        error: raised for a file that is refused.
        links: whether the path may be a symbolic link: for files that a person names, not for those of a run folder.

    Raises:
        UsageError: of type `error`, naming the file: it is a link, no regular file, larger than `most`, unreadable, or
            changed while it was read.
    """
    try:
        with open_file(path, most, cure, error=error, links=links) as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(size + 1)
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise error(f"{path} cannot be read: {fault.strerror or fault}{cure}") from fault
    except MemoryError as fault:
        raise error(f"{path} has {size} bytes, more than there is memory for{cure}") from fault
    if len(data) != size:
        raise error(f"{path} changed while it was read; try again")
    return data


@contextmanager
def open_file(
    path: Path, most: int, cure: str = "", *, error: type[UsageError] = RunError, links: bool = False
) -> Iterator[BinaryIO]:
    """Open a regular file to be read; the same checks as `read_file`, before anything is read.

    Raises:
        FileNotFoundError: there is nothing of this name.
        UsageError: of type `error`, as `read_file`.
    """
    try:
        if not links:
            _refuse_link(path, cure, error)
        _check_regular(path, path.stat(), most, cure, error)  # first: to open a device may do something
        file = _open(path, "rb", 0 if links else _NO_FOLLOW)
    except FileNotFoundError:
        raise
    except OSError as fault:
        raise error(f"{path} cannot be read: {fault.strerror or fault}{cure}") from fault
    with file:
        _check_regular(path, os.fstat(file.fileno()), most, cure, error)  # it may be another by now
        yield file


def make_folder(folder: Path) -> None:
    """Make a folder inside one of ours, if it is not there; a link in its place is refused.

    Raises:
        RunError: the path is a link.
        OSError: it cannot be made.
    """
    _refuse_link(folder)
    folder.mkdir(exist_ok=True)


def refuse_links(root: Path, path: Path) -> None:
    """Refuse links among the folders that lead from one of a person's choice to one inside it.

    Args:
        root: chosen by a person; it may be a link.
        path: below `root`.

    Raises:
        RunError: naming the link.
    """
    for part in (*reversed(path.relative_to(root).parents), path.relative_to(root)):
        if part != Path():
            _refuse_link(root / part)


def clear_scraps(folder: Path) -> None:
    """Delete the temporary files in a folder that killed processes left; those that are being written stay.

    Without filelock, which an aggregation server need not have, nobody can tell these apart: all stay.
    """
    with suppress(OSError, ModuleNotFoundError):
        for path in filter(_is_scrap, folder.iterdir()):
            with suppress(OSError), _open(path, "r+b") as file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode) and _lock_now(file):  # nobody writes it any more
                    path.unlink()


def _is_scrap(path: Path) -> bool:
    return _SCRAP.fullmatch(path.name) is not None and not path.is_symlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock an existing folder for this process; the lock ends with the process, however that ends.

    Raises:
        RunError: another process holds it, or its lock is a link.
        OSError: the folder cannot be written.
    """
    path = folder / _LOCK
    _refuse_link(path)
    with _open(path, "ab") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise RunError(f"{path} is not a regular file, so it cannot be locked; delete it")
        deadline = time.monotonic() + _PATIENCE
        while not _lock_now(file):
            if time.monotonic() > deadline:
                raise RunError(f"{folder} is in use by another process; wait for it, or stop it")
            time.sleep(0.05)
        yield


def _lock_now(file: BinaryIO) -> bool:
    """Whether the lock of an open file is ours now; it ends when the file is closed."""
    from filelock import lock_descriptor  # noqa: PLC0415 - an aggregation server locks no folder

    try:
        return lock_descriptor(file.fileno(), blocking=False)
    except OSError as error:
        if error.errno in _NO_LOCKS:  # a file system without locks: better unguarded than not at all
            return True
        raise


def _open(path: Path, mode: str, flags: int = _NO_FOLLOW, permissions: int = 0o666) -> BinaryIO:
    """Open a file without waiting for whoever is at its other end, by default through no link."""

    def opener(name: str, chosen: int) -> int:
        return os.open(name, chosen | flags | _NO_WAIT, permissions)

    return open(path, mode, opener=opener)  # type: ignore[return-value]


def _refuse_link(path: Path, cure: str = "", error: type[UsageError] = RunError) -> None:
    junction: Callable[[Path], bool] = getattr(os.path, "isjunction", lambda _: False)  # Windows, from Python 3.12
    if path.is_symlink() or junction(path):
        raise error(f"{path} is a link, and may lead out of its folder{cure or '; put what it leads to in its place'}")


def _check_regular(path: Path, found: os.stat_result, most: int, cure: str, error: type[UsageError]) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise error(f"{path} is not a regular file{cure}")
    if found.st_size > most:
        raise error(f"{path} is larger than {most:,} bytes{cure}")


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
