"""Public models that are drawn, the frames that carry them, and their values by fractions."""

from collections.abc import Sequence
from fractions import Fraction
from math import floor, inf

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedmrn.wire.frame import Frame, Kind
from fedmrn.wire.grid import LARGEST_NUMBER, LARGEST_STEP, LEAST_STEP, VARIANCE_BITS, Points, edges, places_of
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.public import PublicModel, groups_of, public_sections, tag_of

F32 = NDArray[np.float32]
LAYOUT = Layout.of(
    [
        TensorSpec("w", (3, 5), Group.CODED),
        TensorSpec("nothing", (0, 3), Group.CODED),
        TensorSpec("b", (4,), Group.CODED),
        TensorSpec("n", (3,), Group.DENSE),
        TensorSpec("m", (2,), Group.STATS),
        TensorSpec("v", (3,), Group.VARIANCE),
    ]
)
LEAN = Layout.of([TensorSpec("w", (7,), Group.CODED)])
RUN = tag_of(b"a run of the tests")
LAST_PLACE = 0x7F7FFFFF >> VARIANCE_BITS
"""The place of the largest variance: the first bits of the largest float32, rounded down."""

numbers = st.one_of(st.integers(-4, 4), st.integers(-4, 4), st.integers(-LARGEST_NUMBER, LARGEST_NUMBER))
steps = st.one_of(st.integers(-9, 3), st.integers(LEAST_STEP, LARGEST_STEP))
floats = st.floats(-(2.0**100), 2.0**100, width=32)


def nearest(x: Fraction) -> float:
    """The float32 nearest to a fraction, of two the even one; infinite where it is beyond all."""
    if not x:
        return 0.0
    size = abs(x)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    unit = Fraction(2) ** max(exponent - 23, -149)
    found = round(x / unit) * unit
    return float(found) if abs(found) < 2**128 else inf if x > 0 else -inf


def place(variance: float) -> int:
    """The place of a variance: its first 15 bits, as the nearest of them, the larger of two; none is infinite."""
    bits = int(np.float32(variance).view(np.uint32)) if variance else 0
    return min(floor(Fraction(bits, 1 << VARIANCE_BITS) + Fraction(1, 2)), LAST_PLACE)


def slow_values(layout: Layout, group: Group, points: Points, origin: Sequence[float] | None) -> list[float]:
    """The values of points, one after the other."""
    found, before = [], [0.0] * points.numbers.size if origin is None else origin
    for (start, stop), exponent in zip(edges(layout, group), points.exponents.tolist(), strict=True):
        for i in range(start, stop):
            number = int(points.numbers[i])
            if group is Group.VARIANCE:
                bits = number + place(before[i]) << VARIANCE_BITS
                found.append(float(np.uint32(bits).view(np.float32)))
            else:
                found.append(nearest(Fraction(before[i]) + number * Fraction(2) ** exponent))
    return found


@st.composite
def origins(draw: st.DrawFn, layout: Layout) -> F32 | None:
    """What numbers count from: 0, or starting weights."""
    if draw(st.booleans()):
        return None
    count = layout.size
    found = np.array(draw(st.lists(floats, min_size=count, max_size=count)), np.float32)
    where = layout.span(Group.VARIANCE)
    found[where] = np.abs(found[where])
    return found


@st.composite
def models(draw: st.DrawFn, layout: Layout, number: int, origin: F32 | None, near: PublicModel | None = None) -> object:
    """A public model; its steps near to those of another one, where that is given."""
    parts = {}
    for group in groups_of(layout):
        where = layout.span(group)
        count, tensors = where.stop - where.start, len(edges(layout, group))
        if group is Group.VARIANCE:
            first = [0] * count if origin is None else places_of(origin[where]).tolist()
            drawn = [draw(st.integers(0, LAST_PLACE)) - place for place in first]
            exponents = [VARIANCE_BITS] * tensors
        else:
            drawn = draw(st.lists(numbers, min_size=count, max_size=count))
            if near is None:
                exponents = draw(st.lists(steps, min_size=tensors, max_size=tensors))
            else:
                by = draw(st.lists(st.integers(-5, 5), min_size=tensors, max_size=tensors))
                before = near.parts[group].exponents.tolist()
                exponents = [min(max(e + b, LEAST_STEP), LARGEST_STEP) for e, b in zip(before, by, strict=True)]
        parts[group] = Points(np.array(exponents, np.int8), np.array(drawn, np.int32))
    return PublicModel(layout, number, parts, origin)


def model_of(number: int, origin: F32 | None = None, *, seed: int = 0, exponent: int = -6) -> PublicModel:
    """A public model of `LAYOUT` by a seed."""
    rng, parts = np.random.default_rng(seed), {}
    for group in groups_of(LAYOUT):
        count, tensors = sum(LAYOUT.sizes(group)), len(edges(LAYOUT, group))
        variance = group is Group.VARIANCE
        drawn = rng.integers(0, 9, count) if variance else rng.integers(-9, 9, count)
        exponents = np.full(tensors, VARIANCE_BITS if variance else exponent, np.int8)
        parts[group] = Points(exponents, drawn.astype(np.int32))
    return PublicModel(LAYOUT, number, parts, origin)


def framed(model: PublicModel, base: PublicModel | None = None, kind: Kind = Kind.BROADCAST, run: bytes = RUN) -> Frame:
    """The frame of a public model, as a receiver has it."""
    frame = Frame(kind, 1, 1, 7, model.layout.digest, 0, public_sections(model, run, base))
    return Frame.from_bytes(frame.to_bytes())
