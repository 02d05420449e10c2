"""Public models: a frame for a client that holds one already, and the bytes that such a client has put away."""

import struct
import zlib
from dataclasses import replace
from functools import cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import FrameError, LostModelError
from fedmrn.numerics import ans, integers, tables
from fedmrn.wire import grid, held, messages, public
from fedmrn.wire.frame import Frame, Kind, Role, Section
from fedmrn.wire.grid import VARIANCE_BITS, Points, edges, from_body, re_expressed
from fedmrn.wire.held import Held
from fedmrn.wire.layout import Group, Layout
from fedmrn.wire.messages import read_model, read_state
from fedmrn.wire.public import GRID, Heading, PublicModel, groups_of, public_sections, tag_of

from .base import Target, require
from .frames import LAYOUT, LEAN, reseal

F32 = NDArray[np.float32]
_MODULES = (ans, grid, held, integers, messages, public, tables)
_RUN = tag_of(b"a run that is fuzzed")
_START = np.linspace(0, 0.5, LAYOUT.size, dtype=np.float32)
_STEPS = {1: (-7, -3), 2: (-7, -3), 3: (-9, -3), 4: (-6, -2)}
"""Exponents of the coded tensors' steps, and of the others, in four public models."""


@cache
def _model(layout: Layout, number: int, from_start: bool) -> PublicModel:
    """A public model of the run, by its number; the second is the first, a little changed."""
    parts, random = {}, np.random.Generator(np.random.Philox(number))
    for group in groups_of(layout):
        count, many = sum(layout.sizes(group)), len(edges(layout, group))
        numbers = np.rint(4 * random.standard_normal(count)).astype(np.int32)
        exponent = _STEPS[number][group is not Group.CODED]
        if group is Group.VARIANCE:
            numbers, exponent = np.abs(numbers), VARIANCE_BITS
        if number == 2:
            numbers = _model(layout, 1, from_start).parts[group].numbers.copy()
            numbers[::3] += 1
        parts[group] = Points(np.full(many, exponent, np.int8), numbers)
    return PublicModel(layout, number, parts, _START[: layout.size] if from_start else None)


def _frame(
    number: int, base: int | None, from_start: bool, layout: Layout = LAYOUT, kind: Kind = Kind.BROADCAST
) -> Frame:
    before = None if base is None else _model(layout, base, from_start)
    sections = public_sections(_model(layout, number, from_start), _RUN, before)
    return Frame(kind, 2, 1, 7, layout.digest, 0, sections)


def _client(layout: Layout, from_start: bool) -> Held:
    """A client that holds public models 1 and 2."""
    found = Held(layout)
    for number, base in ((1, None), (2, 1)):
        found.keep(_model(layout, number, from_start), Heading(number, base, _RUN, None, b""))
    return found


def _digest(values: F32) -> bytes:
    return blake2b(values.astype("<f4").tobytes(), digest_size=8, person=b"fedmrn-public").digest()


def _grid_sections(frame: Frame) -> list[Section]:
    return [s for s in frame.sections if s.role is Role.STATE and s.codec == GRID]


def _check_public(data: bytes) -> None:
    layout = LEAN if data[32:48] == LEAN.digest else LAYOUT
    try:
        found = Frame.from_bytes(data)
        first = next((Heading.of(s) for s in _grid_sections(found)), None)
    except FrameError:
        return
    client = _client(layout, first is not None and first.start is not None)
    before, read = client.to_bytes(), read_model if found.kind is Kind.MODEL else read_state
    try:
        state = read(found, layout, client, lambda: _START[: layout.size])
    except FrameError:
        require(client.to_bytes() == before, "a refused frame has changed what a client keeps")
        return
    require(bool(np.isfinite(state).all()), "the values of an accepted public model are not finite")
    require(bool((state[layout.span(Group.VARIANCE)] >= 0).all()), "a variance below 0 was accepted")
    if first is None or found.kind is Kind.MODEL:
        require(client.to_bytes() == before, "what is no public model to train from was kept")
        return
    for s in (s for s in _grid_sections(found) if layout.sizes(s.group)):
        require(_digest(state[layout.span(s.group)]) == Heading.of(s).digest, "values of another digest")
    again = Held.from_bytes(client.to_bytes(), layout)
    require(again.numbers == client.numbers, "what was kept is not read again")
    origin = None if first.start is None else _START[: layout.size]
    values = PublicModel(layout, first.number, again.find(first.run, first.number, layout), origin).values
    require(values.tobytes() == state.tobytes(), "what was kept is another model")


def _signed(data: bytes, how: int) -> bytes:
    """Repair as `reseal` does; from 5 on, write the digests of the values that the sections lead to."""
    data = reseal(data, how)
    if how < 5:
        return data
    layout = LEAN if data[32:48] == LEAN.digest else LAYOUT
    try:
        frame = Frame.from_bytes(data)
        sections = tuple(_with_digest(layout, s) if s in _grid_sections(frame) else s for s in frame.sections)
        return replace(frame, sections=sections).to_bytes()
    except (FrameError, ValueError):
        return data


def _with_digest(layout: Layout, section: Section) -> Section:
    heading, points = Heading.of(section), from_body(layout, section.group, section.body)
    where = layout.span(section.group)
    origin = None if heading.start is None else _START[: layout.size][where]
    if heading.base is not None:
        base = _model(layout, min(max(heading.base, 1), 2), origin is not None).parts[section.group]
        numbers = re_expressed(layout, section.group, base, points.exponents) + points.numbers
        points = Points(points.exponents, numbers)
    digest = _digest(grid.to_values(layout, section.group, points, origin))
    return replace(section, params=replace(heading, digest=digest).to_params())


def _frames() -> list[bytes]:
    found = [
        _frame(number, base, start) for number, base in ((3, None), (2, 1), (3, 2), (4, 2)) for start in (False, True)
    ]
    found += [_frame(4, 1, True, kind=Kind.MODEL), _frame(4, None, False, LEAN), _frame(3, 1, False, LEAN)]
    return [frame.to_bytes() for frame in found]


def _check_held(data: bytes) -> None:
    client = Held.from_bytes(data, LAYOUT)
    if not client.numbers:
        require((client.run, client.to_bytes()) == (b"", b""), "nothing is kept, and yet something")
        return
    require(client.to_bytes() == data, "what is kept is written as other bytes")
    for number in client.numbers:
        try:
            points = client.find(client.run, number, LAYOUT)
        except LostModelError:
            continue
        count = sum(part.numbers.size for part in points.values())
        require(count == LAYOUT.size, "a model that is kept has another size than its layout")


def _checksum(data: bytes, how: int) -> bytes:
    return data if how == 0 or len(data) < 4 else data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def _files() -> list[bytes]:
    both = [_client(LAYOUT, start) for start in (False, True)]
    one = Held(LAYOUT)
    one.keep(_model(LAYOUT, 4, False), Heading(4, None, _RUN, None, b""))
    return [*dict.fromkeys(client.to_bytes() for client in (*both, one, _client(LEAN, False)))]


PUBLIC = Target("public", _check_public, _frames, _MODULES, memory=1 << 20, repair=_signed)
HELD = Target("held", _check_held, _files, _MODULES, memory=1 << 20, repair=_checksum)
