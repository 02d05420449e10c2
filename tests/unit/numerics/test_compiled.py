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
NOWHERE = "import fedmrn.numerics.compiled as c\nc._Forgiving._impl_class._locator_classes = []\n"
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
    code = NOWHERE.replace("\n", "; ", 1) + "import fedmrn.server, fedmrn.codecs, fedmrn.numerics.rotation; print('ok')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "ok\n"
    assert done.stderr.count("\n") == 1


def test_every_kernel_is_compiled_so() -> None:
    found = [path for path in SRC.rglob("*.py") if "njit(" in path.read_text("utf-8")]
    assert [path.name for path in found] == ["compiled.py"]
