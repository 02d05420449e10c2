"""Find the files of a data set, download absent ones, and check each one's size and MD5."""

import errno
import os
from contextlib import suppress
from hashlib import md5
from pathlib import Path

from fedmrn.data.source import RemoteFile, Source
from fedmrn.errors import DataError
from fedmrn.files import read_file

_TIMEOUT_SECONDS = 30


def read_files(source: Source, data_dir: Path, *, download: bool) -> tuple[bytes, ...]:
    """Return the bytes of every file of a source, in its order, each with its published size and MD5.

    A file is looked for in `data_dir/<name of the data set>/`, then in `data_dir` itself. An absent one is
    downloaded from its source to the former, with a progress bar, if `download` is true.

    Raises:
        DataError: if a file is absent and not downloaded, or damaged, or unreadable.
    """
    folder = data_dir / source.name
    missing = [file for file in source.files if _find(file, folder) is None]
    if missing and not download:
        raise DataError(f"{source.name}: not in {folder}: {_wanted(missing, folder)}, or allow downloads")
    for i, file in enumerate(missing):
        try:
            _fetch(file, folder)
        except (OSError, ValueError) as error:  # the network's errors are all of the first kind
            what = " ".join(str(error).split())
            raise DataError(f"{source.name}: download failed: {_wanted(missing[i:], folder)} ({what})") from error
    return tuple(_read(source, file, folder) for file in source.files)


def read_limited(path: Path, most: int) -> bytes:
    """Return the bytes of a file whose size is not published, up to a limit.

    Raises:
        DataError: it has more than `most` bytes, or cannot be read.
    """
    blob = read_file(path, most, "; unpack the archive anew", error=DataError, links=True)
    if blob is None:
        raise DataError(f"{path} cannot be read: {os.strerror(errno.ENOENT)}; unpack the archive anew")
    return blob


def _find(file: RemoteFile, folder: Path) -> Path | None:
    candidates = (folder / file.name, folder.parent / file.name)
    return next((path for path in candidates if path.exists()), None)


def _wanted(missing: list[RemoteFile], folder: Path) -> str:
    where = ", ".join(f"{file.name} (from {file.url})" for file in missing)
    return f"put {where} into {folder}"


def _fetch(file: RemoteFile, folder: Path) -> None:
    import pooch  # noqa: PLC0415 - needed by downloads only

    folder.mkdir(parents=True, exist_ok=True)  # of data: a link is a person's own
    pooch.get_logger().setLevel("WARNING")  # the progress bar says the rest
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=_TIMEOUT_SECONDS)
    # pooch downloads to a temporary name, checks the MD5, and only then renames.
    pooch.retrieve(file.url, f"md5:{file.md5}", fname=file.name, path=folder, downloader=downloader)


def _read(source: Source, file: RemoteFile, folder: Path) -> bytes:
    path = _find(file, folder) or folder / file.name
    # The bytes that are checked are the bytes that are parsed; a wrong size is refused before reading them.
    with suppress(OSError):
        if (size := path.stat().st_size) != file.size:
            raise _damaged(source, path, f"expected {file.size} bytes, found {size}", folder)
    try:
        blob = read_file(path, file.size, "; check its permissions", error=DataError, links=True) or b""
    except DataError as error:
        raise DataError(f"{source.name}: {error}") from error
    if (size := len(blob)) != file.size:
        raise _damaged(source, path, f"expected {file.size} bytes, found {size}", folder)
    found = md5(blob, usedforsecurity=False).hexdigest()  # against damage; it is the digest that authors publish
    if found != file.md5:
        raise _damaged(source, path, f"expected MD5 {file.md5}, found {found}", folder)
    return blob


def _damaged(source: Source, path: Path, what: str, folder: Path) -> DataError:
    cure = "delete it or download it anew"
    if path.parent != folder:  # mnist and fashion-mnist use the same file names
        cure = f"delete it, or, if it is another data set's, put the right one into {folder}"
    return DataError(f"{source.name}: {path} is damaged: {what}; {cure}")
