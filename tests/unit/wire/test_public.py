"""Public models on the wire: whole or as a difference, the same bytes of values; whatever else comes is refused."""

import contextlib
import struct
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from hashlib import blake2b
from math import floor

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from public_models import F32, LAYOUT, LEAN, RUN, framed, model_of, models, origins

from allocated import allocated
from fedmrn.codecs import Raw
from fedmrn.errors import BoundError, FrameError, LostModelError, MalformedFrameError, WrongStartError
from fedmrn.numerics.integers import encode_integers
from fedmrn.wire.frame import Frame, Kind, Role, Section
from fedmrn.wire.grid import LARGEST_NUMBER, Points, runs, to_body
from fedmrn.wire.held import Held
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import read_model, read_state
from fedmrn.wire.public import (
    GRID,
    Heading,
    PublicModel,
    groups_of,
    is_public,
    public_sections,
    run_tag,
    tag_of,
)

START = np.random.Generator(np.random.Philox(1)).random(LAYOUT.size).astype(np.float32)
"""Numbers above 0, so that they are variances too."""


def holding(model: PublicModel) -> Held:
    """A client that was sent a whole public model."""
    held = Held(model.layout, model.origin)
    assert read_state(framed(model), model.layout, held).tobytes() == model.values.tobytes()
    return held


def expressible(base: PublicModel, model: PublicModel) -> bool:
    """Whether every number of one model is within the limit in the steps of another, by fractions."""
    for group, part in base.parts.items():
        steps = zip(part.exponents.tolist(), model.parts[group].exponents.tolist(), strict=True)
        sizes = [size for size in base.layout.sizes(group) if size]
        ratio = np.repeat(np.array([Fraction(2) ** (a - b) for a, b in steps], object), sizes)
        if group is not Group.VARIANCE and any(
            abs(floor(int(n) * r + Fraction(1, 2))) > LARGEST_NUMBER for n, r in zip(part.numbers, ratio, strict=True)
        ):
            return False
    return True


@settings(deadline=None)
@given(st.data())
def test_a_whole_model_leads_to_its_values(data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from([LAYOUT, LEAN]))
    origin = data.draw(origins(layout))
    model = data.draw(models(layout, data.draw(st.integers(0, 2**32 - 1)), origin))
    assert isinstance(model, PublicModel)
    held = Held()
    frame = framed(model)
    assert is_public(frame)
    assert run_tag(frame) == RUN
    found = read_state(frame, layout, held, None if origin is None else lambda: origin)
    assert found.tobytes() == model.values.tobytes()
    assert held.numbers == (model.number,)
    assert read_model(framed(model, kind=Kind.MODEL), layout, held).tobytes() == found.tobytes()


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_difference_leads_to_the_same_values(data: st.DataObject) -> None:
    """Of any pair of models, in finer and in coarser steps; or the server is told that there is none."""
    layout = data.draw(st.sampled_from([LAYOUT, LEAN]))
    origin = data.draw(origins(layout))
    base = data.draw(models(layout, 4, origin))
    assert isinstance(base, PublicModel)
    near = data.draw(st.sampled_from([base, base, None]))
    model = data.draw(models(layout, 9, origin, near))
    assert isinstance(model, PublicModel)
    if not expressible(base, model):
        with pytest.raises(BoundError):
            public_sections(model, RUN, base)
        return
    held = Held.from_bytes(holding(base).to_bytes(), layout, origin)
    found = read_state(framed(model, base), layout, held)
    assert found.tobytes() == model.values.tobytes()
    assert held.numbers == (4, 9)
    for group, points in held.find(RUN, 9, layout).items():
        assert points.numbers.tolist() == model.parts[group].numbers.tolist()
    assert read_state(framed(model), layout, Held(layout, origin)).tobytes() == found.tobytes()


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_difference_to_a_server_that_was_set_back_is_lost(data: st.DataObject) -> None:
    """It made another model of the same number: no difference is read as anything but the server's values."""
    origin = data.draw(origins(LAYOUT))
    held_base = data.draw(models(LAYOUT, 4, origin))
    assert isinstance(held_base, PublicModel)
    base = data.draw(models(LAYOUT, 4, origin, data.draw(st.sampled_from([None, held_base]))))
    model = data.draw(models(LAYOUT, 5, origin, base))
    assert isinstance(base, PublicModel)
    assert isinstance(model, PublicModel)
    assume(expressible(base, model))
    held = holding(held_base)
    before = held.to_bytes()
    try:
        found = read_state(framed(model, base), LAYOUT, held)
    except LostModelError:
        assert held.to_bytes() == before
        return
    assert found.tobytes() == model.values.tobytes()


