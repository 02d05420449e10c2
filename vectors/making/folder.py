"""The files of the vectors: frames, values and layouts, each written once, and the index that names them."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmrn.wire.layout import Group, Layout

Record = dict[str, Any]
LONGEST, STORED = 4096, 512
"""Longer vectors have so many of their numbers written; the digest is of all."""


class Folder:
    """Collects files in memory, and writes them at once.

    Attributes:
        files: path within the folder -> bytes.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self._values: dict[bytes, str] = {}

    def add(self, path: str, data: bytes) -> str:
        """Keep a file, and return its path.

        Raises:
            ValueError: another file has this path.
        """
        if self.files.setdefault(path, data) != data:
            raise ValueError(f"{path} is written twice, with other bytes")
        return path

    def values(self, path: str, values: NDArray[np.float32]) -> Record:
        """Keep a vector, and return what the index says of it; equal vectors share a file."""
        data = np.ascontiguousarray(values, "<f4").tobytes()
        stored = data if values.size <= LONGEST else data[: 4 * STORED]
        file = self._values.setdefault(stored, path)
        return {"elements": values.size, "file": self.add(file, stored), "sha256": sha256(data).hexdigest()}

    def layout(self, name: str, layout: Layout) -> Record:
        """Keep a layout, and return what the index says of it."""
        return {
            "file": self.add(f"layouts/{name}.json", layout.to_json().encode()),
            "digest": layout.digest.hex(),
            "elements": {group.name.lower(): sum(layout.sizes(group)) for group in Group},
            "size": layout.size,
        }

    def write(self, out: Path) -> None:
        """Write all files into a folder, which may have others."""
        for path, data in self.files.items():
            target = out / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


def to_json(value: Any, depth: int = 0) -> str:
    """Return JSON that a person can read: what holds no array and no object is one line."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not any(isinstance(part, list | dict) for part in parts):
        return json.dumps(value, ensure_ascii=False)
    pad, end = "  " * (depth + 1), "  " * depth
    if isinstance(value, list):
        rows = [to_json(each, depth + 1) for each in value]
        return "[\n" + ",\n".join(pad + row for row in rows) + f"\n{end}]"
    rows = [f"{json.dumps(key)}: {to_json(each, depth + 1)}" for key, each in value.items()]
    return "{\n" + ",\n".join(pad + row for row in rows) + f"\n{end}}}"
