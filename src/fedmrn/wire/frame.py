"""Frames: the messages between server and clients, as bytes. `docs/wire-format.md` is the specification.

Each kind of frame says below who sends it to whom. Parsing looks at headers only and keeps bodies as views of the bytes
it was given: it allocates O(sections), and nothing whose size the sender chose.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from math import inf
from numbers import Real

from fedmrn.errors import (
    BadMagicError,
    ChecksumError,
    ConfigError,
    LimitError,
    MalformedFrameError,
    TrailingBytesError,
    TruncatedFrameError,
    UnsupportedVersionError,
    WrongKindError,
)
from fedmrn.whole import shown, whole
from fedmrn.wire.layout import Group
from fedmrn.wire.reader import bytes_of

_MAGIC = b"FMRN"
_VERSION = 1
_HEADER = struct.Struct("<4sBBHQIIQ16sQ")
_SECTION = struct.Struct("<BBBBQQ")
_CRC = struct.Struct("<I")
HEADER_SIZE = _HEADER.size
SECTION_SIZE = _SECTION.size
CHECKSUM_SIZE = _CRC.size
_LARGEST_LIMIT = 1 << 127  # no frame and no sum comes near it
_LARGEST_FLOAT = (2 - 2.0**-23) * 2.0**127


class Kind(IntEnum):
    """What a frame is for."""

    UPDATE = 1
    """From a client: what it learnt."""
    BROADCAST = 2
    """To a client: train, and send this back."""
    MODEL = 3
    """To a client: a model to evaluate; it asks for nothing, and nobody trains from it."""
    SAVED = 4
    """To nobody: what a server keeps in a file."""
    STATISTICS = 5
    """From a client: the running statistics of a model that it was sent, on its own samples; nothing was trained."""
    PARTIAL = 6
    """From an edge server to the one above it: the sum of its clients' updates."""
    ASSIGNMENT = 7
    """From a server to an edge server: whose updates to take, and how."""


class Role(IntEnum):
    """What a section is: of messages with clients, from MOMENTS on of a server's file, from MEMBERS on of a tree."""

    UPDATE = 0
    STATE = 1
    TEMPLATE = 2
    TERMS = 3
    MOMENTS = 4
    SERVER = 5
    START = 6
    PUBLIC = 7
    MEMBERS = 8
    KEPT = 9
    SUM = 10
    TALLY = 11
    REPORT = 12
    ASSIGNED = 13


_ROLES = {
    Kind.UPDATE: {Role.UPDATE},
    Kind.BROADCAST: {Role.STATE, Role.TEMPLATE, Role.TERMS},
    Kind.MODEL: {Role.STATE},
    Kind.SAVED: {Role.STATE, Role.MOMENTS, Role.SERVER, Role.START, Role.PUBLIC},
    Kind.STATISTICS: {Role.STATE},
    Kind.PARTIAL: {Role.MEMBERS, Role.KEPT, Role.SUM, Role.TALLY, Role.REPORT},
    Kind.ASSIGNMENT: {Role.TEMPLATE, Role.TERMS, Role.STATE, Role.ASSIGNED},
}
_WEIGHTED = {Kind.UPDATE, Kind.STATISTICS}
_BODIES = {Role.UPDATE, Role.STATE, Role.TEMPLATE, Role.MOMENTS, Role.START, Role.KEPT, Role.SUM}
"""Roles whose bodies are the model's own; those of others count as header."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a receiver accepts at most. Nothing is allocated for a frame that declares more.

    Attributes:
        max_bytes: length of a whole frame.
        max_sections: sections in a frame.
        max_weight: weight that one client may claim (samples or batches). A server counts less of it where it is far
            above what most clients have (`fedmrn.server.caps`).
        max_value: magnitude of a dense value, any positive number: values are compared with it as real numbers, so that
            0.1 refuses the float32 nearest to 0.1, which is above it.

    Raises:
        ConfigError: unless all are positive, whole numbers but for max_value, which is finite.
    """

    max_bytes: int = 1 << 32
    max_sections: int = 64
    max_weight: int = 1 << 20
    max_value: float = float(1 << 16)

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_sections", "max_weight"):
            object.__setattr__(self, name, whole(getattr(self, name), name, most=_LARGEST_LIMIT))
        if isinstance(self.max_value, bool) or not isinstance(self.max_value, Real):
            raise ConfigError(f"max_value is a positive number, got {shown(self.max_value)}")
        try:
            limit = float(self.max_value)  # numpy's numbers would round what they are compared with
        except OverflowError:  # a whole number of hundreds of digits
            limit = inf
        if not 0 < limit < inf:
            raise ConfigError(f"max_value is positive and finite, got {shown(self.max_value)}")
        object.__setattr__(self, "max_value", limit)

    @property
    def largest(self) -> float:
        """The largest magnitude that a float32 within max_value can have, and no less than the smallest above zero."""
        return min(max(self.max_value, 2.0**-149), _LARGEST_FLOAT)