def test_a_model_is_its_own_base() -> None:
    model = model_of(3, seed=1)
    held = holding(model)
    frame = framed(model, model)
    assert read_state(frame, LAYOUT, held).tobytes() == model.values.tobytes()
    assert held.numbers == (3,)
    assert all(s.size < w.size for s, w in zip(frame.sections, framed(model).sections, strict=True) if s.count > 9)


def test_what_does_not_change_costs_a_few_bytes() -> None:
    layout = Layout.of([TensorSpec("w", (50_000,), Group.CODED)])
    numbers = np.random.default_rng(1).integers(-9, 9, 50_000).astype(np.int32)
    model = PublicModel(layout, 3, {Group.CODED: Points(np.array([-9], np.int8), numbers)}, None)
    assert len(framed(model, model).sections[0].body) < 32


def test_digests_and_tags() -> None:
    """By the one-line definitions of the wire document."""
    values = struct.pack("<3f", 1, -2, 0.5)
    layout = Layout.of([TensorSpec("w", (3,), Group.CODED)])
    points = Points(np.array([-1], np.int8), np.array([2, -4, 1], np.int32))
    found = PublicModel(layout, 0, {Group.CODED: points}, None).digests[Group.CODED]
    assert found == blake2b(values, digest_size=8, person=b"fedmrn-public").digest()
    assert tag_of(b"run") == blake2b(b"run", digest_size=8, person=b"fedmrn-run-tag").digest()
    assert groups_of(LEAN) == [Group.CODED]


@given(
    st.integers(0, 2**32 - 1),
    st.none() | st.integers(0, 2**32 - 1),
    st.none() | st.binary(min_size=8, max_size=8),
    st.binary(min_size=8, max_size=8),
)
def test_headings_come_back(number: int, base: int | None, start: bytes | None, digest: bytes) -> None:
    heading = Heading(number, base, RUN, start, digest)
    assert Heading.of(Section(GRID, Role.STATE, Group.CODED, 1, heading.to_params())) == heading


@given(st.binary(max_size=80) | st.binary(min_size=33, max_size=33))
def test_parameters_are_refused_or_written_alike(params: bytes) -> None:
    try:
        heading = Heading.of(Section(GRID, Role.STATE, Group.CODED, 1, params))
    except MalformedFrameError:
        return
    assert heading.to_params() == params


# --- what is refused --------------------------------------------------------------------------------------------------

BASE, NEXT = model_of(1, START, seed=1), model_of(2, START, seed=2, exponent=-7)
Change = Callable[[Section], Section]


def params_of(section: Section, **changes: object) -> Section:
    return replace(section, params=replace(Heading.of(section), **changes).to_params())


def changed(frame: Frame, change: Change, groups: tuple[Group, ...] = tuple(Group)) -> Frame:
    sections = tuple(change(s) if s.group in groups else s for s in frame.sections)
    return replace(frame, sections=sections)


