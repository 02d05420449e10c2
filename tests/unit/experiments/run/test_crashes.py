"""A run that is killed, or whose disk is full, at any moment goes on to the files of an undisturbed run.

What is on the disk before each operation that changes it is what a kill at that moment leaves: one watched run gives
all moments, and each is gone on from.
"""

import errno
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_disk import Disk, Files, files, place, small_run

from fedmrn.errors import RunError
from fedmrn.files import append, locked, write_atomic
from fedmrn.wire.frame import Frame


def timeless(found: Files) -> Files:
    """Everything but the clock."""
    return found | {"rounds.jsonl": re.sub(rb'"seconds": [0-9.e-]+', b"", found["rounds.jsonl"])}


def lines(found: Files) -> int:
    return found.get("rounds.jsonl", b"").count(b"\n")


def saved(found: Files) -> int:
    return Frame.from_bytes(found["checkpoint.bin"]).round if "checkpoint.bin" in found else 0


class Killed(BaseException):
    """As good as SIGKILL: nothing that follows reaches the disk."""


def moments(run: Callable[[Path], None], folder: Path, disk: Disk) -> list[Files]:
    """What is in a folder before each operation of a run, each state once."""
    seen: list[Files] = []

    def note(_: str) -> None:
        now = files(folder)
        if now not in seen[-1:]:
            seen.append(now)

    disk.before = note
    run(folder)
    disk.before = lambda _: None
    return seen


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, disk, folder = small_run(monkeypatch), Disk(tmp_path, monkeypatch), tmp_path / "run"
    states = moments(run, folder, disk)
    whole = files(folder)
    assert {Path(name).name for name in whole} <= disk.written  # no file is written in another way
    assert len(states) > 60
    torn = [s for s in states if not s.get("rounds.jsonl", b"\n").endswith(b"\n")]
    assert torn
    assert any(lines(s) == saved(s) + 1 > 1 for s in states)  # a round on record whose checkpoint is not there
    assert any(name.endswith(".part") for s in states for name in s)
    for place_, state in enumerate(states):
        again = tmp_path / f"again{place_}"
        place(state, again)
        run(again)
        assert timeless(files(again)) == timeless(whole), f"killed at moment {place_} with {sorted(state)}"
        shutil.rmtree(again)


@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Also while going on, at random moments, until it comes through."""
    run, disk, generator = small_run(monkeypatch), Disk(tmp_path, monkeypatch), random.Random(seed)  # noqa: S311
    run(tmp_path / "whole")
    kills, left = 0, generator.randint(0, 30)

    def tick(_: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    disk.before = tick
    while True:
        try:
            run(tmp_path / "run")
            break
        except Killed:
            # More and more of them: as many as a start takes would never let it come to a round.
            kills, left = kills + 1, generator.randint(0, 60 + 20 * kills)
    assert kills > 2
    assert timeless(files(tmp_path / "run")) == timeless(files(tmp_path / "whole"))


@pytest.mark.slow
def test_a_disk_that_is_full_from_any_moment_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names the file, no scraps, and the rounds before are kept; with room again the run goes on."""
    run, disk = small_run(monkeypatch), Disk(tmp_path, monkeypatch)
    states = moments(run, tmp_path / "whole", disk)
    whole = files(tmp_path / "whole")
    start = next(s for s in states if saved(s) == 1)
    left, failures = 0, 0

    def tick(operation: str) -> None:
        nonlocal left
        left -= 1
        if left < 0 and operation != "unlink":
            named = operation in ("open", "mkdir", "replace")  # as from the system: a write does not say where
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *([str(folder)] if named else []))

    for moment in range(0, 1000, 2):
        folder = tmp_path / f"full{moment}"
        place(start, folder)
        disk.before, left = tick, moment
        try:
            run(folder)
        except (RunError, OSError) as error:
            failures += 1
            told = str(error)
            assert str(folder) in told
            assert "No space left on device" in told
            assert "\n" not in told
        disk.before = lambda _: None
        found = files(folder)
        assert not [name for name in found if name.endswith(".part")]
        assert saved(found) >= 1
        assert lines(found) >= saved(found)
        if saved(found) > 2:
            break
        run(folder)
        assert timeless(files(folder)) == timeless(whole)
    assert failures > 10


