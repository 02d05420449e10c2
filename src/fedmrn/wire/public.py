"""The public model: what every client of a run holds of it, to the byte, and the sections that it travels in.

A section holds the numbers of a group on the grid (`fedmrn.wire.grid`): all of them, or their differences to those of a
public model that the client holds. Both lead to the same values, and a digest proves it.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import BoundError, LostModelError, MalformedFrameError, WrongStartError
from fedmrn.wire.frame import Frame, Role, Section
from fedmrn.wire.grid import LARGEST_NUMBER, Points, check_numbers, from_body, re_expressed, to_body, to_values
from fedmrn.wire.layout import Group, Layout

GRID = 15
"""The codec's id in a section of a public model."""
_TAG_SIZE = _DIGEST_SIZE = 8
_PARAMS = struct.Struct("<BII8s8s8s")
_DIFFERENCE, _FROM_START = 1, 2  # flags
_NO_DIGEST = bytes(_DIGEST_SIZE)
F32 = NDArray[np.float32]


def _digest_of(values: F32) -> bytes:
    """Return 8 bytes of BLAKE2b over float32 values."""
    data = np.ascontiguousarray(values, "<f4").data.cast("B")
    return blake2b(data, digest_size=_DIGEST_SIZE, person=b"fedmrn-public").digest()


def tag_of(run: bytes) -> bytes:
    """Return the 8 bytes that name a run to its clients, and say no more of its id."""
    return blake2b(run, digest_size=_TAG_SIZE, person=b"fedmrn-run-tag").digest()


def groups_of(layout: Layout) -> list[Group]:
    """Return the groups that have elements."""
    return [group for group in Group if layout.sizes(group)]


@dataclass(frozen=True, eq=False)
class PublicModel:
    """A model on the grid.

    Attributes:
        layout: of the model.
        number: which public model of the run it is, from 0.
        parts: the points of each group that has elements.
        origin: what numbers count from, float32, shape (layout.size,): the weights that the run started with; None: 0.
    """

    layout: Layout
    number: int
    parts: Mapping[Group, Points]
    origin: F32 | None

    @cached_property
    def values(self) -> F32:
        """The model, float32, shape (layout.size,), read-only.

        Raises:
            BoundError: a value is beyond float32, or a variance is negative.
        """
        found = np.empty(self.layout.size, np.float32)
        for group, points in self.parts.items():
            where = self.layout.span(group)
            origin = None if self.origin is None else self.origin[where]
            found[where] = to_values(self.layout, group, points, origin)
        found.flags.writeable = False
        return found

    @cached_property
    def bodies(self) -> dict[Group, bytes]:
        """The whole model as bytes, by group."""
        return {group: to_body(self.layout, group, points) for group, points in self.parts.items()}

    @cached_property
    def digests(self) -> dict[Group, bytes]:
        """The digest of each group's values."""
        return {group: _digest_of(self.values[self.layout.span(group)]) for group in self.parts}

    @cached_property
    def starts(self) -> dict[Group, bytes | None]:
        """The digest of each group's starting weights; None where numbers count from 0."""
        origin = self.origin
        return {g: None if origin is None else _digest_of(origin[self.layout.span(g)]) for g in self.parts}

    def differences(self, base: "PublicModel") -> dict[Group, bytes]:
        """Return what changed since an earlier public model as bytes, by group.

        Raises:
            BoundError: the earlier one cannot be expressed in this one's steps.
        """
        found = {}
        for group, points in self.parts.items():
            before = re_expressed(self.layout, group, base.parts[group], points.exponents)
            found[group] = to_body(self.layout, group, Points(points.exponents, points.numbers - before))
        return found


@dataclass(frozen=True, slots=True)
class Heading:
    """What a section's parameters say.

    Attributes:
        number: of the public model that it leads to.
        base: of the one that it is the difference to; None where it is whole.
        run: 8 bytes that name the run.
        start: the digest of the starting weights that numbers count from; None where they count from 0.
        digest: of the values that it leads to.
    """

    number: int
    base: int | None
    run: bytes
    start: bytes | None
    digest: bytes

    def to_params(self) -> bytes:
        """Return the parameters."""
        flags = (_DIFFERENCE if self.base is not None else 0) | (_FROM_START if self.start is not None else 0)
        return _PARAMS.pack(flags, self.number, self.base or 0, self.run, self.start or _NO_DIGEST, self.digest)

    @classmethod
    def of(cls, section: Section) -> "Heading":
        """Read a section's parameters.

        Raises:
            MalformedFrameError: they are not those of a public model.
        """
        if len(section.params) != _PARAMS.size:
            raise MalformedFrameError(f"a public model has {_PARAMS.size} bytes of parameters")
        flags, number, base, run, start, digest = _PARAMS.unpack(section.params)
        differs, starts = flags & _DIFFERENCE, flags & _FROM_START
        if flags > _DIFFERENCE | _FROM_START or (base and not differs) or (start != _NO_DIGEST and not starts):
            raise MalformedFrameError("parameters of a public model contradict each other")
        return cls(number, base if differs else None, run, start if starts else None, digest)