def refused(frame: Frame, held: Held, error: type[FrameError], words: str, start: F32 | None = None) -> None:
    """Refuse a frame, as a broadcast and as a model: what is held stays, and little is allocated."""
    before, known = held.to_bytes(), held.numbers
    data = frame.to_bytes()

    def read() -> None:
        with pytest.raises(error, match=words) as caught:
            read_state(Frame.from_bytes(data), LAYOUT, held, None if start is None else lambda: start)
        assert type(caught.value) is error

    assert allocated(read) < 1 << 17
    with pytest.raises(error, match=words):
        read_model(replace(frame, kind=Kind.MODEL), LAYOUT, held, None if start is None else lambda: start)
    assert (held.to_bytes(), held.numbers) == (before, known)


def body_of(group: Group, steps: list[int], numbers: list[int]) -> bytes:
    sizes = runs(LAYOUT.sizes(group))
    return np.array(steps, np.int8).tobytes() + encode_integers(np.array(numbers, np.int32), sizes)


def dense(numbers: list[int], step: int = -6) -> Change:
    """The dense group's section with other numbers."""
    return lambda s: replace(s, body=body_of(Group.DENSE, [step], numbers)) if s.group is Group.DENSE else s


@pytest.mark.parametrize(
    ("change", "groups", "words"),
    [
        (lambda s: replace(s, count=s.count + 1), (Group.CODED,), "lacks the state of group coded"),
        (lambda s: replace(s, count=1 << 60), (Group.DENSE,), "lacks the state of group dense"),
        (lambda s: replace(s, codec=Raw.id, params=b"", body=bytes(4 * s.count)), (Group.STATS,), "group stats is not"),
        (lambda s: replace(s, codec=77), (Group.VARIANCE,), "group variance is not of a public model"),
        (lambda s: replace(s, params=b""), (Group.CODED,), "33 bytes of parameters"),
        (lambda s: replace(s, params=s.params + b"\0"), (Group.STATS,), "33 bytes of parameters"),
        (lambda s: replace(s, params=b"\4" + s.params[1:]), tuple(Group), "contradict each other"),
        (lambda s: replace(s, params=b"\xff" + s.params[1:]), tuple(Group), "contradict each other"),
        (lambda s: replace(s, params=b"\2" + s.params[1:]), tuple(Group), "contradict each other"),  # a base, yet whole
        (lambda s: replace(s, params=b"\1" + s.params[1:]), tuple(Group), "contradict each other"),  # a start, from 0
        (lambda s: params_of(s, number=3), (Group.DENSE,), "not of one public model"),
        (lambda s: params_of(s, base=None), (Group.DENSE,), "not of one public model"),
        (lambda s: params_of(s, base=0), (Group.CODED,), "not of one public model"),
        (lambda s: params_of(s, run=bytes(8)), (Group.STATS,), "not of one public model"),
        (lambda s: params_of(s, start=None), (Group.VARIANCE,), "not of one public model"),
        (lambda s: replace(s, body=b""), (Group.CODED,), "hold no steps of 2 tensors"),
        (lambda s: replace(s, body=bytes(s.body)[:-1]), (Group.CODED,), "."),
        (lambda s: replace(s, body=bytes(s.body) + b"\0"), (Group.STATS,), "."),
        (lambda s: replace(s, body=bytes(s.body) + bytes(4)), (Group.VARIANCE,), "escapes"),
    ],
)
def test_sections_that_cannot_be(change: Change, groups: tuple[Group, ...], words: str) -> None:
    refused(changed(framed(NEXT, BASE), change, groups), holding(BASE), MalformedFrameError, words)


def test_a_group_that_is_missing() -> None:
    frame = framed(NEXT, BASE)
    for left_out in range(len(frame.sections)):
        sections = frame.sections[:left_out] + frame.sections[left_out + 1 :]
        refused(replace(frame, sections=sections), holding(BASE), MalformedFrameError, "lacks the state of group")


def test_sections_of_groups_that_the_model_lacks() -> None:
    """They are no public model of it; what is read of a frame is what the layout has."""
    sections = (Section(GRID, Role.STATE, Group.DENSE, 0, Heading(1, None, RUN, None, bytes(8)).to_params()),)
    frame = Frame(Kind.BROADCAST, 1, 1, 7, LEAN.digest, 0, sections)
    with pytest.raises(MalformedFrameError, match="lacks the state of group coded"):
        read_state(frame, LEAN)
    empty = Layout(())
    with pytest.raises(MalformedFrameError, match="a public model has no group"):
        read_state(replace(frame, layout_digest=empty.digest), empty)


