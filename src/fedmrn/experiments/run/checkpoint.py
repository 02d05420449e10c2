"""Checkpoints: the server's state after a round, and what clients keep.

checkpoint.bin                the state as a broadcast frame: checksum, layout digest and bounds checks come with it
memory/CLIENT-ROUND.bin       what a client keeps since that round, as a frame with one raw section

The files of a round's clients are written before its checkpoint, and older ones of the same clients are deleted after
it: whenever a run is stopped, the files up to the checkpoint's round are all there, and later ones are not read. What
is left over then is deleted when the run goes on.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import FrameError, RunError
from fedmrn.experiments.run.vectors import read_vector, write_vector
from fedmrn.files import clear_scraps, make_folder, read_file, refuse_links, write_atomic
from fedmrn.wire.frame import DEFAULT_LIMITS, Frame, Kind
from fedmrn.wire.layout import Group, Layout
from fedmrn.wire.messages import read_state, state_sections

if TYPE_CHECKING:
    from fedmrn.federation.simulation import Memory, RoundResult

_NAME = re.compile(r"(\d+)-(\d+)\.bin")


def save_checkpoint(folder: Path, layout: Layout, method: int, result: "RoundResult") -> None:
    """Write a round's checkpoint."""
    memory = folder / "memory"
    if result.memory:
        make_folder(memory)
    for client, vector in result.memory.items():
        write_vector(memory / f"{client}-{result.round}.bin", layout, method, result.round, client, vector)
    state = state_sections(layout, result.state)
    frame = Frame(Kind.BROADCAST, method, result.round, 0, layout.digest, 0, state)
    write_atomic(folder / "checkpoint.bin", frame.to_bytes())
    for path, client, round_ in _memory_files(folder):
        if client in result.memory and round_ < result.round:
            path.unlink()


def saved_round(folder: Path) -> int:
    """Return the round of a folder's checkpoint, 0 if there is none.

    Raises:
        RunError: the checkpoint is damaged.
    """
    frame = _frame(folder / "checkpoint.bin")
    return 0 if frame is None else frame.round


def restore(
    folder: Path, recorded: int, layout: Layout, taken_part: Callable[[int], Mapping[int, int]] = lambda _: {}
) -> tuple[int, NDArray[np.float32] | None, "Memory"]:
    """Return (the last whole round, the server's state after it, what clients keep); state None before round 1.

    Args:
        folder: of the run.
        recorded: rounds in rounds.jsonl.
        layout: of the model.
        taken_part: for methods whose clients keep something: which clients must have kept it since which round, at the
            end of a round.

    Raises:
        RunError: a file is damaged, missing or does not fit, or rounds.jsonl lost rounds.
    """
    saved = _frame(folder / "checkpoint.bin")
    if saved is None:
        return 0, None, {}
    try:
        state = read_state(saved, layout)
    except FrameError as error:
        raise RunError(f"{folder / 'checkpoint.bin'} does not fit: {error}; delete it to start anew") from error
    if recorded < saved.round:
        raise RunError(
            f"{folder / 'rounds.jsonl'} lost rounds before {saved.round}; delete checkpoint.bin beside it to start anew"
        )
    newest = _newest(folder, saved.round)
    for client, round_ in taken_part(saved.round).items():
        if newest.get(client, (0, folder))[0] != round_:
            raise RunError(
                f"{folder / 'memory'} lost what client {client} keeps since round {round_}; delete checkpoint.bin to "
                "start this run from round 1"
            )
    return saved.round, state, {c: _read_memory(path, c, round_, layout) for c, (round_, path) in newest.items()}


def tidy(folder: Path, saved: int) -> None:
    """Delete what a stop, or an earlier run, left in `memory/` beside what clients keep at the end of round `saved`."""
    current = {path for _, path in _newest(folder, saved).values()}
    for path, _, _ in _memory_files(folder):
        if path not in current:
            path.unlink(missing_ok=True)
    for path in (folder / "memory").glob("*.bin.part"):  # as earlier versions named them
        path.unlink(missing_ok=True)
    clear_scraps(folder / "memory")


def _newest(folder: Path, saved: int) -> dict[int, tuple[int, Path]]:
    """Return (round, file) of what each client keeps at the end of round `saved`."""
    newest: dict[int, tuple[int, Path]] = {}
    for path, client, round_ in _memory_files(folder):
        if round_ <= saved:
            newest[client] = max(newest.get(client, (0, path)), (round_, path))
    return newest


def _memory_files(folder: Path) -> list[tuple[Path, int, int]]:
    refuse_links(folder, folder / "memory")  # files in it are deleted, and it may lead anywhere
    names = ((path, _NAME.fullmatch(path.name)) for path in (folder / "memory").glob("*.bin"))
    return [(path, int(found[1]), int(found[2])) for path, found in names if found]


def _read_memory(path: Path, client: int, round_: int, layout: Layout) -> NDArray[np.float32]:
    try:
        return read_vector(path, layout, round_, client, layout.span(Group.CODED).stop)
    except (OSError, FrameError) as error:
        raise RunError(f"{path} does not fit: {error}; delete checkpoint.bin to start this run from round 1") from error


def _frame(path: Path) -> Frame | None:
    data = read_file(path, DEFAULT_LIMITS.max_bytes, "; delete it to start this run from round 1")
    try:
        return None if data is None else Frame.from_bytes(data, kind=Kind.BROADCAST)
    except FrameError as error:
        raise RunError(f"{path} is damaged ({error}); delete checkpoint.bin to start this run from round 1") from error
