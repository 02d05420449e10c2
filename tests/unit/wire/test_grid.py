"""Points of a grid by fractions and whole numbers: values, other steps, places of variances, shared tables."""

import contextlib
import struct
from fractions import Fraction
from math import floor, inf

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from public_models import LAST_PLACE, LAYOUT, floats, models, nearest, numbers, origins, place, slow_values, steps

from allocated import allocated
from fedmrn.errors import BoundError, MalformedFrameError
from fedmrn.wire.grid import (
    LARGEST_NUMBER,
    LARGEST_STEP,
    LEAST_STEP,
    VARIANCE_BITS,
    Points,
    check_numbers,
    edges,
    from_body,
    places_of,
    re_expressed,
    runs,
    to_body,
    to_values,
)
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.public import PublicModel

LARGEST = float(np.finfo(np.float32).max)
ONE = Layout.of([TensorSpec("w", (3,), Group.CODED)])
VARIANCES = Layout.of([TensorSpec("v", (2,), Group.VARIANCE)])


def points(exponents: list[int], values: list[int]) -> Points:
    return Points(np.array(exponents, np.int8), np.array(values, np.int32))


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@given(st.floats(-1e38, 1e38), st.integers(-200, 100))
def test_the_oracle_rounds_as_float32_does(value: float, exponent: int) -> None:
    """A double is rounded once by packing it."""
    scaled = value * 2.0 ** min(exponent, 0)
    assert struct.pack("<f", scaled) == struct.pack("<f", nearest(Fraction(scaled)) or scaled * 0)


def test_the_oracle_at_the_ends() -> None:
    assert nearest(Fraction(LARGEST)) == LARGEST
    assert nearest(Fraction(2**128 - 2**103)) == inf == -nearest(-Fraction(2**128 - 2**103))
    assert nearest(Fraction(2**128 - 2**103 - 1)) == LARGEST
    assert (nearest(Fraction(1, 2**150)), nearest(Fraction(3, 2**150))) == (0, 2.0**-148)


@settings(deadline=None)
@given(st.data())
def test_values_are_those_of_fractions(data: st.DataObject) -> None:
    """Rounded once, where numbers count from starting weights; exact where they count from zero."""
    origin = data.draw(origins(LAYOUT))
    model = data.draw(models(LAYOUT, 0, origin))
    assert isinstance(model, PublicModel)
    for group, part in model.parts.items():
        own = None if origin is None else origin[LAYOUT.span(group)]
        found = to_values(LAYOUT, group, part, own)
        assert found.dtype == np.float32
        assert found.tolist() == slow_values(LAYOUT, group, part, None if own is None else own.tolist())


def test_the_ends_of_steps_are_exact() -> None:
    for exponent in (LEAST_STEP, LARGEST_STEP):
        found = to_values(ONE, Group.CODED, points([exponent], [LARGEST_NUMBER, -LARGEST_NUMBER, 1]), None)
        assert found.tolist() == [n * 2.0**exponent for n in (LARGEST_NUMBER, -LARGEST_NUMBER, 1)]


def test_a_value_beyond_float32_is_refused() -> None:
    part = points([LARGEST_STEP], [LARGEST_NUMBER, 0, 0])
    assert to_values(ONE, Group.CODED, points([79], [LARGEST_NUMBER, 0, 0]), f32(LARGEST, 0, 0))[0] == LARGEST
    for start in (LARGEST, inf, np.nan):
        with pytest.raises(BoundError, match="beyond float32"):
            to_values(ONE, Group.CODED, part, f32(start, 0, 0))


@pytest.mark.parametrize(("number", "origin"), [(-1, 0.0), (-17, 1e-43), (LAST_PLACE + 1, 0.0), (1, LARGEST)])
def test_a_variance_that_cannot_be_is_refused(number: int, origin: float) -> None:
    with pytest.raises(BoundError, match="variance of a public model is negative, or beyond float32"):
        to_values(VARIANCES, Group.VARIANCE, points([17], [0, number]), f32(0, origin))


def test_the_ends_of_variances() -> None:
    found = to_values(VARIANCES, Group.VARIANCE, points([17], [0, LAST_PLACE]), None)
    assert found.tolist() == [0, float(np.uint32(LAST_PLACE << 17).view(np.float32))]
    assert not np.signbit(found).any()


@given(st.lists(st.floats(0, LARGEST, width=32), max_size=9))
@example([0.0, -0.0, 1e-45, 2.0**-126, 1.0, LARGEST, 3.39e38])
def test_places_of_variances(variances: list[float]) -> None:
    found = places_of(f32(*variances))
    assert found.tolist() == [place(v) for v in variances]
    exact = to_values(
        Layout.of([TensorSpec("v", (len(variances),), Group.VARIANCE)]),
        Group.VARIANCE,
        points([17] * bool(variances), found.tolist()),
        None,
    )
    assert places_of(exact).tolist() == found.tolist(), "a value of the grid stays where it is"
    assert all(abs(e - v) <= v * 2.0**-7 for e, v in zip(exact.tolist(), variances, strict=True) if v > 2.0**-126)