@pytest.mark.parametrize("step", [-81, 81, -128, 127])
def test_steps_out_of_range(step: int) -> None:
    for base in (None, BASE):
        refused(changed(framed(NEXT, base), dense([1, 2, 3], step)), holding(BASE), BoundError, "a step of a public")


@pytest.mark.parametrize("number", [LARGEST_NUMBER + 1, -LARGEST_NUMBER - 1, 2**31 - 1, -(2**31)])
def test_numbers_beyond_the_limit(number: int) -> None:
    refused(changed(framed(NEXT), dense([0, number, 0])), holding(BASE), BoundError, f"is beyond {LARGEST_NUMBER}")


@pytest.mark.parametrize("number", [2 * LARGEST_NUMBER + 1, -2 * LARGEST_NUMBER - 1, 2**31 - 1, -(2**31)])
def test_differences_that_no_two_models_have(number: int) -> None:
    """Some would wrap 32 bits."""
    frame = changed(framed(NEXT, BASE), dense([0, number, 0]))
    refused(frame, holding(BASE), BoundError, f"is beyond {2 * LARGEST_NUMBER}")


def test_a_difference_that_leaves_the_range_is_to_another_model() -> None:
    """The server would not send that of what it holds: its model of this number is another."""
    for number in (LARGEST_NUMBER + 100, -2 * LARGEST_NUMBER):
        refused(
            changed(framed(NEXT, BASE), dense([0, number, 0])), holding(BASE), LostModelError, "is not the server's"
        )
    large = replace(BASE, parts={**BASE.parts, Group.DENSE: Points(np.array([-6], np.int8), np.full(3, 1 << 23, "i4"))})
    refused(changed(framed(NEXT, BASE), dense([0, 0, 0], -9)), holding(large), LostModelError, "is not the server's")


@pytest.mark.parametrize(("number", "from_start"), [(-1, False), (16_320, False), (-16_320, True), (16_320, True)])
def test_variances_that_cannot_be(number: int, from_start: bool) -> None:
    """Negative, or infinite."""
    origin = START if from_start else None
    body = body_of(Group.VARIANCE, [17], [0, number, 1])
    model, base = model_of(2, origin), model_of(1, origin)
    change = lambda s: replace(s, body=body) if s.group is Group.VARIANCE else s  # noqa: E731
    refused(changed(framed(model), change), holding(base), BoundError, "a variance of a public model is negative")
    far = replace(base, parts={**base.parts, Group.VARIANCE: Points(np.array([17], np.int8), np.zeros(3, "i4"))})
    refused(changed(framed(model, base), change), holding(far), LostModelError, "is not the server's")


def test_values_beyond_float32() -> None:
    origin = START.copy()
    origin[LAYOUT.span(Group.DENSE)] = np.finfo(np.float32).max
    frame = changed(framed(model_of(2, origin)), dense([0, LARGEST_NUMBER, 0], 80))
    refused(frame, Held(LAYOUT, origin), BoundError, "a value of a public model is beyond float32")


def test_a_digest_that_is_not_that_of_the_values() -> None:
    for group in Group:
        wrong = lambda s: params_of(s, digest=b"whatever")  # noqa: E731
        held = holding(BASE)
        refused(changed(framed(NEXT), wrong, (group,)), held, MalformedFrameError, "not those of its digest")
        refused(changed(framed(NEXT, BASE), wrong, (group,)), held, LostModelError, "model 1 of this client is not")


