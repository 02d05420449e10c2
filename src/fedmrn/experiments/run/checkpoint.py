"""Checkpoints: the server's state after a round, and what clients keep.

checkpoint.bin                what the server keeps (`fedmrn.server.saved`)
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
from fedmrn.federation.secrets import run_of, secret_of
from fedmrn.files import clear_scraps, make_folder, refuse_links
from fedmrn.server.saved import FILE, Saved, read_saved, write_saved
from fedmrn.server.scheme import Scheme
from fedmrn.wire.layout import Group, Layout

if TYPE_CHECKING:
    from fedmrn.federation.setting import Memory
    from fedmrn.federation.simulation import RoundResult

_NAME = re.compile(r"(\d+)-(\d+)\.bin")


def save_checkpoint(folder: Path, layout: Layout, method: int, seed: int, result: "RoundResult") -> None:
    """Write a round's checkpoint; the seed is the run's."""
    memory = folder / "memory"
    if result.memory:
        make_folder(memory)
    for client, vector in result.memory.items():
        write_vector(memory / f"{client}-{result.round}.bin", layout, method, result.round, client, vector)
    write_saved(
        folder,
        Saved(
            layout=layout,
            method=method,
            round=result.round,
            run=run_of(seed),
            secret=secret_of(seed),
            state=result.state,
            carried=result.carried,
            asked=(),
        ),
    )
    for path, client, round_ in _memory_files(folder):
        if client in result.memory and round_ < result.round:
            path.unlink()


def restore(
    folder: Path,
    recorded: int,
    layout: Layout,
    scheme: Scheme,
    taken_part: Callable[[int], Mapping[int, int]] = lambda _: {},
) -> tuple[Saved | None, "Memory"]:
    """Return what the server kept after the last whole round, None before round 1, and what clients keep.

    Args:
        folder: of the run.
        recorded: rounds in rounds.jsonl.
        layout: of the model.
        scheme: of the run.
        taken_part: for methods whose clients keep something: which clients must have kept it since which round, at the
            end of a round.

    Raises:
        RunError: a file is damaged, missing or does not fit, or rounds.jsonl lost rounds.
    """
    if not (folder / FILE).exists():
        return None, {}
    saved = read_saved(folder, layout, scheme)
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
    return saved, {c: _read_memory(path, c, round_, layout) for c, (round_, path) in newest.items()}


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
