"""A reader of vectors/: it walks the index and reads frames by `oracle` alone."""

import json
import struct
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import oracle

FOLDER = Path(__file__).parents[2] / "vectors"
INDEX: dict[str, Any] = json.loads((FOLDER / "index.json").read_text("utf-8"))
GROUPS = ["coded", "dense", "stats", "variance"]
ROLES = ["update", "state", "template", "terms"]
KINDS = {"update": 1, "broadcast": 2, "model": 3, "statistics": 5}
OF_SECURE_SUMS = {"LateAnswerError", "RefusedRevealError", "UntrustedKeyError", "WrongShareError"}
"""Errors of a protocol around frames: docs/secure-aggregation.md has them."""
Tensors = list[tuple[str, tuple[int, ...], int]]


def data_of(path: str) -> bytes:
    return (FOLDER / path).read_bytes()


def layout_of(name: str) -> Tensors:
    """(name, shape, group) of each tensor."""
    rows = json.loads(data_of(INDEX["layouts"][name]["file"]))
    return [(row["name"], tuple(row["shape"]), GROUPS.index(row["group"])) for row in rows]


def check_values(values: list[float], said: dict[str, Any]) -> None:
    """Values are those that the index says: all of them by their digest, the stored ones bit by bit."""
    data, stored = struct.pack(f"<{len(values)}f", *values), data_of(said["file"])
    assert len(values) == said["elements"]
    assert data[: len(stored)] == stored
    assert sha256(data).hexdigest() == said["sha256"]


def floats_of(said: dict[str, Any]) -> list[float]:
    """The numbers of a file, none of which is left out."""
    data = data_of(said["file"])
    assert len(data) == 4 * said["elements"]
    return list(struct.unpack(f"<{said['elements']}f", data))


class Client:
    """What a client knows and keeps while it walks a case."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.tensors = layout_of(case["layout"])
        self.start = floats_of(case["start"]) if "start" in case else []
        self.state: dict[int, list[float]] = {}
        self.kept: dict[int, dict[int, tuple[list[int], list[int]]]] = {}
        """Public models by number: of each group, steps and numbers."""

    def sizes(self, group: int) -> list[int]:
        return [prod(shape) for _, shape, of in self.tensors if of == group and prod(shape)]

    def read(self, data: bytes) -> dict[str, Any]:
        """A frame's fields; a broadcast's state and public model are kept."""
        known = {group: self._known(group, data) for group in range(4)}
        frame = oracle.read_frame(data, self.state, known)
        if frame["kind"] == KINDS["broadcast"]:
            states = [s for s in frame["sections"] if s["role"] == 1]
            self.state = {s["group"]: s["values"] for s in states}
            public = {s["group"]: (s["steps"], s["numbers"]) for s in states if s["codec"] == 15}
            if public:
                self.kept[next(s["number"] for s in states)] = public
        return frame

    def _known(self, group: int, data: bytes) -> dict[str, Any]:
        """What a reader of codec 15 knows of a group; the base is that of the frame's first such section."""
        known: dict[str, Any] = {"sizes": self.sizes(group)}
        before = sum(sum(self.sizes(g)) for g in range(group))
        known["start"] = self.start[before : before + sum(known["sizes"])]
        base = _base(data)
        if base in self.kept and group in self.kept[base]:
            known["base_steps"], known["base_numbers"] = self.kept[base][group]
        return known


def _base(data: bytes) -> int | None:
    """The public model that a frame's numbers are differences to, by the headers of its sections alone."""
    at = oracle.HEADER_SIZE
    while at < len(data) - oracle.CHECKSUM_SIZE:
        codec, role, _, n_params, _, n_body = struct.unpack_from(oracle.SECTION, data, at)
        if (codec, role) == (15, 1):
            flags, _, base = struct.unpack_from("<BII", data, at + oracle.SECTION_SIZE)
            return base if flags & 1 else None
        at += oracle.SECTION_SIZE + n_params + n_body
    return None