DEFAULT_LIMITS = Limits()
OWN_LIMITS = Limits(max_bytes=1 << 40)
"""Of frames that nobody else made: those of a simulation, and files that a person names."""


@dataclass(frozen=True, slots=True)
class Section:
    """One codec's bytes for one tensor group: `count` elements, coded as `params` says, in `body`."""

    codec: int
    role: Role
    group: Group
    count: int
    params: bytes
    body: bytes | memoryview = b""

    @property
    def size(self) -> int:
        """Bytes of this section in a frame, header and codec parameters included."""
        return SECTION_SIZE + len(self.params) + len(self.body)

    @property
    def template(self) -> "Section":
        """The template that asks for a section like this: the same fields, without a body."""
        return Section(self.codec, Role.TEMPLATE, self.group, self.count, self.params)


@dataclass(frozen=True, slots=True)
class Frame:
    """A parsed frame, or one to be written.

    Attributes:
        kind: what it is for.
        method: id of the method (`fedmrn.methods.METHODS`).
        round: 32-bit number of the round, from 1.
        noise_key: 64-bit key of this client's noise in this round.
        layout_digest: 16 bytes, see `fedmrn.wire.layout.Layout.digest`.
        weight: the client's weight in the mean, a positive integer; of a partial sum, that of all its clients; else 0.
        sections: in the order of the wire.
    """

    kind: Kind
    method: int
    round: int
    noise_key: int
    layout_digest: bytes
    weight: int
    sections: tuple[Section, ...] = field(repr=False)

    def to_bytes(self) -> bytes:
        """Return the frame's bytes."""
        return b"".join(self.parts())

    def parts(self) -> list[bytes | memoryview]:
        """Return the frame's bytes in pieces, bodies uncopied: the header, three a section, the checksum."""
        total = HEADER_SIZE + sum(s.size for s in self.sections) + CHECKSUM_SIZE
        numbers = (self.kind, self.method, total, self.round, len(self.sections), self.noise_key)
        parts: list[bytes | memoryview] = [_HEADER.pack(_MAGIC, _VERSION, *numbers, self.layout_digest, self.weight)]
        for s in self.sections:
            head = _SECTION.pack(s.codec, s.role, s.group, len(s.params), s.count, len(s.body))
            parts += [head, s.params, s.body]
        crc = 0
        for part in parts:
            crc = zlib.crc32(part, crc)
        return [*parts, _CRC.pack(crc)]

    @classmethod
    def from_bytes(
        cls, data: bytes | memoryview, *, kind: Kind | None = None, limits: Limits = DEFAULT_LIMITS
    ) -> "Frame":
        """Parse and check a frame; bodies are views of `data`, not yet decoded.

        Args:
            data: the bytes of one frame, neither fewer nor more.
            kind: the kind expected, or None for any.
            limits: what to accept at most.

        Raises:
            FrameError: by its cause TruncatedFrameError, TrailingBytesError, BadMagicError, UnsupportedVersionError,
                ChecksumError, LimitError, MalformedFrameError or WrongKindError.
            WrongMessageError: `data` is not bytes at all.
        """
        view = bytes_of(data)
        _check_envelope(view, limits)
        _, _, kind_id, method, total, round_, n, key, digest, weight = _HEADER.unpack_from(view)
        if kind_id not in _ROLES:
            raise MalformedFrameError(f"frame kind {kind_id} does not exist")
        found = Kind(kind_id)
        if kind is not None and found is not kind:
            raise WrongKindError(f"a frame of kind {kind.name.lower()} was expected, got {found.name.lower()}")
        if n > limits.max_sections:
            raise LimitError(f"the frame declares {n} sections; at most {limits.max_sections} are accepted")
        if weight > limits.max_weight and found is not Kind.PARTIAL:
            raise LimitError(f"weight {weight} is above the cap of {limits.max_weight}")
        if (weight == 0) is (found in _WEIGHTED) and found is not Kind.PARTIAL:
            raise MalformedFrameError(f"weight {weight} is not possible in a frame of kind {found.name.lower()}")
        sections = tuple(_sections(view[HEADER_SIZE : total - CHECKSUM_SIZE], n, found))
        return cls(found, method, round_, key, digest, weight, sections)

    def account(self) -> dict[str, int]:
        """Return the bytes of this frame by part: a body for each group, header, checksum; they add up to its length.

        Section headers, codec parameters and terms count as header, and so does what a server keeps beside its state,
        and what a partial sum says beside its sums.
        """
        bodies = {g.name.lower(): 0 for g in Group}
        for s in self.sections:
            if s.role in _BODIES:
                bodies[s.group.name.lower()] += len(s.body)
        header = HEADER_SIZE + sum(s.size for s in self.sections) - sum(bodies.values())
        return {**bodies, "header": header, "checksum": CHECKSUM_SIZE}

    def select(self, role: Role, group: Group) -> Section | None:
        """Return the section of this role and group, or None."""
        return next((s for s in self.sections if s.role is role and s.group is group), None)


