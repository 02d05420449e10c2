"""The moments of the server's optimizer on disk: moments-ROUND.bin beside the checkpoint, a frame with a raw section.

A round's file is written before its checkpoint, and that of the round before is kept: whenever a run is stopped, the
file of the checkpoint's round is there.
"""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import EncodeKeys, Raw
from fedmrn.errors import FrameError, RunError
from fedmrn.files import write_atomic
from fedmrn.frame import Frame, Kind, Role, Section
from fedmrn.layout import Group, Layout

_NAME = re.compile(r"moments-(\d+)\.bin")


def save_moments(folder: Path, layout: Layout, method: int, round: int, moments: NDArray[np.float32]) -> None:
    """Write the moments after a round, float32, shape (slots, trained); nothing where there are none."""
    if not moments.size:
        return
    body = Raw().encode(moments.reshape(-1), EncodeKeys(0, 0))
    section = Section(Raw.id, Role.UPDATE, Group.CODED, moments.size, b"", body)
    frame = Frame(Kind.UPDATE, method, round, 0, layout.digest, 1, (section,))
    write_atomic(folder / f"moments-{round}.bin", frame.to_bytes())
    for path in folder.glob("moments-*.bin"):
        found = _NAME.fullmatch(path.name)
        if found and int(found[1]) < round - 1:
            path.unlink()


def restore_moments(folder: Path, layout: Layout, round: int, slots: int) -> NDArray[np.float32] | None:
    """Return the moments after a round, float32, shape (slots, trained); None before round 1 and where there are none.

    Raises:
        RunError: the file is missing, damaged or another's.
    """
    if not slots or not round:
        return None
    path, shape = folder / f"moments-{round}.bin", (slots, layout.trainable)
    try:
        frame = Frame.from_bytes(path.read_bytes(), kind=Kind.UPDATE)
        section = frame.select(Role.UPDATE, Group.CODED)
        if section is None or (frame.round, frame.layout_digest) != (round, layout.digest):
            raise RunError(f"{path} is of another round or model; delete checkpoint.bin to start this run from round 1")
        return Raw().decode(section.body, section.count, 0).reshape(shape)
    except (OSError, FrameError, ValueError) as error:
        raise RunError(
            f"{path} cannot be used ({error}); delete checkpoint.bin to start this run from round 1"
        ) from error
