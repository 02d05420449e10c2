"""The law of the grid: steps follow what a tensor moved, and a number moves when its value is far from it."""

from math import isclose, log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedmrn.errors import ConfigError
from fedmrn.server.grid import PublicGrid, shares
from fedmrn.wire.grid import LARGEST_NUMBER, LARGEST_STEP, LEAST_STEP, Points, re_expressed, to_values
from fedmrn.wire.layout import Group, Layout, TensorSpec

F32 = NDArray[np.float32]
LAYOUT = Layout.of(
    [
        TensorSpec("w", (50, 60), Group.CODED),
        TensorSpec("b", (60,), Group.CODED),
        TensorSpec("scale", (60,), Group.DENSE),
        TensorSpec("running_var", (60,), Group.VARIANCE),
    ]
)
SIZE = 3060


def normal(seed: int, size: int = SIZE, spread: float = 1.0) -> F32:
    return np.random.Generator(np.random.Philox(seed)).normal(0, spread, size).astype(np.float32)


def values(points: Points, start: F32 | None, group: Group = Group.CODED) -> F32:
    return to_values(LAYOUT, group, points, start)


@pytest.mark.parametrize("step", [0.25, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("spread", [1e-6, 1.0, 1e6])
def test_a_step_is_the_power_of_two_nearest_to_its_share_of_what_moved(step: float, spread: float) -> None:
    start = normal(1)
    state = (start.astype(np.float64) + normal(2, spread=spread)).astype(np.float32)
    points = PublicGrid(step=step, from_start=True).next(LAYOUT, Group.CODED, None, state, start)
    parts, each = (slice(0, 3000), slice(3000, SIZE)), shares([3000, 60])
    for part, share, exponent in zip(parts, each, points.exponents.tolist(), strict=True):
        moved = np.sqrt(np.mean((state[part].astype(np.float64) - start[part]) ** 2))
        fits = log2(step * share * moved)
        assert exponent == round(fits) or isclose(abs(exponent - fits), 0.5, abs_tol=1e-3)


@given(st.lists(st.integers(1, 1 << 20), min_size=1, max_size=8), st.integers(0, 100))
def test_shares_of_steps_cost_nothing_and_no_others_do_less_harm(sizes: list[int], seed: int) -> None:
    """Harm is the sum of the tensors' squared steps; bits are sizes times -log2 of them."""
    found, counts = shares(sizes), np.array(sizes)
    assert abs((counts * np.log2(found)).sum()) <= 1e-9 * counts.sum()
    other = np.log2(found) + normal(seed, len(sizes), 0.3)
    other -= (counts * other).sum() / counts.sum()  # the same bits
    assert (found**2).sum() <= (4**other).sum() * (1 + 1e-12)
    assert shares([7] * 3).tolist() == [1, 1, 1]


@given(st.floats(-0.74, 0.74), st.integers(-20, 20))
def test_a_step_stays_while_the_one_that_fits_is_near(off: float, exponent: int) -> None:
    start = np.zeros(SIZE, np.float32)
    state = np.repeat(2.0 ** (exponent + 1 + off) / shares([3000, 60]), (3000, 60)).astype(np.float32)
    before = Points(np.array([exponent, exponent], np.int8), np.zeros(SIZE, np.int32))
    grid = PublicGrid(from_start=True)
    assert grid.next(LAYOUT, Group.CODED, before, state, start).exponents.tolist() == [exponent, exponent]
    far = grid.next(LAYOUT, Group.CODED, before, 2 * state, start).exponents.tolist()
    half_way = abs(abs(off) - 0.5) < 1e-3  # the last bit of a root decides there
    assert far == [round(exponent + 1 + off)] * 2 or off < -0.25 or half_way


def test_a_tensor_that_has_not_moved_is_where_it_was() -> None:
    start = normal(1)
    points = PublicGrid(from_start=True).next(LAYOUT, Group.CODED, None, start, start)
    assert not points.numbers.any()
    assert values(points, start).tobytes() == start.tobytes()


def test_counted_from_zero_the_first_model_is_near_the_start() -> None:
    start = normal(1, spread=0.01)
    points = PublicGrid().next(LAYOUT, Group.CODED, None, start, start)
    error = values(points, None) - start
    assert np.sqrt(np.mean(error**2)) < 0.02 * 0.01
    assert np.abs(points.numbers[:3000]).max() < 255  # one table of frequencies holds them


@pytest.mark.parametrize("moves", [1e-3, 1e-2, 1e-1])
def test_counted_from_zero_fine_tuning_is_shown_from_the_first_round_on(moves: float) -> None:
    """Weights that were trained before move by a thousandth of what they are."""
    start = normal(1, spread=0.01)
    state = start + normal(2, spread=0.01 * moves)
    first = PublicGrid().next(LAYOUT, Group.CODED, None, start, start)
    second = PublicGrid().next(LAYOUT, Group.CODED, first, state, start)
    assert np.sqrt(np.mean((values(second, None) - state) ** 2)) < 0.4 * 0.01 * moves
    before = re_expressed(LAYOUT, Group.CODED, first, second.exponents)
    assert np.ptp(second.numbers - before) < 255  # what the first model left out is not expensive


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.25, 0.5]))
def test_a_number_moves_to_the_nearest_once_its_value_is_far(seed: int, hysteresis: float) -> None:
    """Against the rule in words, one element at a time."""
    start, state, later = np.zeros(SIZE, np.float32), normal(seed), normal(seed) + normal(seed + 1, spread=0.2)
    grid = PublicGrid(from_start=True, hysteresis=hysteresis)
    first = grid.next(LAYOUT, Group.CODED, None, state, start)
    second = grid.next(LAYOUT, Group.CODED, first, later, start)
    steps = np.repeat(2.0 ** second.exponents.astype(float), (3000, 60))
    assert np.array_equal(first.exponents, second.exponents)
    for i in range(0, SIZE, 97):
        place = float(later[i]) / float(steps[i])
        if abs(place - first.numbers[i]) > 0.5 + hysteresis:
            assert second.numbers[i] == round(place)
        else:
            assert second.numbers[i] == first.numbers[i]
    again = grid.next(LAYOUT, Group.CODED, second, later, start)
    assert np.array_equal(again.numbers, second.numbers)  # nothing moves twice


