"""What a client keeps from round to round, in runs that may be taken up again: files of its node.

Flower keeps a client's context for one run of its own only; a run that is taken up is another. A file is of the round
that made it, so that a round which is done again starts from what was kept before it.
"""

import re
from contextlib import suppress
from logging import WARNING, getLogger
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, Message
from numpy.typing import NDArray

from fedmrn.codecs import EncodeKeys, Raw
from fedmrn.errors import FrameError, RunError, WrongLayoutError
from fedmrn.files import read_file
from fedmrn.flower.kept import folder, put_away
from fedmrn.flower.records import RUN, records_of
from fedmrn.wire.frame import OWN_LIMITS, Frame, Kind, Role, Section
from fedmrn.wire.layout import Group

log = getLogger("flwr").log
_TAG_SIZE = 8


class Remembered:
    """The files of a node in a run.

    Args:
        node: its number.
        tag: 8 bytes that name the run.
    """

    def __init__(self, node: int, tag: bytes) -> None:
        self._node, self._start = node, f"{tag.hex()}-{node}-"
        self._name = re.compile(rf"{self._start}(\d+)\.memory")

    @classmethod
    def told_by(cls, message: Message) -> "Remembered | None":
        """Return those of the node and the run of a message; None where it is not of a run that is kept."""
        for record in records_of(message.content, ConfigRecord).values():
            tag = record.get(RUN)
            if isinstance(tag, bytes) and len(tag) == _TAG_SIZE:
                return cls(message.metadata.dst_node_id, tag)
        return None

    def before(self, broadcast: Frame) -> NDArray[np.float32] | None:
        """Return what was kept in the last round before the broadcast's; None where nothing was, or it is damaged."""
        found = self._files()
        earlier = [number for number in found if number < broadcast.round]
        if not earlier:
            return None
        path = found[max(earlier)]
        try:
            return _read(path, broadcast, max(earlier), self._node)
        except (RunError, FrameError) as error:
            log(WARNING, "fedmrn: what this node keeps from its last round is lost: %s: %s", path, error)
            return None

    def keep(self, update: Frame, memory: NDArray[np.float32]) -> None:
        """Keep what a round left, float32, shape (coded parameters,), and what was before it: older files go."""
        found = self._files()
        base = max((number for number in found if number < update.round), default=0)
        section = Section(Raw.id, Role.UPDATE, Group.CODED, memory.size, b"", Raw().encode(memory, EncodeKeys(0, 0)))
        frame = Frame(Kind.UPDATE, update.method, update.round, self._node, update.layout_digest, 1, (section,))
        put_away(folder() / f"{self._start}{update.round}.memory", frame.to_bytes())
        for number, path in found.items():
            if number not in (base, update.round):
                with suppress(OSError):
                    path.unlink()

    def _files(self) -> dict[int, Path]:
        try:
            names = ((path, self._name.fullmatch(path.name)) for path in folder().iterdir())
            return {int(match[1]): path for path, match in names if match}
        except OSError:
            return {}


def _read(path: Path, broadcast: Frame, round: int, node: int) -> NDArray[np.float32]:
    data = read_file(path, OWN_LIMITS.max_bytes) or b""
    frame = Frame.from_bytes(data, kind=Kind.UPDATE, limits=OWN_LIMITS)
    section = frame.select(Role.UPDATE, Group.CODED)
    of = (frame.layout_digest, frame.method, frame.round, frame.noise_key)
    if section is None or section.codec != Raw.id or of != (broadcast.layout_digest, broadcast.method, round, node):
        raise WrongLayoutError("it is another node's, or of another round, method or model")
    return Raw().decode(section.body, section.count, 0)
