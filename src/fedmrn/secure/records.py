"""The records of secure aggregation as bytes: one header, then items of one size; each record has one encoding.

A record is 4 bytes "FMSS", u8 version, u8 kind, u16 index of the client, u32 round, 16 bytes of the session, u32 number
of items, and the items; all little-endian. The kind says how long an item is, so that a length is checked before
anything is made of it.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType

from fedmrn.errors import (
    BadMagicError,
    LimitError,
    MalformedFrameError,
    TrailingBytesError,
    TruncatedFrameError,
    UnsupportedVersionError,
    WrongKindError,
    WrongMessageError,
)

_HEAD = struct.Struct("<4sBBHI16sI")
_MAGIC, _VERSION = b"FMSS", 1
HEAD_SIZE = _HEAD.size
SESSION_SIZE = 16
MOST_MEMBERS = 4096
"""Clients of a round at most."""
_INDEX = struct.Struct("<H")


class RecordKind(IntEnum):
    """What a record is for, in the order of a round."""

    SETUP = 1
    """To a client: what the round is."""
    KEYS = 2
    """From a client: two public keys, perhaps signed, and what it commits to."""
    ROSTER = 3
    """To a client: its own keys and those of its neighbours."""
    SHARES = 4
    """From a client: a sealed envelope for each neighbour."""
    ENVELOPES = 5
    """To a client: the envelopes that are for it."""
    PADDED = 6
    """From a client: its numbers with pads on them."""
    SURVIVORS = 7
    """To a client: whose padded numbers came, of it and its neighbours."""
    REVEALED = 8
    """From a client: a share of its own seed, and of each neighbour's seed or private key."""


ITEM_SIZES: Mapping[RecordKind, int] = MappingProxyType(
    {
        RecordKind.SETUP: 36,
        RecordKind.KEYS: 192,
        RecordKind.ROSTER: 162,
        RecordKind.SHARES: 50,
        RecordKind.ENVELOPES: 50,
        RecordKind.PADDED: 1,
        RecordKind.SURVIVORS: 2,
        RecordKind.REVEALED: 18,
    }
)
"""Bytes of an item; those of lists of clients begin with a client's index."""


@dataclass(frozen=True, slots=True)
class SumRecord:
    """One record.

    Attributes:
        kind: what it is for.
        index: of the client that it is from or for, 0 to n - 1.
        round: its number.
        session: 16 bytes that name the round's secure sum.
        body: the items.
    """

    kind: RecordKind
    index: int
    round: int
    session: bytes
    body: bytes | memoryview = field(repr=False)

    @staticmethod
    def size_of(kind: RecordKind, count: int) -> int:
        """Return the bytes of a record of so many items."""
        return HEAD_SIZE + count * ITEM_SIZES[kind]

    def to_bytes(self) -> bytes:
        """Return the record's bytes."""
        count = len(self.body) // ITEM_SIZES[self.kind]
        head = _HEAD.pack(_MAGIC, _VERSION, self.kind, self.index, self.round, self.session, count)
        return head + bytes(self.body)

    @classmethod
    def from_bytes(cls, data: bytes, kind: RecordKind, most: int) -> "SumRecord":
        """Read a record of a kind with at most so many items.

        Raises:
            WrongMessageError: `data` is not bytes.
            BadMagicError, UnsupportedVersionError, WrongKindError: it is none of these records.
            LimitError: it declares more items.
            TruncatedFrameError, TrailingBytesError: it is shorter or longer than it declares.
        """
        if not isinstance(data, bytes):
            raise WrongMessageError(f"a record is bytes, got a value of type {type(data).__name__}")
        if len(data) < HEAD_SIZE:
            raise TruncatedFrameError(f"{len(data)} bytes are too few for the head of a record")
        magic, version, found, index, round_, session, count = _HEAD.unpack_from(data)
        if magic != _MAGIC:
            raise BadMagicError("these bytes are no record of a secure sum: they do not start with FMSS")
        if version != _VERSION:
            raise UnsupportedVersionError(f"record version {version}; this library reads version {_VERSION}")
        if found != kind:
            raise WrongKindError(f"a record of kind {kind.name.lower()} was expected, got kind {found}")
        if count > most:
            raise LimitError(f"the record declares {count} items of kind {kind.name.lower()}; at most {most} can be")
        size = HEAD_SIZE + count * ITEM_SIZES[kind]
        if len(data) < size:
            raise TruncatedFrameError(f"the record declares {size} bytes, {len(data)} came")
        if len(data) > size:
            raise TrailingBytesError(f"{len(data) - size} bytes follow the record")
        return cls(kind, index, round_, session, memoryview(data)[HEAD_SIZE:])


def kind_of(data: bytes) -> RecordKind | None:
    """Return the kind that bytes claim to be of; None if they are no record. Nothing else of them is checked."""
    if not isinstance(data, bytes) or len(data) < HEAD_SIZE or data[5] not in ITEM_SIZES:
        return None
    return RecordKind(data[5])


def listed(items: Mapping[int, bytes]) -> bytes:
    """Return items by client as a body: ascending, each after its index."""
    return b"".join(_INDEX.pack(index) + items[index] for index in sorted(items))


def by_index(record: SumRecord, members: int) -> dict[int, bytes]:
    """Return the items of a list by client.

    Raises:
        MalformedFrameError: the clients do not ascend, or one is none of the round's.
    """
    size, found = ITEM_SIZES[record.kind], dict[int, bytes]()
    last = -1
    for at in range(0, len(record.body), size):
        (index,) = _INDEX.unpack_from(record.body, at)
        if not last < index < members:
            raise MalformedFrameError(f"client {index} follows client {last} in a list of a round of {members}")
        found[index] = bytes(record.body[at + _INDEX.size : at + size])
        last = index
    return found
