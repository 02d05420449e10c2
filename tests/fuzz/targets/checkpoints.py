"""A run's folder: a checkpoint, or what a client keeps, that somebody has changed.

An input is a byte that says which of the two files it is, and the file.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fedmrn.errors import RunError
from fedmrn.experiments.run import checkpoint, vectors
from fedmrn.experiments.run.checkpoint import restore, save_checkpoint
from fedmrn.federation.simulation import RoundResult
from fedmrn.methods import METHODS
from fedmrn.server import Carried, saved
from fedmrn.server.caps import Caps
from fedmrn.server.optimizer import Momentum
from fedmrn.server.saved import read_saved, saved_round, write_saved
from fedmrn.wire import frame, messages
from fedmrn.wire.layout import Group

from .base import Target, ViolationError, own_folder, require
from .frames import LAYOUT, reseal

_ROUND, _CLIENT = 3, 7
_CODED = LAYOUT.span(Group.CODED).stop
_SCHEME = METHODS["topk-ef"].scheme(optimizer=Momentum(1.0, 0.9))
_CAPS = Caps.at_start(LAYOUT)


@cache
def _folder() -> Path:
    folder = own_folder()
    values = np.linspace(-1, 1, LAYOUT.size).astype(np.float32)
    nothing: dict[str, Any] = dict.fromkeys(("accuracy", "loss", "train_loss", "bits_per_parameter", "seconds"), 0.0)
    result = RoundResult(
        round=_ROUND,
        **nothing,
        exchanges=[],
        clients=[_CLIENT],
        state=values,
        sample=b"",
        memory={_CLIENT: values[:_CODED]},
        carried=Carried(
            values[None, : LAYOUT.trainable].copy(), replace(_CAPS, weight=4, values=(3,) * len(_CAPS.values))
        ),
    )
    save_checkpoint(folder, LAYOUT, METHODS["topk-ef"].id, 1, result)
    write_saved(folder, replace(read_saved(folder, LAYOUT, _SCHEME), asked=("ann", -7)))  # in the midst of a round
    return folder


@cache
def _good() -> tuple[bytes, bytes]:
    return tuple(path.read_bytes() for path in _paths())  # type: ignore[return-value]


def _paths() -> tuple[Path, Path]:
    return _folder() / "checkpoint.bin", _folder() / "memory" / f"{_CLIENT}-{_ROUND}.bin"


def _check(data: bytes) -> None:
    which, mutated = (data[0] & 1, data[1:]) if data else (0, b"")
    path, good = _paths()[which], _good()[which]
    path.write_bytes(mutated)
    try:
        saved_round(_folder())
        kept_by = {_CLIENT: _ROUND}
        found, memory = restore(_folder(), _ROUND, LAYOUT, _SCHEME, lambda r: kept_by if r >= _ROUND else {})
    except RunError:
        return
    finally:
        path.write_bytes(good)
    if found is None:
        raise ViolationError("a checkpoint that is there was not restored")
    require(bool(np.isfinite(found.state).all()), "a restored state is not finite")
    require(bool(np.isfinite(found.carried.moments).all()), "restored moments are not finite")
    require(0 <= found.round <= _ROUND, f"round {found.round} was restored of {_ROUND} that are recorded")
    require(len(found.run) == 16 <= len(found.secret), "a run's id or its secret has another length")
    require(found.round < _ROUND or set(memory) == {_CLIENT}, "what the client keeps was not restored")
    for kept in memory.values():
        require(kept.shape == (_CODED,) and bool(np.isfinite(kept).all()), "what a client keeps is not such a vector")


def _repair(data: bytes, how: int) -> bytes:
    return data[:1] + reseal(data[1:], how)


def _seeds() -> list[bytes]:
    return [bytes([which]) + file for which, file in enumerate(_good())]


CHECKPOINT = Target(
    "checkpoint", _check, _seeds, (frame, messages, checkpoint, saved, vectors), memory=1 << 20, repair=_repair
)
