"""Partial sums as bytes: what an edge server sends up. `docs/wire-format.md`, section 12, is the specification.

A partial sum is whole numbers: who is in it, what they claim, and the sum of their updates in the units that the round
fixes. What waits for the close of a round is not summed yet, and travels as it came. One sum has one encoding.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import (
    LimitError,
    MalformedFrameError,
    UnsupportedVersionError,
    WrongParametersError,
)
from fedmrn.numerics.packed import least_bytes, pack_numbers, unpack_numbers
from fedmrn.wire.frame import Frame, Kind, Limits, Role, Section
from fedmrn.wire.layout import Group
from fedmrn.wire.traffic import Floors, Refusals, read_report, report_section

I64 = NDArray[np.int64]
I16 = NDArray[np.int16]
Bodies = Mapping[Group, Sequence[bytes | memoryview]]
"""Of each group that waits, the body of each member's section."""
Integers = tuple[I64, I64 | None]
"""A plane's sum: whole units, and what is finer than one, where the sum has that."""

PARTIAL_LIMITS = Limits(max_bytes=1 << 48)
"""A partial sum is as long as its model is large: whoever takes it off the network bounds it."""
DIGEST_SIZE = 16
_VERSION = 1
_WORD = 4


@dataclass(frozen=True, slots=True)
class PartialForm:
    """What is known of a round's partial sums before one comes.

    Attributes:
        templates: of the round, in order.
        kept: the groups whose sections wait for the close.
        planes: how many are summed of the coded group.
        scales: exponents of scales that each member has, 0 for none.
        values: exponents of magnitudes that each member has, 0 for none.
        tally: how many numbers there are of observations.
        members: how many there are at most.
    """

    templates: tuple[Section, ...]
    kept: frozenset[Group]
    planes: int
    scales: int
    values: int
    tally: int
    members: int

    def planes_of(self, group: Group) -> int:
        """The planes that are summed of a group."""
        return self.planes if group is Group.CODED else 1

    @property
    def sections(self) -> list[tuple[Role, Group]]:
        """Role and group of all sections, in order."""
        parts = [(Role.KEPT if t.group in self.kept else Role.SUM, t.group) for t in self.templates]
        tally = [(Role.TALLY, Group.CODED)] if self.tally else []
        return [(Role.MEMBERS, Group.CODED), *parts, *tally, (Role.REPORT, Group.CODED)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """A partial sum.

    Attributes:
        method, round, layout_digest: as in each frame of the round.
        key: of the edge in this round, 64 bits.
        plan: 16 bytes, the digest of what the round's sums agree on.
        weight: that of its members, each up to the round's cap.
        members: their indices in the round's list of clients, increasing, int64, shape (n,).
        weights: what they claim, int64, shape (n,).
        scales: exponents of the scales that fit their updates, int16, shape (n, coded tensors); (n, 0) for none.
        values: exponents of the magnitudes of their side data, int16, shape (n, side tensors); (n, 0) for none.
        kept: what waits for the close.
        sums: the other groups' sections, to be read by `read_sums`.
        tally: sums of observations, int64.
        floors, refused: what came in below this node.
    """

    method: int
    round: int
    layout_digest: bytes
    key: int
    plan: bytes
    weight: int
    members: I64
    weights: I64
    scales: I16
    values: I16
    kept: Bodies = field(repr=False)
    sums: Mapping[Group, Section] = field(repr=False)
    tally: I64 = field(repr=False)
    floors: Floors = ()
    refused: Refusals = field(default_factory=dict)

    def frame(self, form: PartialForm) -> Frame:
        """Return it as a frame."""
        gaps = np.diff(self.members, prepend=-1) - 1
        columns = (gaps, self.weights, *(m.T.ravel().astype(np.int64) for m in (self.scales, self.values)))
        head = bytes([_VERSION]) + self.plan + _words(form.scales, form.values)
        body = b"".join(pack_numbers(column) for column in columns)
        sections = [Section(0, Role.MEMBERS, Group.CODED, self.members.size, head, body)]
        for t in form.templates:
            if t.group in form.kept:
                bodies = self.kept[t.group]
                lengths = pack_numbers(np.array([len(b) for b in bodies], np.int64))
                sections.append(Section(t.codec, Role.KEPT, t.group, t.count, t.params, b"".join([lengths, *bodies])))
            else:
                sections.append(self.sums[t.group])
        if form.tally:
            sections.append(Section(0, Role.TALLY, Group.CODED, form.tally, b"", pack_numbers(self.tally)))
        sections.append(report_section(self.floors, self.refused))
        return Frame(Kind.PARTIAL, self.method, self.round, self.key, self.layout_digest, self.weight, tuple(sections))

    @classmethod
    def read(cls, frame: Frame, form: PartialForm) -> "Partial":
        """Return what a frame of kind PARTIAL holds; its sums are not decoded yet.

        Raises:
            WrongParametersError: its sections are not those of the round.
            UnsupportedVersionError: it is of another version.
            LimitError: it has more members than can be, or more floors below it.
            MalformedFrameError, PaddingError: numbers are cut, beyond their range, or not written as they must be.
        """
        if [(s.role, s.group) for s in frame.sections] != form.sections:
            raise WrongParametersError("the sections are not those of a partial sum of this round")
        members, *parts, report = frame.sections
        tally = parts.pop() if form.tally else None
        plan = _plan_of(members, form)
        indices, weights, scales, values = _members(members, form)
        kept, sums = dict[Group, list[memoryview]](), dict[Group, Section]()
        for t, s in zip(form.templates, parts, strict=True):
            if (s.codec, s.count) != (t.codec, t.count) or (s.role is Role.KEPT and s.params != t.params):
                raise WrongParametersError(f"a sum of group {t.group.name.lower()} is of another codec or length")
            if s.role is Role.KEPT:
                kept[t.group] = _kept(s, members.count)
            else:
                _check_sums(s, form.planes_of(t.group))
                sums[t.group] = s
        if tally is not None and (tally.codec, tally.params, tally.count) != (0, b"", form.tally):
            raise WrongParametersError("the observations are not those of the round's codec")
        floors, refused = read_report(report)
        return cls(
            method=frame.method,
            round=frame.round,
            layout_digest=frame.layout_digest,
            key=frame.noise_key,
            plan=plan,
            weight=frame.weight,
            members=indices,
            weights=weights,
            scales=scales,
            values=values,
            kept=kept,
            sums=sums,
            tally=_all(memoryview(tally.body), form.tally) if tally else np.zeros(0, np.int64),
            floors=floors,
            refused=refused,
        )


def sum_section(template: Section, planes: Sequence[Integers]) -> Section:
    """Return the sum of a group as a section.

    Args:
        template: of the group.
        planes: of each plane its sum.
    """
    parts = [part for pair in planes for part in pair if part is not None]
    fine = bytes(rest is not None for _, rest in planes)
    body = b"".join(pack_numbers(part) for part in parts)
    return Section(template.codec, Role.SUM, template.group, template.count, fine, body)


def read_sums(section: Section, planes: Sequence[I64]) -> list[I64 | None]:
    """Write the whole units of a sum to `planes`, and return what is finer, where the sum has that.

    Args:
        section: of role SUM.
        planes: int64, a vector of the group's size for each plane.

    Raises:
        MalformedFrameError: another number of planes, or numbers that are cut or not written as they must be.
        PaddingError: unused bits are not zero.
    """
    _check_sums(section, len(planes))
    view, found = memoryview(section.body), list[I64 | None]()
    for out, fine in zip(planes, section.params, strict=True):
        view = view[unpack_numbers(view, out) :]
        rest = np.empty(out.size, np.int64) if fine else None
        if rest is not None:
            view = view[unpack_numbers(view, rest) :]
        found.append(rest)
    _check_end(view)
    return found


def _check_sums(section: Section, planes: int) -> None:
    """Refuse a sum of other planes, or with too few bytes for any vector: before there is memory for one."""
    if len(section.params) != planes or not set(section.params) <= {0, 1}:
        raise MalformedFrameError(f"a sum of {planes} planes has a byte for each, 0 or 1")
    least = least_bytes(section.count)
    if len(section.body) < least:
        raise MalformedFrameError(f"the sum of {section.count} elements is {least} bytes at least: it is cut")


def _words(*numbers: int) -> bytes:
    return b"".join(n.to_bytes(_WORD, "little") for n in numbers)


def _plan_of(section: Section, form: PartialForm) -> bytes:
    params = section.params
    if section.codec or not params:
        raise MalformedFrameError("the members of a partial sum have codec 0 and a version")
    if params[0] != _VERSION:
        raise UnsupportedVersionError(f"a partial sum of version {params[0]}; this library reads version {_VERSION}")
    if params[1 + DIGEST_SIZE :] != _words(form.scales, form.values):
        raise WrongParametersError("its members have other columns than those of this round")
    return params[1 : 1 + DIGEST_SIZE]


def _members(section: Section, form: PartialForm) -> tuple[I64, I64, I16, I16]:
    """Return the columns of the members; memory is taken for as many as there can be."""
    n = section.count
    if n > form.members:
        raise LimitError(f"a partial sum of {n} members came from an edge of {form.members}")
    view, found = memoryview(section.body), list[I64]()
    for size in (n, n, n * form.scales, n * form.values):
        found.append(np.empty(size, np.int64))
        view = view[unpack_numbers(view, found[-1]) :]
    _check_end(view)
    gaps, weights, scales, values = found
    if n and not 0 <= gaps.min() <= gaps.max() < 1 << 32:
        raise MalformedFrameError("the members of a partial sum are not in increasing order")
    if any(e.size and not -(1 << 15) <= e.min() <= e.max() <= 128 for e in (scales, values)):
        raise MalformedFrameError("a member of a partial sum has an exponent that no float32 has")
    rows = [e.astype(np.int16).reshape(k, n).T for e, k in ((scales, form.scales), (values, form.values))]
    return np.cumsum(gaps + 1) - 1, weights, rows[0], rows[1]


def _kept(section: Section, members: int) -> list[memoryview]:
    view, lengths = memoryview(section.body), np.empty(members, np.int64)
    view = view[unpack_numbers(view, lengths) :]
    if members and not 0 <= lengths.min() <= lengths.max() <= len(view):
        raise MalformedFrameError("the sections that a partial sum keeps are cut")
    return [*_cut(view, lengths.tolist())]


def _cut(view: memoryview, lengths: Sequence[int]) -> Iterator[memoryview]:
    for length in lengths:
        if length > len(view):
            raise MalformedFrameError("the sections that a partial sum keeps are cut")
        yield view[:length]
        view = view[length:]
    _check_end(view)


def _all(view: memoryview, count: int) -> I64:
    numbers = np.empty(count, np.int64)
    _check_end(view[unpack_numbers(view, numbers) :])
    return numbers


def _check_end(view: memoryview) -> None:
    if len(view):
        raise MalformedFrameError(f"{len(view)} bytes follow the numbers of a partial sum")
