"""One float32 vector in a file: a frame with one raw section, for its checksum, layout digest and bounds checks."""

from errno import ENOENT
from os import strerror
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import EncodeKeys, Raw
from fedmrn.errors import WrongKeyError, WrongLayoutError
from fedmrn.files import read_file, write_atomic
from fedmrn.wire.frame import OWN_LIMITS, Frame, Kind, Role, Section
from fedmrn.wire.layout import Group, Layout


def write_vector(path: Path, layout: Layout, method: int, round: int, owner: int, vector: NDArray[np.float32]) -> None:
    """Write a vector of shape (n,) after a round; `owner` is the client that keeps it, 0 where it is the server."""
    section = Section(Raw.id, Role.UPDATE, Group.CODED, vector.size, b"", Raw().encode(vector, EncodeKeys(0, 0)))
    write_atomic(path, Frame(Kind.UPDATE, method, round, owner, layout.digest, 1, (section,)).to_bytes())


def read_vector(path: Path, layout: Layout, round: int, owner: int, size: int) -> NDArray[np.float32]:
    """Return the vector of a file, float32, shape (size,).

    Raises:
        OSError: there is no such file.
        RunError: it is a link, no regular file, or too large.
        FrameError: it is damaged, another's, of another round, or for another model or setting.
    """
    data = read_file(path, OWN_LIMITS.max_bytes, "; delete checkpoint.bin to start this run from round 1")
    if data is None:
        raise FileNotFoundError(ENOENT, strerror(ENOENT), str(path))
    frame = Frame.from_bytes(data, kind=Kind.UPDATE, limits=OWN_LIMITS)
    section = frame.select(Role.UPDATE, Group.CODED)
    if section is None or frame.layout_digest != layout.digest:
        raise WrongLayoutError("it is for a model with other tensors")
    if (frame.noise_key, frame.round) != (owner, round):
        raise WrongKeyError(f"it is another's, or of another round, than its name says: of round {frame.round}")
    if section.count != size:
        raise WrongLayoutError(f"it has {section.count} values, for this model and setting it must have {size}")
    return Raw().decode(section.body, section.count, 0)