def _check_envelope(view: memoryview, limits: Limits) -> None:
    """Check magic, version, length and checksum: what can be checked without knowing what a frame says."""
    if len(view) < len(_MAGIC) or view[:4] != _MAGIC:
        if _MAGIC.startswith(bytes(view[:4])):
            raise TruncatedFrameError(f"{len(view)} bytes are too few for a frame")
        raise BadMagicError("these bytes are not a fedmrn frame: they do not start with FMRN")
    if len(view) < HEADER_SIZE:
        raise TruncatedFrameError(f"{len(view)} bytes are too few for a frame's header")
    _, version, _, _, total, *_ = _HEADER.unpack_from(view)
    if version != _VERSION:
        raise UnsupportedVersionError(f"frame version {version}; this library reads version {_VERSION}")
    if total > limits.max_bytes:
        raise LimitError(
            f"the frame declares {total} bytes; at most {limits.max_bytes} are accepted: a larger model needs "
            "limits=Limits(max_bytes=...)"
        )
    if len(view) < total:
        raise TruncatedFrameError(f"the frame declares {total} bytes, {len(view)} came")
    if len(view) > total:
        raise TrailingBytesError(f"{len(view) - total} bytes follow the frame")
    if total < HEADER_SIZE + CHECKSUM_SIZE:
        raise MalformedFrameError(f"the frame declares {total} bytes, fewer than its own header")
    end = total - CHECKSUM_SIZE
    if zlib.crc32(view[:end]) != _CRC.unpack_from(view, end)[0]:
        raise ChecksumError("the frame's checksum does not match: it was damaged on the way")


def _sections(view: memoryview, n: int, kind: Kind) -> Iterator[Section]:
    at, seen = 0, set()
    for i in range(n):
        if len(view) - at < SECTION_SIZE:
            raise MalformedFrameError(f"the bytes end inside the header of section {i}")
        codec, role, group, n_params, count, n_body = _SECTION.unpack_from(view, at)
        at += SECTION_SIZE
        if len(view) - at < n_params + n_body:
            raise MalformedFrameError(f"section {i} declares more bytes than the frame has left")
        if role not in _ROLES[kind] or group not in iter(Group):
            raise MalformedFrameError(f"section {i} has role {role} and group {group}, which this kind does not")
        if (role, group) in seen:
            raise MalformedFrameError(f"section {i} repeats the role and group of an earlier one")
        if role == Role.TEMPLATE and n_body:
            raise MalformedFrameError(f"section {i} is a template and has a body")
        seen.add((role, group))
        params, body = bytes(view[at : at + n_params]), view[at + n_params : at + n_params + n_body]
        yield Section(codec, Role(role), Group(group), count, params, body)
        at += n_params + n_body
    if at != len(view):
        raise MalformedFrameError(f"{len(view) - at} bytes between the last section and the checksum")
