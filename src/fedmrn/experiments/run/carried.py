"""The moments of the server's optimizer on disk: carried-ROUND.bin beside the checkpoint, a frame with a raw section.

A round's file is written before its checkpoint, and that of the round before is kept: whenever a run is stopped, the
file of the checkpoint's round is there. Its vector holds the moments, row by row.
"""

import re
from math import prod
from pathlib import Path

from fedmrn.errors import FrameError, RunError
from fedmrn.experiments.run.vectors import read_vector, write_vector
from fedmrn.server import Carried
from fedmrn.server.scheme import Scheme
from fedmrn.wire.layout import Layout

_NAME = re.compile(r"carried-(\d+)\.bin")
_SERVER = 0  # whose vector it is: no client's


def save_carried(folder: Path, layout: Layout, method: int, round: int, carried: Carried) -> None:
    """Write what the server keeps after a round; nothing where it keeps nothing."""
    vector = carried.moments.reshape(-1)
    if not vector.size:
        return
    write_vector(folder / f"carried-{round}.bin", layout, method, round, _SERVER, vector)
    for path in folder.glob("carried-*.bin"):
        found = _NAME.fullmatch(path.name)
        if found and int(found[1]) < round - 1:
            path.unlink()


def restore_carried(folder: Path, layout: Layout, round: int, scheme: Scheme) -> Carried:
    """Return what the server of this scheme kept after a round; before round 1, what it starts with.

    Raises:
        RunError: the file is missing, damaged or another's.
    """
    shape = (scheme.optimizer.slots, layout.trainable)
    size = prod(shape)
    path = folder / f"carried-{round}.bin"
    if not round or not size:
        if path.exists():
            raise RunError(
                f"{path} is of a setting whose server keeps something, or of an older version; "
                "delete checkpoint.bin to start from round 1"
            )
        return Carried.at_start(layout, scheme)
    try:
        vector = read_vector(path, layout, round, _SERVER, size)
    except (OSError, FrameError) as error:
        raise RunError(f"{path} cannot be used ({error}); delete checkpoint.bin to start from round 1") from error
    return Carried(vector.reshape(shape))
