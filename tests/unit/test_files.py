"""What reads and writes files in folders that may be anybody's: no links, no waiting, nothing endless."""

import multiprocessing
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import unix_has_fcntl

from fedmrn import files
from fedmrn.errors import ConfigError, RunError
from fedmrn.files import append, clear_scraps, locked, make_folder, open_file, read_file, refuse_links, write_atomic

LOCKS = sys.platform == "win32" or unix_has_fcntl
posix = pytest.mark.skipif(not files._NO_FOLLOW or not files._NO_WAIT, reason="this system opens through links")
locking = pytest.mark.skipif(not LOCKS, reason="this system has no locks")
SCRAP = ".report.html.0123456789abcdef.part"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Somebody's own file, outside the run folder."""
    path = tmp_path / "precious"
    path.write_bytes(b"precious")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    return path


class TestWritingThroughLinks:
    """A received folder whose files lead elsewhere changes nothing there."""

    @pytest.mark.parametrize("name", ["report.html.part", "report.html"])
    def test_a_file_that_is_replaced(self, folder: Path, target: Path, name: str) -> None:
        (folder / name).symlink_to(target)
        if name == "report.html":
            with pytest.raises(RunError, match=r"report\.html is a link"):
                write_atomic(folder / "report.html", b"new")
        else:
            write_atomic(folder / "report.html", b"new")
        assert target.read_bytes() == b"precious"

    def test_a_hard_link_that_is_replaced_is_a_file_of_its_own_then(self, folder: Path, target: Path) -> None:
        (folder / "config.toml").hardlink_to(target)
        write_atomic(folder / "config.toml", b"new")
        assert (target.read_bytes(), (folder / "config.toml").read_bytes()) == (b"precious", b"new")

    @pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
    def test_a_file_that_is_appended_to(self, folder: Path, target: Path, link: Callable[[Path, Path], None]) -> None:
        link(folder / "rounds.jsonl", target)
        with pytest.raises(RunError, match=r"rounds\.jsonl is a (hard )?link"):
            append(folder / "rounds.jsonl", b"new")
        assert target.read_bytes() == b"precious"

    def test_a_lock(self, folder: Path, target: Path) -> None:
        (folder / ".lock").symlink_to(target)
        with pytest.raises(RunError, match=r"\.lock is a link"), locked(folder):
            pass
        (folder / ".lock").unlink()
        (folder / ".lock").symlink_to(folder / "made")
        with pytest.raises(RunError, match=r"\.lock is a link"), locked(folder):
            pass
        assert not (folder / "made").exists()

    def test_a_folder_inside(self, folder: Path, tmp_path: Path) -> None:
        (folder / "memory").symlink_to(tmp_path)
        with pytest.raises(RunError, match="memory is a link"):
            make_folder(folder / "memory")
        with pytest.raises(RunError, match="memory is a link"):
            refuse_links(folder, folder / "memory" / "a" / "b")
        make_folder(folder / "real")
        refuse_links(folder, folder / "real" / "not yet there")

    def test_the_folder_that_a_person_names_may_be_a_link(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(folder)
        refuse_links(tmp_path / "link", tmp_path / "link" / "a")
        with locked(tmp_path / "link"):
            write_atomic(tmp_path / "link" / "a", b"new")
        assert (folder / "a").read_bytes() == b"new"

    @posix
    def test_a_link_that_takes_the_place_after_the_check(
        self, folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "_refuse_link", lambda *_: None)
        (folder / "rounds.jsonl").symlink_to(target)
        (folder / ".lock").symlink_to(target)
        for use in (lambda: append(folder / "rounds.jsonl", b"new"), lambda: read_file(folder / "rounds.jsonl", 99)):
            with pytest.raises((OSError, RunError), match="symbolic links"):
                use()
        with pytest.raises(OSError, match="symbolic links"), locked(folder):
            pass
        assert target.read_bytes() == b"precious"


class TestTemporaryFiles:
    """Nobody can guess their names, and they are no results."""

    def test_their_names_differ_and_they_must_not_exist(
        self, folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files.secrets, "token_hex", lambda _: "0123456789abcdef")
        (folder / SCRAP).symlink_to(target)
        with pytest.raises(OSError, match="File exists"):
            write_atomic(folder / "report.html", b"new")
        assert target.read_bytes() == b"precious"

    def test_those_of_dead_processes_are_deleted_and_others_are_not(self, folder: Path, target: Path) -> None:
        others = ["report.html", ".report.html.part", "a.0123456789abcdef.part", ".hidden"]
        for name in (SCRAP, *others):
            (folder / name).write_bytes(b"")
        (folder / SCRAP.replace("0", "1")).symlink_to(target)
        clear_scraps(folder)
        assert sorted(p.name for p in folder.iterdir()) == sorted([*others, SCRAP.replace("0", "1")])
        clear_scraps(folder / "absent")

    def test_on_a_server_without_filelock_they_stay(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody can tell there whether one is being written."""
        (folder / SCRAP).write_bytes(b"")
        monkeypatch.setitem(sys.modules, "filelock", None)
        clear_scraps(folder)
        assert (folder / SCRAP).exists()

    @locking
    def test_one_that_is_being_written_stays(self, folder: Path) -> None:
        script = (
            "import os, sys, time; from pathlib import Path; from fedmrn import files\n"
            "os.fsync = lambda _: (print('writing', flush=True), time.sleep(60))\n"
            "files.write_atomic(Path(sys.argv[1]) / 'report.html', b'new')"
        )
        writer = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        clear_scraps(folder)
        assert len(list(folder.glob(".report.html.*.part"))) == 1
        writer.kill()
        writer.communicate()
        clear_scraps(folder)
        assert not list(folder.iterdir())

    def test_many_writers_and_cleaners_do_not_collide(self, folder: Path) -> None:
        context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
        processes = [context.Process(target=_write_and_clear, args=(folder, i)) for i in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * 4
        assert [p.name for p in folder.iterdir()] == ["report.html"]
        assert len(set((folder / "report.html").read_bytes())) == 1


def _write_and_clear(folder: Path, number: int) -> None:
    for _ in range(50):
        write_atomic(folder / "report.html", bytes([number]) * 1000)
        clear_scraps(folder)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(path.parent)  # a socket's name may be 107 bytes long
        one.bind(path.name)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder": (Path.mkdir, "is not a regular file"),
    "a pipe": (fifo, "is not a regular file"),
    "a socket": (unix_socket, "is not a regular file"),
    "a terabyte": (huge, "is larger than 100 bytes"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
class TestReading:
    @pytest.mark.parametrize("odd", ODD)
    def test_what_is_no_file_of_ours(self, tmp_path: Path, odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        make, words = ODD[odd]
        make(tmp_path / "a")
        began = time.monotonic()
        with pytest.raises(ConfigError, match=f"/a {words}; delete it"):
            read_file(tmp_path / "a", 100, "; delete it", error=ConfigError, links=True)
        assert time.monotonic() - began < 5

    @posix
    def test_a_pipe_that_takes_the_place_after_the_check_is_not_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fifo(tmp_path / "a")
        real, checks = files._check_regular, []

        def second_only(*found: object) -> None:
            checks.append(found)
            if len(checks) > 1:
                real(*found)  # type: ignore[arg-type]

        monkeypatch.setattr(files, "_check_regular", second_only)
        with pytest.raises(RunError, match="/a is not a regular file"):
            read_file(tmp_path / "a", 100)

    def test_nothing_there(self, tmp_path: Path) -> None:
        assert read_file(tmp_path / "a", 10) is None
        with pytest.raises(FileNotFoundError), open_file(tmp_path / "a", 10):
            pass

    def test_a_link_is_read_only_where_a_person_names_it(self, folder: Path, target: Path) -> None:
        (folder / "a").symlink_to(target)
        assert read_file(folder / "a", 100, links=True) == b"precious"
        with pytest.raises(RunError, match="/a is a link"):
            read_file(folder / "a", 100)
        (folder / "b").symlink_to(folder / "nowhere")
        with pytest.raises(RunError, match="/b is a link"):
            read_file(folder / "b", 100)

    def test_one_that_changes_while_it_is_read(self, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = files.os.fstat

        def grown(handle: int) -> os.stat_result:
            found = real(handle)
            with target.open("ab") as file:
                file.write(b"more")
            return found

        monkeypatch.setattr(files.os, "fstat", grown)
        with pytest.raises(RunError, match="changed while it was read"):
            read_file(target, 100)

    def test_one_that_may_not_be_read(self, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied", str(target))

        monkeypatch.setattr(files, "_open", refuse)  # who runs tests may be root, who may read anything
        with pytest.raises(RunError, match="precious cannot be read: Permission denied; check it"):
            read_file(target, 100, "; check it")

    def test_a_file_in_place_of_a_folder(self, target: Path) -> None:
        with pytest.raises(RunError, match="cannot be read: Not a directory"):
            read_file(target / "a", 100)


def test_a_lock_outlives_neither_kill_nor_a_file_system_without_locks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> bool:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("filelock.lock_descriptor", none)
    with locked(folder):
        pass
    assert stat.S_ISREG((folder / ".lock").stat().st_mode)


def test_a_file_that_does_not_fit_into_memory_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "checkpoint.bin"
    path.write_bytes(b"12345")

    class Full:
        """A file as the system has it where there is no room for its bytes."""

        def __init__(self, *_: object, **__: object) -> None:
            self._file = path.open("rb")

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def fileno(self) -> int:
            return self._file.fileno()

        def read(self, _: int) -> bytes:
            raise MemoryError

    monkeypatch.setattr(files, "open_file", Full)
    with pytest.raises(RunError, match=r"checkpoint\.bin has 5 bytes, more than there is memory for; delete it$"):
        read_file(path, 1 << 40, "; delete it")