def test_what_is_not_held() -> None:
    frame, words = framed(NEXT, BASE), "what changed since public model 1, and this client keeps"
    refused(frame, Held(LAYOUT, START), LostModelError, f"{words} none of this run")
    refused(frame, holding(NEXT), LostModelError, f"{words} 2 of this run")
    refused(framed(NEXT, BASE, run=b"12345678"), holding(BASE), LostModelError, f"{words} none of this run")
    with pytest.raises(LostModelError):
        read_state(frame, LAYOUT, start=lambda: START)


def test_what_is_held_of_another_model() -> None:
    """A run's tag is the server's to choose, and does not prove that tensors are the same."""
    other = Held(LEAN)
    part = Points(np.array([0], np.int8), np.arange(7, dtype=np.int32))
    lean = PublicModel(LEAN, 1, {Group.CODED: part}, None)
    read_state(framed(lean), LEAN, other)
    frame = framed(model_of(2), model_of(1))
    refused(frame, other, LostModelError, "of a model with other tensors")
    with pytest.raises(LostModelError, match="keeps 1 of a model with other tensors"):
        read_state(framed(replace(lean, number=2), lean), LEAN, holding(model_of(1)))


def test_other_starting_weights() -> None:
    for group in Group:
        other = START.copy()
        other[LAYOUT.span(group)] += 1
        words = f"starts with others .group {group.name.lower()}"
        for frame in (framed(NEXT), framed(NEXT, BASE)):
            refused(frame, Held(LAYOUT, other), WrongStartError, words)
            refused(frame, Held(LAYOUT), WrongStartError, words, other)
            refused(frame, Held(LAYOUT), WrongStartError, "no model was given")


def test_starting_weights_of_a_run_before_do_no_harm() -> None:
    """One object for two runs: where the kept ones do not do, those of the model are asked."""
    other, held = START + np.float32(1), holding(BASE)
    model = model_of(0, other)
    frame = framed(model, run=tag_of(b"another"))
    refused(frame, held, WrongStartError, "starts with others")
    assert read_state(frame, LAYOUT, held, lambda: other).tobytes() == model.values.tobytes()
    following = framed(replace(model, number=1), model, run=tag_of(b"another"))
    assert read_state(following, LAYOUT, held).tobytes() == model.values.tobytes()


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_damage_is_refused_or_leads_to_the_same_values(data: st.DataObject) -> None:
    """The digest sees to it: what is read is the model, or it is refused and what is held stays."""
    base = data.draw(st.sampled_from([None, BASE]))
    frame = framed(NEXT, base)
    sections, k = list(frame.sections), data.draw(st.integers(0, len(frame.sections) - 1))
    damaged = bytearray(sections[k].params + bytes(sections[k].body))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    params = bytes(damaged[:33])
    sections[k] = replace(sections[k], params=params, body=bytes(damaged[33:]))
    held, harmless = holding(BASE), params[25:] == sections[k].params[25:]
    before = held.to_bytes()
    with contextlib.suppress(MalformedFrameError, BoundError, LostModelError, WrongStartError):
        found = read_state(replace(frame, sections=tuple(sections)), LAYOUT, held)
        assert harmless
        assert found.tobytes() == NEXT.values.tobytes()
        return
    assert held.to_bytes() == before


def test_memory_is_the_layouts() -> None:
    """A whole million numbers in a few bytes, refused at last: what the receiver's own layout has, a few times."""
    size = 1 << 20
    layout = Layout.of([TensorSpec("w", (size,), Group.CODED)])
    part = Points(np.array([0], np.int8), np.zeros(size, np.int32))
    section = Section(
        GRID,
        Role.STATE,
        Group.CODED,
        size,
        Heading(1, None, RUN, None, bytes(8)).to_params(),
        to_body(layout, Group.CODED, part),
    )
    assert len(section.body) < 64
    data = Frame(Kind.BROADCAST, 1, 1, 7, layout.digest, 0, (section,)).to_bytes()

    def read() -> None:
        with pytest.raises(MalformedFrameError, match="digest"):
            read_state(Frame.from_bytes(data), layout, Held())

    assert allocated(read) < 20 * size