def flipped(data: bytes) -> bytes:
    place_ = len(data) // 2
    return data[:place_] + bytes([data[place_] ^ 4]) + data[place_ + 1 :]


def other_model(found: Files) -> Files:
    """The checkpoint's frame says that it is of another layout; its checksum is right."""
    frame = Frame.from_bytes(found["checkpoint.bin"])
    return {"checkpoint.bin": replace(frame, layout_digest=bytes(16)).to_bytes()}


def of(start: str, change: Callable[[bytes], bytes | None]) -> Callable[[Files], dict[str, bytes | None]]:
    def spoil(found: Files) -> dict[str, bytes | None]:
        name = next(name for name in found if name.startswith(start))
        return {name: change(found[name])}

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda found: {"checkpoint.bin": found["checkpoint.bin"][:-9]}, id="cut"),
        pytest.param(lambda found: {"checkpoint.bin": b""}, id="empty"),
        pytest.param(lambda found: {"checkpoint.bin": flipped(found["checkpoint.bin"])}, id="a bit"),
        pytest.param(other_model, id="of another model"),
        pytest.param(lambda found: {"rounds.jsonl": b""}, id="no rounds"),
        pytest.param(lambda found: {"config.toml": b"method = "}, id="configuration"),
        pytest.param(of("memory/", lambda data: None), id="memory, missing"),
        pytest.param(of("memory/", lambda data: data[:-1]), id="memory, cut"),
        pytest.param(of("memory/", flipped), id="memory, a bit"),
    ],
)
def test_damage_is_told_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Files], dict[str, bytes | None]]
) -> None:
    """One line that names the file; every file stays as it is; with the damaged one put back the run goes on."""
    run, disk, folder = small_run(monkeypatch), Disk(tmp_path, monkeypatch), tmp_path / "run"
    states = moments(run, tmp_path / "whole", disk)
    good = [state for state in states if saved(state) == 2][-1]
    place(good, folder)
    (name, data), *_ = spoil(good).items()
    if data is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(data)
    before = files(folder)
    with pytest.raises(RunError) as caught:
        run(folder)
    assert str(folder / name.split("/")[0]) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert files(folder) == before
    place({name: good[name]}, folder)
    run(folder)
    assert timeless(files(folder)) == timeless(files(tmp_path / "whole"))


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run needs no writing; another is told where it failed, and nothing is changed."""
    run, disk = small_run(monkeypatch), Disk(tmp_path, monkeypatch)
    states = moments(run, tmp_path / "whole", disk)
    begun = tmp_path / "begun"
    place(next(state for state in states if saved(state) == 1), begun)
    before = files(begun)

    def refuse(_: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(begun))

    disk.before = refuse
    run(tmp_path / "whole")
    for folder in (begun, tmp_path / "new"):
        with pytest.raises(OSError, match="Read-only file system"):
            run(folder)
    disk.before = lambda _: None
    assert files(begun) == before
    assert not (tmp_path / "new").exists()


class TestWriting:
    """What the rest rests on."""

    def test_a_file_that_cannot_be_replaced_is_as_it_was(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "a"
        write_atomic(path, b"old")

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as caught:
            write_atomic(path, b"new")
        assert caught.value.filename == str(path)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"old"}

    def test_file_and_folder_are_on_disk_in_this_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: list[str] = []
        monkeypatch.setattr(os, "fsync", lambda handle: synced.append(Path(f"/proc/self/fd/{handle}").readlink().name))
        write_atomic(tmp_path / "a", b"new")
        append(tmp_path / "a", b"er")
        assert re.fullmatch(r"\.a\.[0-9a-f]{16}\.part", synced[0])
        assert synced[1:] == [tmp_path.name, "a"]
        assert (tmp_path / "a").read_bytes() == b"newer"

    def test_a_folder_is_one_process_at_a_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fedmrn.files._PATIENCE", 0.1)
        script = (
            "import sys; from pathlib import Path; from fedmrn.files import locked\nwith locked(Path(sys.argv[1])): "
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", script + "print('held', flush=True); sys.stdin.read()", str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match="in use by another process"), locked(tmp_path):
            pass
        holder.kill()  # the lock goes with it
        holder.wait()
        with locked(tmp_path):
            pass
        holder.communicate()
