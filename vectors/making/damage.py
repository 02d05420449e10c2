"""Frames that are damaged on purpose: a field, a section, a body at a time."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace

from fedmrn.wire.frame import Frame, Role, Section
from fedmrn.wire.layout import Group

Change = Callable[[bytes], bytes]
HEADER = {"version": (4, "B"), "kind": (5, "B"), "method": (6, "<H"), "total": (8, "<Q"), "round": (16, "<I")}
HEADER |= {"sections": (20, "<I"), "noise_key": (24, "<Q"), "weight": (48, "<Q")}
"""Fields of the header: their offsets and forms."""


def sealed(data: bytes, *, total: bool = True) -> bytes:
    """Return a frame's bytes, of which the last four do not count, with the right checksum and total."""
    body = bytearray(data[:-4])
    if total:
        struct.pack_into("<Q", body, 8, len(data))
    return bytes(body) + struct.pack("<I", zlib.crc32(body))


def with_header(data: bytes, **fields: int) -> bytes:
    """Return a frame with other fields of its header, and the right checksum."""
    changed = bytearray(data)
    for name, value in fields.items():
        at, form = HEADER[name]
        struct.pack_into(form, changed, at, value)
    return sealed(bytes(changed), total=False)


def patched(data: bytes, at: int, form: str, *values: float) -> bytes:
    """Return bytes of which some are others: `values` at an offset, from the end if it is below 0."""
    changed = bytearray(data)
    struct.pack_into(form, changed, at % len(data), *values)
    return bytes(changed)


def patch(at: int, form: str, *values: float) -> Change:
    """Return the change that `patched` makes."""
    return lambda data: patched(data, at, form, *values)


def changed(frame: Frame, role: Role, group: Group, /, **fields: object) -> Frame:
    """Return a frame of which one section has other fields; a function takes the old value.

    Raises:
        ValueError: it has no such section.
    """
    found = frame.select(role, group)
    if found is None:
        raise ValueError(f"no {role.name} of {group.name}")
    given = {name: value(getattr(found, name)) if callable(value) else value for name, value in fields.items()}
    other = replace(found, **given)  # type: ignore[arg-type]
    return replace(frame, sections=tuple(other if s is found else s for s in frame.sections))


def with_body(frame: Frame, change: Change, group: Group = Group.CODED, role: Role = Role.UPDATE) -> bytes:
    """Return the bytes of a frame of which one body is another."""
    return changed(frame, role, group, body=lambda body: change(bytes(body))).to_bytes()


def without(frame: Frame, role: Role, group: Group) -> Frame:
    """Return the frame without a section."""
    return replace(frame, sections=tuple(s for s in frame.sections if (s.role, s.group) != (role, group)))


def with_sections(frame: Frame, *more: Section) -> Frame:
    """Return the frame with further sections at its end."""
    return replace(frame, sections=frame.sections + more)


def terms(*records: tuple[int, bytes], version: int = 1, count: int | None = None, cut: int = 0) -> Section:
    """Return a section of terms with these records, true or not."""
    body = b"".join(struct.pack("<HI", tag, len(value)) + value for tag, value in records)
    body = body[: len(body) - cut]
    return Section(0, Role.TERMS, Group.CODED, len(records) if count is None else count, bytes([version]), body)