@settings(deadline=None)
@given(st.lists(numbers, min_size=3, max_size=3), steps, st.one_of(st.integers(-40, 40), st.integers(-160, 160)))
def test_other_steps(values: list[int], old: int, by: int) -> None:
    """Exact in finer ones, in coarser ones the nearest, half-way the larger; or refused, by fractions."""
    new = min(max(old + by, LEAST_STEP), LARGEST_STEP)
    ratio = Fraction(2) ** (old - new)
    wanted = [floor(n * ratio + Fraction(1, 2)) for n in values]
    part = points([old], values)
    if max(map(abs, wanted)) > LARGEST_NUMBER:
        with pytest.raises(BoundError, match=f"beyond {LARGEST_NUMBER}"):
            re_expressed(ONE, Group.CODED, part, np.array([new], np.int8))
        return
    found = re_expressed(ONE, Group.CODED, part, np.array([new], np.int8))
    assert found.dtype == np.int32
    assert found.tolist() == wanted
    assert part.numbers.tolist() == values
    if new <= old:
        before, after = (to_values(ONE, Group.CODED, p, None) for p in (part, points([new], wanted)))
        assert before.tobytes() == after.tobytes()


def test_half_way_goes_to_the_larger() -> None:
    found = re_expressed(ONE, Group.CODED, points([0], [1, -1, -3]), np.array([1], np.int8))
    assert found.tolist() == [1, 0, -1]


def test_variances_have_one_grid() -> None:
    part = points([17], [5, 6])
    assert re_expressed(VARIANCES, Group.VARIANCE, part, np.array([17], np.int8)) is part.numbers


def slow_runs(sizes: list[int]) -> list[int]:
    """Tensors are put together from the first on until they make 4,096; what is left at the end joins the last ones."""
    found: list[list[int]] = []
    for size in sizes:
        if size:
            if not found or sum(found[-1]) >= 4096:
                found.append([])
            found[-1].append(size)
    if len(found) > 1 and sum(found[-1]) < 4096:
        last = found.pop()
        found[-1] += last
    return [sum(run) for run in found]


@given(st.lists(st.one_of(st.integers(0, 99), st.integers(0, 9999), st.just(4096), st.just(4095)), max_size=20))
@example([4096, 0, 1])
@example([0])
@example([1, 2, 3])
def test_small_neighbours_share_a_table(sizes: list[int]) -> None:
    found = runs(sizes)
    assert found == slow_runs(sizes)
    assert sum(found) == sum(sizes)
    assert all(run >= 4096 for run in found) or len(found) == 1


def test_edges_leave_empty_tensors_out() -> None:
    assert edges(LAYOUT, Group.CODED) == [(0, 15), (15, 19)]
    assert edges(ONE, Group.DENSE) == []


@settings(deadline=None)
@given(st.data())
def test_bodies_come_back(data: st.DataObject) -> None:
    model = data.draw(models(LAYOUT, 0, None))
    assert isinstance(model, PublicModel)
    for group, part in model.parts.items():
        body = to_body(LAYOUT, group, part)
        found = from_body(LAYOUT, group, body)
        assert found.exponents.tolist() == part.exponents.tolist()
        assert found.numbers.tolist() == part.numbers.tolist()
        for length in range(len(body)):
            with pytest.raises(MalformedFrameError):
                from_body(LAYOUT, group, body[:length])
        with pytest.raises(MalformedFrameError):
            from_body(LAYOUT, group, body + b"\0")


@pytest.mark.parametrize(
    ("group", "step"), [(Group.CODED, -81), (Group.CODED, 81), (Group.VARIANCE, 16), (Group.VARIANCE, 18)]
)
def test_steps_out_of_range_are_refused(group: Group, step: int) -> None:
    layout = Layout.of([TensorSpec("t", (3,), group)])
    body = bytearray(to_body(layout, group, points([VARIANCE_BITS], [1, 2, 3])))
    body[0] = step & 255
    with pytest.raises(BoundError, match="a step of a public model is not from"):
        from_body(layout, group, bytes(body))


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=80), st.integers(1, 1 << 18))
def test_noise_takes_memory_of_the_layout_and_not_of_the_bytes(data: bytes, size: int) -> None:
    layout = Layout.of([TensorSpec("t", (size,), Group.CODED)])

    def read() -> None:
        with contextlib.suppress(MalformedFrameError, BoundError):
            from_body(layout, Group.CODED, data)

    assert allocated(read) < 8 * size + (1 << 18)


def test_numbers_at_their_ends() -> None:
    for kind in (np.int32, np.int64):
        check_numbers(np.array([], kind))
        check_numbers(np.array([LARGEST_NUMBER, -LARGEST_NUMBER], kind))
        for beyond in (LARGEST_NUMBER + 1, -LARGEST_NUMBER - 1, 2**31 - 1, -(2**31)):
            with pytest.raises(BoundError, match=f"beyond {LARGEST_NUMBER}"):
                check_numbers(np.array([0, beyond], kind))


@given(st.lists(floats, min_size=3, max_size=3))
def test_where_nothing_moved_the_values_are_the_starting_weights(start: list[float]) -> None:
    origin = f32(*start)
    assert to_values(ONE, Group.CODED, points([-30], [0, 0, 0]), origin).tolist() == origin.tolist()
