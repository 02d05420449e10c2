"""Find the files of a data set, download absent ones, and check each one's size and MD5.

A file is looked for in `data_dir/<name of the data set>/`, then in the folders of `data_dir` where other libraries
leave it (`Source.places`), then in `data_dir` itself.
"""

import errno
import os
from contextlib import suppress
from hashlib import md5
from pathlib import Path

from fedmrn.data.source import Extracted, RemoteFile, Source
from fedmrn.errors import DataError
from fedmrn.files import read_file

_TIMEOUT_SECONDS = 30


def read_files(source: Source, data_dir: Path, *, download: bool) -> tuple[bytes, ...]:
    """Return the bytes of every file of a source, in its order, each with its published size and MD5.

    An absent one is downloaded from its source to `data_dir/<name>/`, with a progress bar, if `download` is true.

    Raises:
        DataError: if a file is absent and not downloaded, or damaged, or unreadable.
    """
    folder = data_dir / source.name
    missing = [file for file in source.files if _find(source, file.name, data_dir) is None]
    if missing and not download:
        raise DataError(f"{source.name}: not in {folder}: {_wanted(missing, folder)}, or allow downloads")
    for i, file in enumerate(missing):
        try:
            _fetch(file, folder)
        except (OSError, ValueError) as error:  # the network's errors are all of the first kind
            what = " ".join(str(error).split())
            raise DataError(f"{source.name}: download failed: {_wanted(missing[i:], folder)} ({what})") from error
    return tuple(_read(source, file, data_dir) for file in source.files)


def is_here(source: Source, data_dir: Path) -> bool:
    """Whether the files of a source, or of its unpacked archive, are in a data folder."""
    whole = all(_find(source, file.name, data_dir) is not None for file in source.files)
    return whole or find_extracted(source, data_dir) is not None


def find_extracted(source: Source, data_dir: Path) -> Path | None:
    """Return the folder of the unpacked archive, or None if there is none, or if the archive itself is here.

    The folder may lie where the archive may, or be the data folder itself.
    """
    if source.extracted is None or any(_find(source, file.name, data_dir) is not None for file in source.files):
        return None
    name, files = source.extracted.folder, source.extracted.files
    folders = [place / name for place in _places(source, data_dir)] + [data_dir / source.name]
    if data_dir.absolute().name == name:
        folders.append(data_dir)
    return next((folder for folder in folders if any((folder / file).is_file() for file, _ in files)), None)


def read_extracted(source: Source, extracted: Extracted, folder: Path) -> tuple[bytes, ...]:
    """Return the bytes of every file of an unpacked archive, in its order, each with its published MD5.

    Raises:
        DataError: if a file is absent, damaged or unreadable.
    """
    cure = f"; delete {folder}, and unpack {source.files[0].name} anew"
    missing = [name for name, _ in extracted.files if not (folder / name).exists()]
    if missing:
        raise DataError(f"{source.name}: {folder} lacks {', '.join(missing)}{cure}")
    return tuple(_checked(source, folder / name, md5_, extracted.most, cure) for name, md5_ in extracted.files)


def read_limited(path: Path, most: int, cure: str = "unpack the archive anew") -> bytes:
    """Return the bytes of a file whose size is not published, up to a limit; `cure` ends what is said of a fault.

    Raises:
        DataError: it has more than `most` bytes, or cannot be read.
    """
    blob = read_file(path, most, f"; {cure}", error=DataError, links=True)
    if blob is None:
        raise DataError(f"{path} cannot be read: {os.strerror(errno.ENOENT)}; {cure}")
    return blob


def _places(source: Source, data_dir: Path) -> list[Path]:
    return [data_dir / source.name, *(data_dir / place for place in source.places), data_dir]


def _find(source: Source, name: str, data_dir: Path) -> Path | None:
    candidates = (place / name for place in _places(source, data_dir))
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


def _read(source: Source, file: RemoteFile, data_dir: Path) -> bytes:
    folder = data_dir / source.name
    path = _find(source, file.name, data_dir) or folder / file.name
    cure = "; delete it or download it anew"
    if path.parent != folder:  # mnist and fashion-mnist use the same file names
        cure = f"; delete it, or, if it is another data set's, put the right one into {folder}"
    # A wrong size is refused before reading.
    with suppress(OSError):
        if (size := path.stat().st_size) != file.size:
            raise _damaged(source, path, f"expected {file.size} bytes, found {size}", cure)
    return _checked(source, path, file.md5, file.size, cure)


def _checked(source: Source, path: Path, expected: str, most: int, cure: str) -> bytes:
    """Return the bytes of a file: those that were checked are those that are parsed."""
    try:
        blob = read_file(path, most, "; check its permissions", error=DataError, links=True) or b""
    except DataError as error:
        raise DataError(f"{source.name}: {error}") from error
    found = md5(blob, usedforsecurity=False).hexdigest()  # against damage; it is the digest that authors publish
    if found != expected:
        raise _damaged(source, path, f"expected MD5 {expected}, found {found}", cure)
    return blob


def _damaged(source: Source, path: Path, what: str, cure: str) -> DataError:
    return DataError(f"{source.name}: {path} is damaged: {what}{cure}")
