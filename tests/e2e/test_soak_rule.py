"""The rule by which a soak calls memory flat: what it finds, what it lets pass, and that it finds planted leaks."""

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soak
from soak import BLOCKS, Soak, growth

ROUNDS = 300


def walk(seed: int, rate: float = 0.0) -> list[float]:
    """What an allocator keeps: a sum of independent steps, of deviation 1, that drifts by a rate."""
    steps = np.random.default_rng(seed).normal(rate, 1.0, BLOCKS)
    return [0.0, *np.cumsum(steps).tolist()]


def test_walks_are_flat_as_often_as_the_rule_says() -> None:
    """4,000 walks without drift: 0.4 false alarms are expected, and 6 or more have a chance below 1e-5."""
    assert sum(growth(walk(seed)) > 0 for seed in range(4000)) < 6


def test_a_drift_of_two_deviations_a_block_is_found() -> None:
    """t is 4.6 of 20 samples: the mean of 2 stands 8.9 standard errors above zero."""
    assert all(growth(walk(seed, 2.0)) > 0 for seed in range(100))


def test_one_jump_is_no_growth() -> None:
    assert growth([0.0] * 10 + [1e6] * 11) == 0.0


def test_a_little_in_every_block_is_growth() -> None:
    assert growth([float(i) for i in range(BLOCKS + 1)]) == 1.0


def test_what_falls_or_stays_does_not_grow() -> None:
    assert growth([7.0] * (BLOCKS + 1)) == 0.0
    assert growth([-float(i) for i in range(BLOCKS + 1)]) == 0.0


def test_what_is_below_the_floor_does_not_count() -> None:
    assert growth([float(i) for i in range(BLOCKS + 1)], floor=1.0) == 0.0


def test_a_run_that_was_too_short_is_no_proof() -> None:
    found = Soak(ROUNDS)
    with pytest.raises(ValueError, match="0 samples of 21"):
        found.grows()


def soaked(leak: Any, folder: Path | None = None) -> dict[str, float]:
    """What grows in rounds that do some work, and call this."""
    with Soak(ROUNDS, folder) as found:
        for number in range(1, ROUNDS + 1):
            np.ones(1000 + 7 * (number % 11)).sum()
            leak(number)
            found.after(number)
    return found.grows()


@pytest.mark.slow
def test_rounds_that_keep_nothing_are_flat(tmp_path: Path) -> None:
    assert soaked(lambda _: None, tmp_path) == {}


@pytest.mark.slow
def test_an_object_kept_in_every_fourth_round_is_found() -> None:
    kept: list[object] = [None] * (ROUNDS + 1)  # which does not grow by itself

    def leak(number: int) -> None:
        kept[number] = object() if number % 4 == 0 else None

    assert soaked(leak)["traced"] > 16 / 4 - soak.LEAST


@pytest.mark.slow
@pytest.mark.parametrize("forget", [True, False])
def test_names_that_pythons_lookups_remember_are_no_growth(forget: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy looks "setflags" up by a new string each time, and the cache's place for it is by the string's address.

    In some rounds a block is freed from before the run, which is not traced; the string takes it, and stays.
    """
    array, blocks = np.zeros(3), [bytes([i]) * 24 for i in range(ROUNDS // 4)]

    def lookup(number: int) -> None:
        if number % 4 == 0:
            blocks.pop()
            array.flags.writeable = False

    if not forget:
        monkeypatch.setattr(soak, "forget_lookups", lambda: None)
    assert ("traced" in soaked(lookup)) is not forget


@pytest.mark.slow
def test_a_file_left_open_once_a_block_is_found() -> None:
    opened: list[int] = []
    try:
        found = soaked(lambda n: opened.append(os.open(os.devnull, os.O_RDONLY)) if n % 12 == 0 else None)
    finally:
        for number in opened:
            os.close(number)
    assert found["files"] == 1 / 12


@pytest.mark.slow
def test_memory_that_python_does_not_count_is_found() -> None:
    """64 KiB a round by the C library, touched, as a library in C would leave them."""
    kept: list[mmap.mmap] = []

    def leak(_: int) -> None:
        block = mmap.mmap(-1, 1 << 16)
        block[:: 1 << 12] = bytes([1] * 16)
        kept.append(block)

    assert soaked(leak)["resident"] > 1 << 15


@pytest.mark.slow
def test_files_left_on_disk_are_found(tmp_path: Path) -> None:
    found = soaked(lambda number: (tmp_path / f"{number}.bin").write_bytes(b"12345678"), tmp_path)
    assert (found["files on disk"], found["bytes on disk"]) == (1.0, 8.0)


@pytest.mark.slow
def test_a_log_may_grow(tmp_path: Path) -> None:
    def log(_: int) -> None:
        with (tmp_path / "rounds.jsonl").open("a", encoding="ascii") as file:
            file.write("{}\n")

    assert soaked(log, tmp_path) == {}
