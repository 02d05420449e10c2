"""The rule by which a soak calls memory flat: what it finds, what it lets pass, and that it finds planted leaks."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soak
from soak import BLOCKS, Soak, growth
from unmeasured import unmeasured

SUPPORT = Path(__file__).parents[1] / "support"
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


@pytest.fixture(scope="module")
def planted() -> dict[str, dict[str, float]]:
    """What grows with each of the planted leaks, in a fresh process that nobody measures or shares."""
    command = [sys.executable, str(SUPPORT / "soak_leaks.py")]
    done = subprocess.run(command, env=unmeasured(), capture_output=True, text=True, timeout=600, check=True)
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nothing", "names that lookups remember", "a log"])
def test_what_is_no_leak_is_flat(planted: dict[str, dict[str, float]], name: str) -> None:
    assert planted[name] == {}


@pytest.mark.slow
def test_an_object_kept_in_every_fourth_round_is_found(planted: dict[str, dict[str, float]]) -> None:
    assert planted["an object in every fourth round"]["traced"] > 16 / 4 - soak.LEAST


@pytest.mark.slow
def test_names_that_pythons_lookups_remember_would_be_growth(planted: dict[str, dict[str, float]]) -> None:
    assert "traced" in planted["names that are not forgotten"]


@pytest.mark.slow
def test_a_file_left_open_once_a_block_is_found(planted: dict[str, dict[str, float]]) -> None:
    assert planted["a file left open once a block"]["files"] == 1 / 12


@pytest.mark.slow
def test_memory_that_python_does_not_count_is_found(planted: dict[str, dict[str, float]]) -> None:
    assert planted["memory that Python does not count"]["resident"] > 1 << 15


@pytest.mark.slow
def test_files_left_on_disk_are_found(planted: dict[str, dict[str, float]]) -> None:
    found = planted["files on disk"]
    assert (found["files on disk"], found["bytes on disk"]) == (1.0, 8.0)
