"""Without what only POSIX has, all of the library is imported, and files and run folders pass their tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ABSENT = """
import os, signal, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource", "pwd", "grp", "termios"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

import torch, matplotlib.figure, sklearn, flwr.app, flwr.serverapp, flwr.clientapp, ray, pytest  # others' own affair
for name in [m for m in sys.modules if m in ("fcntl", "resource", "pwd", "grp", "termios") or m[:8] == "filelock"]:
    del sys.modules[name]
sys.meta_path.insert(0, Blocked())
for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "sched_getaffinity", "fchmod"):
    delattr(os, name)
del signal.SIGKILL, signal.SIGPIPE, signal.SIGHUP
"""
IMPORT = """
import pkgutil, importlib, fedmrn
names = [m.name for m in pkgutil.walk_packages(fedmrn.__path__, "fedmrn.") if "__main__" not in m.name]
for name in names:
    if name != "fedmrn.torch.fast.gpu":
        importlib.import_module(name)
print(len(names))
"""
TESTS = """
options = ["-q", "--no-cov", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore:only soft file lock"]
sys.exit(pytest.main([*options, *sys.argv[1:]]))
"""


def without(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", ABSENT + code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_everything_is_imported() -> None:
    assert int(without(IMPORT)) > 150


@pytest.mark.slow
def test_files_and_run_folders(tmp_path: Path) -> None:
    run = "tests/unit/experiments/run"
    paths = [
        "tests/unit/test_files.py",
        *(f"{run}/test_{name}.py" for name in ("record", "layout_file", "checkpoints")),
    ]
    out = without(TESTS, *paths, f"--basetemp={tmp_path / 'inner'}")
    assert " passed" in out


def test_no_module_names_what_only_posix_has() -> None:
    words = ("import fcntl", "import resource", "os.fork", "signal.SIGKILL", "os.O_NO", "os.mkfifo", "os.getuid")
    found = {path.name for path in (ROOT / "src").rglob("*.py") if any(w in path.read_text("utf-8") for w in words)}
    assert not found
    assert hasattr(os, "replace")
