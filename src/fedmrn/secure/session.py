"""The session of a round: what its clients agree on before they send a key, and how many bits a sum takes."""

import os
import struct
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from math import ceil

from fedmrn.errors import LimitError, MalformedFrameError, RefusedRevealError
from fedmrn.secure.neighbours import MOST_OPENED, holders, opened_risk
from fedmrn.secure.records import MOST_MEMBERS, SESSION_SIZE, RecordKind, SumRecord
from fedmrn.whole import whole

_BODY = struct.Struct("<HHHHQI16s")
_MOST_ELEMENTS = 1 << 34
"""Bits of a mask at most."""
CLIP = 64
"""Reals are clipped to plus and minus this before they are summed."""


@lru_cache(maxsize=64)
def least_threshold(members: int) -> int:
    """Return with how large a threshold at least a server without helpers cannot open one client's update.

    More than half, so that no client's two secrets can be had: each of n clients gives one share of it, once. And so
    many that a server cannot have all others' private keys by lists that differ. Say it tells one client that t - 1
    others shared, the fewest that it accepts, and each other client that of these n - t dropped out, but never itself:
    these shares of private keys must be fewer than t of each of the t - 1. With many clients it is 0.62 n.
    """
    n = members
    for t in range(n, n // 2, -1):
        said = (t - 1) * min(n - t, t - 2) + (n - t) * min(n - t, t - 1)
        if said >= t * (t - 1):
            return t + 1
    return n // 2 + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What the clients of one round agree on.

    Attributes:
        round: its number.
        members: n, the clients that are asked; each has an index, 0 to n - 1.
        threshold: t, how many must stay to the end, at least `least_threshold`.
        bits: elements of a mask, of which each client adds 0 or 1.
        reals: numbers in fixed point.
        nonce: 16 fresh bytes.
        neighbours: with how many others each client shares, an even number; 0: with all.
        quorum: how many shares of a secret give it, where not all share with all; else 0, and it is the threshold.

    Raises:
        LimitError: fewer than 2 clients or too many, a threshold that a server could abuse or above n, too many
            elements, or neighbours that cannot be.
    """

    round: int
    members: int
    threshold: int
    bits: int
    reals: int
    nonce: bytes
    neighbours: int = 0
    quorum: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.members <= MOST_MEMBERS:
            raise LimitError(f"a secure sum is of 2 to {MOST_MEMBERS} clients, got {self.members}")
        least = least_threshold(self.members)
        if not least <= self.threshold <= self.members:
            raise LimitError(
                f"the threshold of {self.members} clients is {least} to {self.members}, got {self.threshold}"
            )
        k, q = self.neighbours, self.quorum
        if (k or q) and not (k % 2 == 0 and 2 <= q <= k < self.members - 1):
            raise LimitError(
                f"of {self.members} clients, {k} cannot be neighbours of each, with {q} shares of a secret"
            )
        if not (0 <= self.bits <= _MOST_ELEMENTS and 0 <= self.reals < 1 << 31 and 1 <= self.round < 1 << 32):
            raise LimitError(f"a secure sum cannot be of round {self.round}, {self.bits} bits and {self.reals} reals")
        if self.padded_size >= 1 << 32:
            raise LimitError(f"a client's padded numbers would take {self.padded_size} bytes; at most 4 GiB can be")

    @classmethod
    def begin(
        cls, round: int, members: int, threshold: int, bits: int, reals: int, neighbours: int = 0, quorum: int = 0
    ) -> "Session":
        """Return a fresh session."""
        return cls(
            round=round,
            members=members,
            threshold=threshold,
            bits=bits,
            reals=reals,
            nonce=os.urandom(SESSION_SIZE),
            neighbours=neighbours,
            quorum=quorum,
        )

    @property
    def needed(self) -> int:
        """How many shares give a secret."""
        return self.quorum or self.threshold

    def holders(self, index: int) -> tuple[int, ...]:
        """Return who holds shares of a client's secrets, ascending: itself and its neighbours."""
        return holders(self.id, self.members, self.neighbours, index) if self.neighbours else tuple(range(self.members))

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
        return _BODY.pack(self.members, self.threshold, self.neighbours, self.quorum, self.bits, self.reals, self.nonce)

    def smallest(self, helpers: int = 0) -> int:
        """Return of how few clients at least a server that lies can read the sum; of one client, it reads its update.

        It tells each client another list of who shared and who answered, as long as the threshold: each of the n - c
        honest ones then gives its share of n - t private keys. For the sum of s clients it needs those of the t - c - s
        others that these share pads with, and t - c shares of each.

        Args:
            helpers: c, how many clients tell the server all that they know. Where all share with all.
        """
        n, t, c = self.members, self.threshold, helpers
        if 2 * t - n <= c:
            return 1  # both shares of one client
        return max(1 if c else 2, t - c - (n - c) * (n - t) // (t - c))

    def check_neighbours(self, colluding: float | None) -> None:
        """Refuse a session in which clients share with fewer others than a client accepts.

        Args:
            colluding: the share of clients that may tell the server what they know; None: all share with all.

        Raises:
            RefusedRevealError: says why.
        """
        if not self.neighbours:
            return
        if colluding is None:
            raise RefusedRevealError(
                "the server has clients share with a few neighbours, and this one shares with all: clients that trust "
                "it not to lie say colluding=..., as the server's SecureSum does"
            )
        n, helpers = self.members, ceil(colluding * self.members - 1e-9)
        risk = opened_risk(n, self.neighbours, self.quorum, helpers, n - self.threshold)
        if risk > MOST_OPENED:
            raise RefusedRevealError(
                f"with {self.neighbours} neighbours and {self.quorum} shares of a secret, {helpers} of {n} clients and "
                f"the server would learn more than a sum with probability {risk:.1e}"
            )

    def check_smallest(self, least: int) -> None:
        """Refuse a session of which a server could read the sum of fewer clients than a client accepts.

        Args:
            least: clients, at least 2; compared with `smallest`, or with the threshold where not all share with all.

        Raises:
            RefusedRevealError: says of how few.
            ConfigError: `least` is no such number.
        """
        least = whole(least, "least, of how few clients a sum may be,", least=2)
        found = self.threshold if self.neighbours else self.smallest()
        if found < least:
            raise RefusedRevealError(
                f"the server could read the sum of {found} of this round's {self.members} clients with threshold "
                f"{self.threshold}, and this one takes part in sums of {least} or more: ask more clients, or set a "
                "higher threshold"
            )

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
        members, threshold, neighbours, quorum, bits, reals, nonce = _BODY.unpack(record.body)
        session = cls(
            round=record.round,
            members=members,
            threshold=threshold,
            bits=bits,
            reals=reals,
            nonce=nonce,
            neighbours=neighbours,
            quorum=quorum,
        )
        if record.session != session.id or record.index >= members:
            raise MalformedFrameError("a setup names another session than it tells of, or a client that is not in it")
        return session, record.index
