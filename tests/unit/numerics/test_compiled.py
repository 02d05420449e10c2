"""Kernels are compiled where nothing can be kept of it, and a cache that fails is told once and stops nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[3] / "src"
KERNEL = """
import sys
from fedmrn.numerics.compiled import compiled

@compiled()
def add(a, b):
    return a + b

@compiled()
def times(a, b):
    return a * b

print(add(1, 2), times(2, 3))
"""
NOWHERE = "import fedmrn.numerics.cached as c\nc._Forgiving._impl_class._locator_classes = []\n"
FULL = """
import errno
from numba.core.caching import IndexDataCacheFile

def full(self, name, data):
    raise OSError(errno.ENOSPC, "No space left on device")

IndexDataCacheFile._save_data = full
"""


def kernels(tmp_path: Path, before: str = "") -> tuple[str, str]:
    script = tmp_path / "kernels.py"
    script.write_text(before + KERNEL)
    env = {**os.environ, "PYTHONPATH": str(SRC), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_nowhere_to_keep_them(tmp_path: Path) -> None:
    out, err = kernels(tmp_path, NOWHERE)
    assert out == "3 6\n"
    assert err.count("\n") == 1
    assert "NUMBA_CACHE_DIR" in err


def test_a_full_disk_names_the_folder(tmp_path: Path) -> None:
    out, err = kernels(tmp_path, FULL)
    assert out == "3 6\n"
    assert err.count("\n") == 1
    assert str(tmp_path / "cache") in err
    assert "cannot be written (No space left on device)" in err


def test_a_damaged_cache_is_compiled_anew(tmp_path: Path) -> None:
    assert kernels(tmp_path) == ("3 6\n", "")
    assert kernels(tmp_path) == ("3 6\n", "")  # from the cache
    kept = sorted((tmp_path / "cache").rglob("*.nbc"))
    assert len(kept) == 2
    for path in kept:
        path.write_bytes(path.read_bytes()[:100])
    out, err = kernels(tmp_path)
    assert out == "3 6\n"
    assert err.count("\n") == 1
    assert "cannot be read" in err


@pytest.mark.slow
def test_the_library_is_imported_from_where_nothing_can_be_written(tmp_path: Path) -> None:
    """As a read-only installation without a home: numba finds none of its places."""
    code = (
        NOWHERE
        + "import fedmrn.server\nfrom fedmrn.numerics.rotation import walsh_hadamard as w; w.made(); print('ok')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "ok\n"
    assert done.stderr.count("\n") == 1


def in_a_process(tmp_path: Path, code: str) -> str:
    (tmp_path / "deferred.py").write_text("from fedmrn.numerics.compiled import *\n" + code)
    env = {**os.environ, "PYTHONPATH": str(SRC), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, str(tmp_path / "deferred.py")]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def test_a_kernel_is_made_when_it_is_called_with_those_that_it_names(tmp_path: Path) -> None:
    """Its own name too, an inlined one, an intrinsic, and what stands for a Python function."""
    code = """
import sys

@intrinsic
def _negated(context, x):
    return types.float64(types.float64), lambda context, builder, signature, args: builder.fneg(args[0])

def _host(x):
    return -1.0

@overload(_host)
def _compiled_host(x):
    return lambda x: _negated(x) + 0.5

@compiled(inline="always")
def _twice(x):
    return 2.0 * _host(x)

@compiled()
def tower(x, n):
    if n == 0:
        return x
    return tower(_twice(x), n - 1)

kept = tower
print("numba" in sys.modules, kept(1.0, 3), "numba" in sys.modules)
print(kept.signatures, kept.py_func.__name__, kept.made() is tower)
"""
    # x -> 2 (1/2 - x), three times from 1: -1, 3, -5
    assert in_a_process(tmp_path, code).splitlines() == [
        "False -5.0 True",
        "[(float64, int64)] tower True",
    ]


def test_threads_that_call_a_kernel_at_once_make_it_once(tmp_path: Path) -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
import threading

@compiled()
def inner(x):
    return x + 1

@compiled()
def outer(x):
    return inner(x) * 2

gate = threading.Barrier(8)

def work(x):
    gate.wait()
    return outer(x) if x % 2 else inner(x)

with ThreadPoolExecutor(8) as pool:
    print(*pool.map(work, range(8)))
"""
    assert in_a_process(tmp_path, code).split() == ["1", "4", "3", "8", "5", "12", "7", "16"]


def test_every_kernel_is_compiled_so() -> None:
    found = [path.name for path in SRC.rglob("*.py") if "njit(" in path.read_text("utf-8")]
    assert found == ["cached.py"]
