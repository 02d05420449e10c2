"""One process of the coverage-guided fuzzer: engine.py TARGET [options of libFuzzer] [folders of inputs]."""

import inspect
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import atheris
from atheris.instrument_bytecode import patch_code
from targets import target as target_of

ROOM = 512 << 20
"""Bytes of address space that the process may take beside what it has when it starts: more is a MemoryError."""
WATCH = 256
"""One input of so many has its memory watched; all of them are under the limit on address space."""


def functions(module: ModuleType) -> Iterator[FunctionType]:
    """Yield the Python functions that a module defines; what numba compiled is none of them."""
    for thing in vars(module).values():
        owner = thing if inspect.isclass(thing) and thing.__module__ == module.__name__ else None
        for member in vars(owner).values() if owner else (thing,):
            found = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
            if isinstance(found, FunctionType) and found.__module__ == module.__name__:
                yield found


def main() -> None:
    """Fuzz; the process ends when libFuzzer does."""
    name, *options = sys.argv[1:]
    target = target_of(name)
    for module in target.modules:
        for function in functions(module):
            # Branches everywhere; comparisons not of arrays, whose result atheris 3.0 never frees.
            function.__code__ = patch_code(function.__code__, trace_dataflow="np" not in vars(module))
    seen = 0

    def one(data: bytes) -> None:
        nonlocal seen
        seen += 1
        if seen % WATCH:
            target.check(data)
        else:
            target.watched(data)

    def mutate(data: bytes, largest: int, seed: int) -> bytes:
        return target.repair(atheris.Mutate(data, len(data) if seed & 8 else largest), seed & 7)

    for data in target.seeds():  # compiles and imports what it needs, before memory is counted
        target.check(data)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, taken + ROOM))
    atheris.Setup(
        [sys.argv[0], f"-max_len={target.longest}", *options], one, custom_mutator=mutate, enable_python_coverage=True
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
