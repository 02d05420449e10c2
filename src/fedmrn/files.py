"""Files that are never half-written."""

import os
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file at once or not at all, whatever happens meanwhile.

    Raises:
        OSError: the folder cannot be written; the file is then as it was.
    """
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
