"""Answers of the round that is open, on disk: a server that is killed has them when it starts again.

A client is told that its answer is taken once it is here. A file holds the length of the metrics, the metrics as they
came, and the frame.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fedmrn.files import clear_scraps, make_folder, read_file, write_atomic

_NAME = re.compile(r"(\d{1,10}-[a-z]{1,20})-(\d{1,19})\.bin")
_HEAD = struct.Struct("<I")
FOLDER = "answers"


class Kept(NamedTuple):
    """An answer that was taken: whose, its frame, and its metrics as they came."""

    client: int
    data: bytes
    metrics: str


class Spool:
    """The answers that were taken for tasks that are open.

    Args:
        folder: of the server; the answers lie in a folder inside it.
        most: bytes of an answer.

    Raises:
        RunError: the folder inside is a link.
        OSError: it cannot be made.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder / FOLDER, most
        make_folder(self._folder)
        clear_scraps(self._folder)

    def keep(self, task: str, client: int, data: bytes, metrics: str) -> None:
        """Put an answer on disk.

        Raises:
            OSError: it cannot be written.
        """
        head = metrics.encode()
        path = self._folder / f"{task}-{client}.bin"
        write_atomic(path, _HEAD.pack(len(head)) + head + data, private=True)

    def kept(self, task: str) -> Iterator[Kept]:
        """Yield the answers to a task, in the order of clients; what is cut or of another name is left out.

        Raises:
            RunError: a file is longer than an answer can be.
        """
        found = [match for path in self._folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        for match in sorted((m for m in found if m[1] == task), key=lambda m: int(m[2])):
            data = read_file(self._folder / match[0], self._most) or b""
            if len(data) >= _HEAD.size and len(data) >= (at := _HEAD.size + _HEAD.unpack_from(data)[0]):
                yield Kept(int(match[2]), data[at:], data[_HEAD.size : at].decode("utf-8", errors="replace"))

    def clear(self) -> None:
        """Forget all answers."""
        for path in self._folder.iterdir():
            if _NAME.fullmatch(path.name):
                path.unlink(missing_ok=True)
