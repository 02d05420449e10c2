"""The session of a round: what its clients agree on before they send a key, and how many bits a sum takes."""

import os
import struct
from dataclasses import dataclass
from hashlib import sha256

from fedmrn.errors import LimitError, MalformedFrameError
from fedmrn.secure.records import MOST_MEMBERS, SESSION_SIZE, RecordKind, SumRecord

_BODY = struct.Struct("<HHQI16s")
_MOST_ELEMENTS = 1 << 34
"""Bits of a mask at most."""
CLIP = 64
"""Reals are clipped to plus and minus this before they are summed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What the clients of one round agree on.

    Attributes:
        round: its number.
        members: n, the clients that are asked; each has an index, 0 to n - 1.
        threshold: t, how many must stay to the end: more than half, so that no two sets of t are apart.
        bits: elements of a mask, of which each client adds 0 or 1.
        reals: numbers in fixed point.
        nonce: 16 fresh bytes.

    Raises:
        LimitError: fewer than 2 clients or too many, a threshold of half of them or less, or too many elements.
    """

    round: int
    members: int
    threshold: int
    bits: int
    reals: int
    nonce: bytes

    def __post_init__(self) -> None:
        if not 2 <= self.members <= MOST_MEMBERS:
            raise LimitError(f"a secure sum is of 2 to {MOST_MEMBERS} clients, got {self.members}")
        if not self.members < 2 * self.threshold <= 2 * self.members:
            raise LimitError(
                f"the threshold of {self.members} clients is {self.members // 2 + 1} to {self.members}, "
                f"got {self.threshold}"
            )
        if not (0 <= self.bits <= _MOST_ELEMENTS and 0 <= self.reals < 1 << 31 and 1 <= self.round < 1 << 32):
            raise LimitError(f"a secure sum cannot be of round {self.round}, {self.bits} bits and {self.reals} reals")
        if self.padded_size >= 1 << 32:
            raise LimitError(f"a client's padded numbers would take {self.padded_size} bytes; at most 4 GiB can be")

    @classmethod
    def begin(cls, round: int, members: int, threshold: int, bits: int, reals: int) -> "Session":
        """Return a fresh session."""
        nonce = os.urandom(SESSION_SIZE)
        return cls(round=round, members=members, threshold=threshold, bits=bits, reals=reals, nonce=nonce)

    @property
    def width(self) -> int:
        """Bits that an element of the sum of masks takes: ceil(log2(n + 1)), so that no sum wraps around."""
        return self.members.bit_length()

    @property
    def fraction(self) -> int:
        """f: a real v, clipped, is round(v * 2^f). n * CLIP * 2^f is below 2^31, so that no sum wraps around."""
        return 31 - (CLIP.bit_length() - 1) - self.members.bit_length()

    @property
    def id(self) -> bytes:
        """16 bytes that name the session: a hash of all of it. Keys are derived with it, and serve no other one."""
        return sha256(b"fedmrn secure sum" + struct.pack("<I", self.round) + self._body()).digest()[:SESSION_SIZE]

    @property
    def padded_size(self) -> int:
        """Bytes of a client's padded numbers."""
        return -(-self.bits * self.width // 8) + 4 * self.reals

    def _body(self) -> bytes:
        return _BODY.pack(self.members, self.threshold, self.bits, self.reals, self.nonce)

    def setup(self, index: int) -> bytes:
        """Return the record that tells a client of the session."""
        return SumRecord(RecordKind.SETUP, index, self.round, self.id, self._body()).to_bytes()

    @classmethod
    def read(cls, data: bytes) -> tuple["Session", int]:
        """Return a session that a server tells of, and the client's index.

        Raises:
            FrameError: as `SumRecord.from_bytes`; LimitError as above; MalformedFrameError: its id is not its own.
        """
        record = SumRecord.from_bytes(data, RecordKind.SETUP, 1)
        if len(record.body) != _BODY.size:
            raise MalformedFrameError("a setup tells of no session")
        members, threshold, bits, reals, nonce = _BODY.unpack(record.body)
        session = cls(round=record.round, members=members, threshold=threshold, bits=bits, reals=reals, nonce=nonce)
        if record.session != session.id or record.index >= members:
            raise MalformedFrameError("a setup names another session than it tells of, or a client that is not in it")
        return session, record.index