def test_numbers_are_not_off_to_one_side_after_a_step_became_coarser() -> None:
    """Half of the numbers before are half-way between two of the coarser grid, and re-expressed to the larger one."""
    start, state = np.zeros(SIZE, np.float32), normal(1)
    grid = PublicGrid(from_start=True, hysteresis=0.5)
    first = grid.next(LAYOUT, Group.CODED, None, state, start)
    second = grid.next(LAYOUT, Group.CODED, first, 2 * state, start)
    assert (second.exponents == first.exponents + 1).all()
    error = (values(second, start) - 2 * state)[:3000] / 2.0 ** float(second.exponents[0])
    assert abs(error.mean()) < 5 * np.sqrt(1 / 12 / 3000)  # uniform in half a step to both sides
    assert np.abs(error).max() <= 0.5


def test_variances_are_within_a_half_point_and_never_negative() -> None:
    start = np.ones(60, np.float32)
    state = np.exp(normal(3, 60, 3.0)).astype(np.float32)
    state[:3] = 0, 2.0**-60, 2.0**126
    for from_start in (True, False):
        grid = PublicGrid(from_start=from_start, hysteresis=0)
        points = grid.next(LAYOUT, Group.VARIANCE, None, state, start)
        found = values(points, start if from_start else None, Group.VARIANCE)
        assert found[0] == 0
        assert (np.abs(found[1:] / state[1:] - 1) <= 2.0**-7).all()


def test_no_number_is_beyond_what_float32_holds() -> None:
    start, state = np.zeros(SIZE, np.float32), np.zeros(SIZE, np.float32)
    state[0], state[3000] = 3e38, -3e38
    points = PublicGrid(from_start=True, step=2.0**-20).next(LAYOUT, Group.CODED, None, state, start)
    assert np.abs(points.numbers).max() <= LARGEST_NUMBER
    assert np.isfinite(values(points, start)).all()


@pytest.mark.parametrize("group", [Group.CODED, Group.DENSE])
@pytest.mark.parametrize("first", [0.0, 0.3, 1.0])
def test_a_tensor_of_one_element_that_comes_back_to_its_start_is_shown(group: Group, first: float) -> None:
    """Its step becomes 2^20 times finer and more at once, which no number of before can follow."""
    layout = Layout.of([TensorSpec("one", (1,), group)])
    start, away = np.full(1, first, np.float32), np.full(1, first + 0.5, np.float32)
    back = np.nextafter(start, np.float32(2))
    grid = PublicGrid(from_start=True)
    points = grid.next(layout, group, None, away, start)
    for _ in range(3):
        before, points = points, grid.next(layout, group, points, back, start)
        assert np.abs(re_expressed(layout, group, before, points.exponents)).max() <= LARGEST_NUMBER
    assert abs(float(to_values(layout, group, points, start)[0]) - float(back[0])) <= 2.0**LEAST_STEP


@pytest.mark.parametrize("from_start", [True, False])
def test_variances_at_the_ends_of_float32_are_shown(from_start: bool) -> None:
    start, state = np.full(60, -0.0, np.float32), np.full(60, np.finfo(np.float32).max)
    grid = PublicGrid(from_start=from_start)
    origin = start if from_start else None
    first = grid.next(LAYOUT, Group.VARIANCE, None, start, start)
    assert not values(first, origin, Group.VARIANCE).any()
    second = values(grid.next(LAYOUT, Group.VARIANCE, first, state, start), origin, Group.VARIANCE)
    assert (np.abs(second / state - 1) <= 2.0**-6).all()


@pytest.mark.filterwarnings("error")
def test_a_move_beyond_float32_has_the_largest_step() -> None:
    start = np.full(SIZE, -3e38, np.float32)
    points = PublicGrid(from_start=True).next(LAYOUT, Group.CODED, None, -start, start)
    assert points.exponents.tolist() == [LARGEST_STEP, LARGEST_STEP]


@pytest.mark.parametrize(
    "wrong", [{"step": 0.0}, {"step": float("nan")}, {"side": 2.0**21}, {"hysteresis": -1.0}, {"rounds": 0}]
)
def test_laws_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        PublicGrid(**wrong)  # type: ignore[arg-type]
