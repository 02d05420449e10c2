"""Forged partial sums: one for each check of section 12 of the wire format, whole but for one thing."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from fedmrn import errors as e
from fedmrn.errors import FrameError
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group
from fedmrn.wire.partial import Partial, PartialForm
from fedmrn.wire.traffic import FloorTraffic
from making.damage import changed, patch, with_body, with_header, without

Forged = tuple[str, type[FrameError], str, bytes]
"""Name, error, a sentence for a person, and the bytes."""


def forged_sums(data: bytes, form: PartialForm, stranger: int) -> Iterator[Forged]:
    """Yield forgeries of an edge's partial sum.

    Args:
        data: the sum as it was made.
        form: of it.
        stranger: index of a client that is not the edge's.
    """
    frame = Frame.from_bytes(data)
    good = Partial.read(frame, form)

    def other(**fields: Any) -> bytes:
        return replace(good, **fields).frame(form).to_bytes()

    key = with_header(data, noise_key=good.key ^ 1)
    yield "method", e.WrongMethodError, "It is of another method.", with_header(data, method=frame.method + 1)
    yield "round", e.WrongRoundError, "It is of another round.", with_header(data, round=9)
    yield "model", e.WrongLayoutError, "It is of another model.", replace(frame, layout_digest=bytes(16)).to_bytes()
    yield "key", e.WrongKeyError, "It has another key than this edge's.", key
    yield from _sections(frame)
    strangers = np.array(sorted({stranger, *good.members.tolist()[1:]}))
    yield "plan", e.WrongParametersError, "It was made by another plan.", other(plan=bytes(16))
    yield "stranger", e.UnknownClientError, "One of its members answers elsewhere.", other(members=strangers)
    yield "twice", e.MalformedFrameError, "A member is in it twice.", other(members=good.members[[1, 1]])
    yield "weight", e.MalformedFrameError, "It says that it weighs more than its members.", other(weight=999)
    yield "light", e.LimitError, "A member weighs nothing.", other(weights=good.weights * [1, 0])
    if form.scales:
        yield "exponent", e.MalformedFrameError, "A scale is 2^129 at least.", other(scales=good.scales * 0 + 129)
    if good.sums:
        yield "bound", e.BoundError, "An element is larger than its members can make it.", _beyond(frame)
        yield "padding", e.PaddingError, "An unused bit is set.", _padded(frame)
    if any(s.params[0] for s in good.sums.values()):
        yield "coarse", e.MalformedFrameError, "It lacks what is finer than its units.", _coarse(frame)
    for group in good.kept:
        cut = with_body(frame, lambda body: body[:-1], group, Role.KEPT)
        yield f"kept-{group.name.lower()}", e.MalformedFrameError, "What waits is cut.", cut
    if good.tally.size:
        yield "tally", e.BoundError, "It counts more ones than there are.", other(tally=good.tally + (1 << 40))
    yield from _reports(good, form, stranger)


def _sections(frame: Frame) -> Iterator[Forged]:
    coded, where = Group.CODED, (Role.MEMBERS, Group.CODED)
    part = frame.sections[1]
    yield "sections", e.WrongParametersError, "It has no report.", without(frame, Role.REPORT, coded).to_bytes()
    version = changed(frame, *where, params=patch(0, "B", 2)).to_bytes()
    yield "version", e.UnsupportedVersionError, "It is of version 2.", version
    columns = changed(frame, *where, params=patch(17, "<I", 99)).to_bytes()
    yield "columns", e.WrongParametersError, "Its members have other columns.", columns
    crowd = changed(frame, *where, count=3).to_bytes()
    yield "crowd", e.LimitError, "It has more members than were assigned.", crowd
    codec = changed(frame, part.role, part.group, codec=part.codec + 1).to_bytes()
    yield "codec", e.WrongParametersError, "It sums another codec's values.", codec
    longer = changed(frame, part.role, part.group, count=part.count + 1).to_bytes()
    yield "longer", e.WrongParametersError, "It has another number of elements.", longer


def _reports(good: Partial, form: PartialForm, stranger: int) -> Iterator[Forged]:
    """Yield sums whose report of what came in below cannot be."""

    def other(**fields: Any) -> bytes:
        return replace(good, **fields).frame(form).to_bytes()

    frames = (FloorTraffic(frames=good.members.size + 1),)
    frame = good.frame(form)
    records = b"".join(struct.pack("<IIB", i, 1, 10) + b"LimitError" for i in (2, 0))
    unordered = changed(frame, Role.REPORT, Group.CODED, params=b"\0", count=2, body=records).to_bytes()
    never = changed(frame, Role.REPORT, Group.CODED, params=b"\0", count=1, body=struct.pack("<IIB", 0, 0, 10))
    never = changed(never, Role.REPORT, Group.CODED, body=lambda body: bytes(body) + b"LimitError")
    yield (
        "report-cut",
        e.MalformedFrameError,
        "The report is cut.",
        with_body(frame, lambda b: b[:-1], role=Role.REPORT),
    )
    yield "report-floors", e.LimitError, "255 floors lie below it.", other(floors=(FloorTraffic(),) * 255)
    yield "report-error", e.MalformedFrameError, "A refusal has no error's name.", other(refused={(0, "Error"): 1})
    yield "report-never", e.MalformedFrameError, "Something was refused no time.", never.to_bytes()
    yield "report-order", e.MalformedFrameError, "Refusals are not in order.", unordered
    refused = other(refused={(stranger, "LimitError"): 1})
    yield "report-stranger", e.MalformedFrameError, "One was refused who answers elsewhere.", refused
    yield "report-frames", e.MalformedFrameError, "More frames came than it has members.", other(floors=frames)


def _with_sum(frame: Frame, **change: Any) -> bytes:
    at = next(i for i, s in enumerate(frame.sections) if s.role is Role.SUM)
    sections = (*frame.sections[:at], replace(frame.sections[at], **change), *frame.sections[at + 1 :])
    return replace(frame, sections=sections).to_bytes()


def _beyond(frame: Frame) -> bytes:
    """One number of 63 bits among zeros, in each vector of the first sum."""
    section = next(s for s in frame.sections if s.role is Role.SUM)
    vectors = len(section.params) + sum(section.params)
    blocks = -(-section.count // 128)
    size = min(128, section.count)
    one = bytes([62, 2]) + bytes(2 * (blocks - 1)) + b"\1" + bytes((2 * size + 7) // 8 - 1)
    return _with_sum(frame, body=one * vectors)


def _padded(frame: Frame) -> bytes:
    """All vectors are zeros but for a number of one bit in the first, whose last byte has another one set."""
    section = next(s for s in frame.sections if s.role is Role.SUM)
    blocks = -(-section.count // 128)
    last = section.count - 128 * (blocks - 1)
    bits = bytearray((last + 7) // 8)
    bits[0], bits[-1] = 1, bits[-1] | 0x80
    others = bytes(2 * blocks * (len(section.params) + sum(section.params) - 1))
    return _with_sum(frame, body=bytes(2 * (blocks - 1)) + bytes([0, 1]) + bytes(bits) + others)


def _coarse(frame: Frame) -> bytes:
    """Zeros, and nothing finer, where a member's values are not known to be whole units."""
    section = next(s for s in frame.sections if s.role is Role.SUM)
    zeros = bytes(2 * -(-section.count // 128) * len(section.params))
    return _with_sum(frame, params=bytes(len(section.params)), body=zeros)