def public_sections(model: PublicModel, run: bytes, base: PublicModel | None = None) -> tuple[Section, ...]:
    """Return the sections that carry a public model: whole, or as differences to one that the client holds.

    Args:
        model: what the client is to hold.
        run: 8 bytes that name the run.
        base: what it holds.

    Raises:
        BoundError: as `PublicModel.differences`.
    """
    layout, sections = model.layout, []
    bodies = model.bodies if base is None else model.differences(base)
    for group, body in bodies.items():
        where = layout.span(group)
        number = None if base is None else base.number
        heading = Heading(model.number, number, run, model.starts[group], model.digests[group])
        count = where.stop - where.start
        sections.append(Section(GRID, Role.STATE, group, count, heading.to_params(), body))
    return tuple(sections)


def state_section(frame: Frame, layout: Layout, group: Group) -> Section:
    """Return the section of a frame that holds a group's state, in whatever codec.

    Raises:
        MalformedFrameError: there is none, or it is of another number of elements than the layout's.
    """
    section, where = frame.select(Role.STATE, group), layout.span(group)
    if section is None or section.count != where.stop - where.start:
        raise MalformedFrameError(f"the {frame.kind.name.lower()} lacks the state of group {group.name.lower()}")
    return section


def is_public(frame: Frame) -> bool:
    """Whether a frame's state is a public model."""
    return any(s.role is Role.STATE and s.codec == GRID for s in frame.sections)


def run_tag(frame: Frame) -> bytes:
    """Return the 8 bytes that name the run of a frame's public model.

    Raises:
        MalformedFrameError: its parameters are not those of a public model.
    """
    return Heading.of(next(s for s in frame.sections if s.role is Role.STATE and s.codec == GRID)).run


def read_public(
    frame: Frame,
    layout: Layout,
    known: Callable[[bytes, int, Layout], Mapping[Group, Points]],
    starts: Callable[[], Iterable[F32]],
) -> tuple[PublicModel, Heading]:
    """Return the public model that a frame leads to, and what its sections say of it.

    Args:
        frame: of kind broadcast or model, made for this layout.
        layout: of the model.
        known: (run, number, layout) -> the points of the public model that the client holds; raises LostModelError
            where it holds none.
        starts: returns the weights that the run may have started with, as far as this client knows, float32, shape
            (layout.size,) each; it is called where the server counts from those.

    Raises:
        LostModelError: it is a difference to what this client does not hold, or not as the server does.
        WrongStartError: it counts from other starting weights than these.
        BoundError: a step, a number or a value out of range, whatever this client holds.
        MalformedFrameError: a section is missing, whole beside a difference, or does not decode.
    """
    sections, headings = dict[Group, Section](), list[Heading]()
    for group in groups_of(layout):
        section = state_section(frame, layout, group)
        if section.codec != GRID:
            raise MalformedFrameError(
                f"group {group.name.lower()} is not of a public model, as others of the frame are"
            )
        sections[group] = section
        headings.append(Heading.of(section))
    if not headings:
        raise MalformedFrameError("a public model has no group")
    first = headings[0]
    if any((h.number, h.base, h.run, h.start is None) != _key(first) for h in headings):
        raise MalformedFrameError("the groups are not of one public model")
    origin = _origin(layout, headings, starts()) if first.start is not None else None
    base = None if first.base is None else known(first.run, first.base, layout)
    parts = {group: _points(layout, group, section, base) for group, section in sections.items()}
    model = PublicModel(layout, first.number, parts, origin)
    _check_digests(model, headings)
    return model, first


def _key(heading: Heading) -> tuple[int, int | None, bytes, bool]:
    return heading.number, heading.base, heading.run, heading.start is None


def _origin(layout: Layout, headings: list[Heading], starts: Iterable[F32]) -> F32:
    wrong = None
    for start in starts:
        differing = [
            group
            for group, heading in zip(groups_of(layout), headings, strict=True)
            if _digest_of(start[layout.span(group)]) != heading.start
        ]
        if not differing:
            return start
        wrong = wrong or differing[0].name.lower()
    if wrong is None:
        raise WrongStartError("the server counts from the run's starting weights, and no model was given that has them")
    raise WrongStartError(
        "the server's public model counts from the weights that its run started with, and this client's model "
        f"starts with others (group {wrong}): build it as the server does, from the same seed or pretrained weights, "
        'or let the server count from zero (down="grid")'
    )


def _points(layout: Layout, group: Group, section: Section, base: Mapping[Group, Points] | None) -> Points:
    points = from_body(layout, group, section.body)
    if base is None:
        check_numbers(points.numbers)
        return points
    check_numbers(points.numbers, 2 * LARGEST_NUMBER)  # no two models differ by more
    try:
        before = re_expressed(layout, group, base[group], points.exponents)
        points = Points(points.exponents, before + points.numbers)
        check_numbers(points.numbers)
    except BoundError as error:  # the server would not send that of what it holds itself
        raise _lost(Heading.of(section).base) from error
    return points


def _lost(base: int | None) -> LostModelError:
    return LostModelError(
        f"public model {base} of this client is not the server's: the server is to send the whole model"
    )


def _check_digests(model: PublicModel, headings: list[Heading]) -> None:
    base = headings[0].base
    try:
        same = all(digest == h.digest for digest, h in zip(model.digests.values(), headings, strict=True))
    except BoundError as error:
        if base is None:
            raise
        raise _lost(base) from error
    if not same and base is not None:
        raise _lost(base)
    if not same:
        raise MalformedFrameError("a public model's values are not those of its digest")
