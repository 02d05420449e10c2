"""What the server keeps beside its state, on disk: carried-ROUND.bin beside the checkpoint, a frame with a raw section.

A round's file is written before its checkpoint, and that of the round before is kept: whenever a run is stopped, the
file of the checkpoint's round is there. Its vector holds the moments, row by row, then scale and peak of the noise.
"""

import re
from pathlib import Path

import numpy as np

from fedmrn.auto_scale import Level
from fedmrn.codecs import EncodeKeys, Raw
from fedmrn.errors import FrameError, RunError
from fedmrn.files import write_atomic
from fedmrn.frame import Frame, Kind, Role, Section
from fedmrn.layout import Group, Layout
from fedmrn.scheme import Scheme
from fedmrn.server import Carried

_NAME = re.compile(r"carried-(\d+)\.bin")


def save_carried(folder: Path, layout: Layout, method: int, round: int, carried: Carried) -> None:
    """Write what the server keeps after a round; nothing where it keeps nothing."""
    vector = carried.moments.reshape(-1)
    if carried.level is not None:
        vector = np.append(vector, np.array([carried.level.scale, carried.level.peak], np.float32))
    if not vector.size:
        return
    section = Section(Raw.id, Role.UPDATE, Group.CODED, vector.size, b"", Raw().encode(vector, EncodeKeys(0, 0)))
    frame = Frame(Kind.UPDATE, method, round, 0, layout.digest, 1, (section,))
    write_atomic(folder / f"carried-{round}.bin", frame.to_bytes())
    for path in folder.glob("carried-*.bin"):
        found = _NAME.fullmatch(path.name)
        if found and int(found[1]) < round - 1:
            path.unlink()


def restore_carried(folder: Path, layout: Layout, round: int, scheme: Scheme) -> Carried:
    """Return what the server of this scheme kept after a round; before round 1, what a run starts with.

    Raises:
        RunError: the file is missing, damaged or another's.
    """
    start = Carried.at_start(layout, scheme)
    size, more = start.moments.size, 0 if start.level is None else 2
    if not round or not size + more:
        return start
    path = folder / f"carried-{round}.bin"
    try:
        frame = Frame.from_bytes(path.read_bytes(), kind=Kind.UPDATE)
        section = frame.select(Role.UPDATE, Group.CODED)
        if section is None or section.count != size + more or frame.layout_digest != layout.digest:
            raise RunError(f"{path} is for another model or setting; delete checkpoint.bin to start from round 1")
        if frame.round != round:
            raise RunError(f"{path} is of round {frame.round}; delete checkpoint.bin to start from round 1")
        vector = Raw().decode(section.body, section.count, 0)
    except (OSError, FrameError) as error:
        raise RunError(f"{path} cannot be used ({error}); delete checkpoint.bin to start from round 1") from error
    level = Level(*vector[size:].tolist()) if more else None
    return Carried(vector[:size].reshape(start.moments.shape), level)
