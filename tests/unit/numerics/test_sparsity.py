"""How many elements stay, which, and when: against counting by hand and sorting."""

import numpy as np
import pytest

from fedmrn.codecs import Sparse
from fedmrn.errors import ConfigError
from fedmrn.numerics.sparsity import kept, largest
from fedmrn.server.schedule import CubicSchedule


@pytest.mark.parametrize(
    ("density", "count", "expected"),
    [
        (0.03, 1000, 30),
        (0.03, 10, 1),  # 0.3 is rounded to 0; one stays
        (2.0**-20, 1, 1),
        (0.25, 2, 1),  # halves go up: 0.5 -> 1
        (0.5, 3, 2),  # 1.5 -> 2
        (0.25, 6, 2),  # 1.5 -> 2
        (0.49, 3, 1),  # 1.47 -> 1
        (0.999, 3, 3),
        (1.0, 1, 1),
        (1.0, 7, 7),
    ],
)
def test_kept(density: float, count: int, expected: int) -> None:
    assert kept(density, count) == expected


def by_sorting(x: np.ndarray, k: int) -> list[bool]:
    first = sorted(range(x.size), key=lambda i: (-abs(float(x[i])), i))[:k]
    return [i in first for i in range(x.size)]


def test_the_largest_are_those_that_sorting_finds_and_of_equal_ones_the_first() -> None:
    rng = np.random.default_rng(1)
    for size in (1, 2, 9, 40):
        vectors = [
            rng.standard_normal(size),
            rng.integers(-2, 3, size),
            np.zeros(size),
            np.full(size, -0.5),
            np.where(rng.random(size) < 0.5, 0.0, -0.0),
        ]
        for x in (v.astype(np.float32) for v in vectors):
            for k in range(1, size + 1):
                found = largest(x, k)
                assert found.dtype == np.bool_
                assert found.tolist() == by_sorting(x, k)


def test_the_sign_does_not_count_and_the_vector_stays() -> None:
    x = np.array([1, -2, 2, -3], np.float32)
    assert largest(x, 2).tolist() == [False, True, False, True]
    assert x.tolist() == [1, -2, 2, -3]


def test_the_schedule_by_hand() -> None:
    """0.9 in 4 rounds: 1 - (3/4)^3 = 37/64, 1 - (1/2)^3 = 7/8, 1 - (1/4)^3 = 63/64 of it."""
    schedule = CubicSchedule(0.9, 4)
    densities = [schedule.density(t) for t in range(7)]
    by_hand = [1, 1 - 0.9 * 37 / 64, 1 - 0.9 * 7 / 8, 1 - 0.9 * 63 / 64, 0.1, 0.1, 0.1]
    assert densities == pytest.approx(by_hand, abs=1e-15)


def test_the_schedule_starts_after_its_start() -> None:
    schedule, same = CubicSchedule(0.9, 6, start=2), CubicSchedule(0.9, 4)
    assert [schedule.density(t) for t in range(3)] == [1, 1, 1]
    assert [schedule.density(t) for t in range(2, 9)] == [same.density(t) for t in range(7)]


def test_between_prunings_the_sparsity_stays() -> None:
    """In rounds 3, 6 and 9, wherever it starts; after the last round the final sparsity, whatever the rest."""
    schedule, each = CubicSchedule(0.9, 9, start=1, every=3), CubicSchedule(0.9, 9, start=1)
    at = [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9]
    assert [schedule.density(t) for t in range(11)] == [each.density(t) for t in at]
    schedule, each = CubicSchedule(0.9, 8, start=4, every=3), CubicSchedule(0.9, 8, start=4)
    at = [0, 0, 0, 0, 0, 0, 6, 6, 8]
    assert [schedule.density(t) for t in range(9)] == [each.density(t) for t in at]


@pytest.mark.parametrize("final", [0, 0.3, 0.97, 0.999])
@pytest.mark.parametrize(("rounds", "start", "every"), [(1, 0, 1), (10, 0, 1), (100, 20, 7), (7, 6, 1), (5, 0, 100)])
def test_the_schedule_never_rises_and_ends_exactly(final: float, rounds: int, start: int, every: int) -> None:
    schedule = CubicSchedule(final, rounds, start, every)
    densities = [schedule.density(t) for t in range(rounds + 3)]
    assert densities == sorted(densities, reverse=True)
    assert densities[: start + 1] == [1] * (start + 1)
    assert densities[rounds:] == [1 - final] * 3
    multiples = [t for t in range(start + 1, rounds) if t % every == 0]
    assert len(set(densities)) == (2 + len(multiples) if final else 1)


@pytest.mark.parametrize("final", [-0.1, 1 - 2.0**-21, 1, 1.5, float("nan"), float("inf")])
def test_a_sparsity_that_is_no_share(final: float) -> None:
    with pytest.raises(ConfigError, match="a share from 0 to 1 - 2"):
        CubicSchedule(final, 10)


def test_the_codec_can_have_the_density_of_every_round_of_the_sparsest_schedule() -> None:
    schedule = CubicSchedule(1 - 2.0**-20, 7)
    for t in range(9):
        assert Sparse(schedule.density(t)).density == pytest.approx(schedule.density(t), rel=2.0**-24)
    assert schedule.density(7) == 2.0**-20


@pytest.mark.parametrize("every", [0, -1])
def test_pruning_every_no_rounds(every: int) -> None:
    with pytest.raises(ConfigError, match="every at least 1"):
        CubicSchedule(0.5, 10, every=every)


@pytest.mark.parametrize(("rounds", "start"), [(0, 0), (-1, 0), (10, 10), (10, 11), (10, -1)])
def test_a_start_outside_the_schedule(rounds: int, start: int) -> None:
    with pytest.raises(ConfigError, match="a round before the last"):
        CubicSchedule(0.5, rounds, start)
