"""Planted leaks, each under the rule of `soak`: a process of its own, in which nobody else allocates.

Where another thread allocates once, that is a jump beside which a leak of 16 bytes is chance.
"""

import json
import mmap
import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import soak
from soak import Soak

ROUNDS = 300
Leak = Callable[[int], object]
"""What a round does, by its number from 1."""


def soaked(leak: Leak, folder: Path | None = None) -> dict[str, float]:
    """What grows in rounds that do some work, and call this."""
    with Soak(ROUNDS, folder) as found:
        for number in range(1, ROUNDS + 1):
            np.ones(1000 + 7 * (number % 11)).sum()
            leak(number)
            found.after(number)
    return found.grows()


def an_object_in_every_fourth_round() -> dict[str, float]:
    kept: list[object] = [None] * (ROUNDS + 1)  # which does not grow by itself

    def leak(number: int) -> None:
        kept[number] = object() if number % 4 == 0 else None

    return soaked(leak)


def names_that_lookups_remember() -> dict[str, float]:
    """numpy looks "setflags" up by a new string each time, and the cache's place for it is by the string's address.

    In some rounds a block is freed from before the run, which is not traced; the string takes it, and stays.
    """
    array, blocks = np.zeros(3), [bytes([i]) * 24 for i in range(ROUNDS // 4)]

    def lookup(number: int) -> None:
        if number % 4 == 0:
            blocks.pop()
            array.flags.writeable = False

    return soaked(lookup)


def names_that_are_not_forgotten() -> dict[str, float]:
    with patch.object(soak, "forget_lookups", lambda: None):
        return names_that_lookups_remember()


def a_file_left_open_once_a_block() -> dict[str, float]:
    opened: list[int] = []
    try:
        return soaked(lambda n: opened.append(os.open(os.devnull, os.O_RDONLY)) if n % 12 == 0 else None)
    finally:
        for number in opened:
            os.close(number)


def memory_that_python_does_not_count() -> dict[str, float]:
    """64 KiB a round by the C library, touched, as a library in C would leave them."""
    kept: list[mmap.mmap] = []

    def leak(_: int) -> None:
        block = mmap.mmap(-1, 1 << 16)
        block[:: 1 << 12] = bytes([1] * 16)
        kept.append(block)

    return soaked(leak)


def in_a_folder(leak: Callable[[Path, int], object]) -> dict[str, float]:
    with TemporaryDirectory() as name:
        return soaked(lambda number: leak(Path(name), number), Path(name))


def log(folder: Path, _: int) -> None:
    with (folder / "rounds.jsonl").open("a", encoding="ascii") as file:
        file.write("{}\n")


LEAKS: dict[str, Callable[[], dict[str, float]]] = {
    "nothing": lambda: in_a_folder(lambda *_: None),
    "an object in every fourth round": an_object_in_every_fourth_round,
    "names that lookups remember": names_that_lookups_remember,
    "names that are not forgotten": names_that_are_not_forgotten,
    "a file left open once a block": a_file_left_open_once_a_block,
    "memory that Python does not count": memory_that_python_does_not_count,
    "files on disk": lambda: in_a_folder(lambda folder, n: (folder / f"{n}.bin").write_bytes(b"12345678")),
    "a log": lambda: in_a_folder(log),
}

if __name__ == "__main__":
    json.dump({name: leak() for name, leak in LEAKS.items()}, sys.stdout)
