"""What a fuzz target is, and how its memory is watched."""

import atexit
import shutil
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType


class ViolationError(AssertionError):
    """A promise was broken: what a fuzzer reports as a crash."""


def require(holds: bool, what: str) -> None:
    """Raise unless the promise holds; `assert` would vanish under -O."""
    if not holds:
        raise ViolationError(what)


def own_folder() -> Path:
    """Make a folder that this process may write in as long as it lives."""
    folder = Path(tempfile.mkdtemp(prefix="fedmrn-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@dataclass(frozen=True)
class Target:
    """Code that reads bytes from outside.

    Attributes:
        name: what a person types.
        check: reads the bytes; whatever it raises is a finding.
        seeds: makes inputs to start from, valid ones for the most part.
        modules: whose Python functions are instrumented.
        memory: bytes that `check` may allocate beside eight times the input's length.
        repair: makes a mutated input one that gets further; the number, 0 or more, picks how.
        longest: input, bytes.
    """

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    modules: tuple[ModuleType, ...]
    memory: int
    repair: Callable[[bytes, int], bytes] = lambda data, _: data
    longest: int = 4096

    def watched(self, data: bytes) -> None:
        """Run `check` and require that its memory stays in bounds; several times slower than `check`."""
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            self.check(data)
            peak = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
        most = self.memory + 8 * len(data)
        require(
            peak <= most, f"{self.name}: {peak} bytes allocated for an input of {len(data)}; at most {most} expected"
        )
