"""A client's side of one secure sum: four answers, each given once, and secrets that are gone after the last.

    member, keys = SumMember.begin(setup)
    shares = member.share(roster)
    padded = member.pad(envelopes, numbers)
    revealed = member.reveal(survivors)

Between answers a member can be bytes (`to_bytes`), for a client that is a fresh process each time. They are secret.
"""

import os
import struct
from enum import IntEnum
from hashlib import sha256
from typing import Self

from fedmrn.errors import (
    EncodeError,
    MalformedFrameError,
    RefusedRevealError,
    UntrustedKeyError,
    WrongRoundError,
    WrongShareError,
)
from fedmrn.secure.keys import (
    ROOT_SIZE,
    SECRET_SIZE,
    PublicKeys,
    check_roster,
    derived,
    new_private,
    public_of,
    shared_secret,
)
from fedmrn.secure.lanes import Lanes
from fedmrn.secure.pads import pad_of, put_on
from fedmrn.secure.records import MOST_MEMBERS, RecordKind, SumRecord, by_index, listed
from fedmrn.secure.session import Session
from fedmrn.secure.shares import seal, split_secret, unseal

_SECRETS = struct.Struct("<B32s16s16s16sIII")


class Step(IntEnum):
    """Which answer a member gave last."""

    KEYS = 1
    SHARES = 2
    PADDED = 3
    REVEALED = 4


class SumMember:
    """One client in one round's secure sum.

    Args:
        session: of the round.
        index: the client's.

    Attributes:
        session, index: as given.
        step: which answer was given last.
    """

    def __init__(self, session: Session, index: int) -> None:
        self.session, self.index = session, index
        self.step = Step.KEYS
        self._envelope = new_private()
        self._pad, self._seed = os.urandom(ROOT_SIZE), os.urandom(ROOT_SIZE)
        self._roster: dict[int, PublicKeys] = {}
        self._own_share = bytes(ROOT_SIZE)
        self._held: dict[int, bytes] = {}  # of others: share of the seed, share of the private key
        self._peers: tuple[int, ...] = ()

    @classmethod
    def begin(
        cls, setup: bytes, *, sign: bytes | None = None, colluding: float | None = None, least: int = 2
    ) -> tuple[Self, bytes]:
        """Take part in a session: make fresh secrets, and return the record of one's keys.

        Args:
            setup: the server's record.
            sign: a private key of Ed25519, 32 bytes, where clients know each other by such keys.
            colluding: share with a few neighbours where the server asks for it, if that withstands this share of all
                clients telling the server what they know; None: share with all others alone.
            least: of how few clients a server that lies, without helpers, may read the sum; where clients share with
                a few neighbours, one that does not lie. How many are asked and how many must stay is its word alone.

        Raises:
            RefusedRevealError: the server asks for fewer neighbours than that, or could read a smaller sum.
            ConfigError: `least` is no whole number of at least 2.
            FrameError: the setup is none.
        """
        session, index = Session.read(setup)
        session.check_neighbours(colluding)
        session.check_smallest(least)
        member = cls(session, index)
        keys = PublicKeys(public_of(member._envelope), public_of(private_of(session, index, member._pad)))
        if sign is not None:
            keys = keys.signed(session.id, index, sign)
        member._roster[index] = keys
        return member, member._record(RecordKind.KEYS, keys.to_bytes() + commitment(session, index, member._seed))

    def share(self, roster: bytes, *, trusted: frozenset[bytes] = frozenset()) -> bytes:
        """Share both secrets among the neighbours of a list, and return the record of the envelopes.

        Args:
            roster: the server's record.
            trusted: public keys of Ed25519 by which the list has to be signed; none: the server is believed.

        Raises:
            UntrustedKeyError: the list is not signed so, has a key twice, or has other keys for this client.
            RefusedRevealError: it is shorter than the threshold.
            FrameError: it is no such record.
        """
        self._after(Step.KEYS)
        session = self.session
        record = self._read(roster, RecordKind.ROSTER, session.members)
        found = {i: PublicKeys.from_bytes(item) for i, item in by_index(record, self.session.members).items()}
        if found.get(self.index) != self._roster[self.index]:
            raise UntrustedKeyError("the list of clients has other keys for this client than it sent")
        holders = session.holders(self.index)
        if not found.keys() <= {*holders}:
            raise UntrustedKeyError("the list has a client that is no neighbour of this one")
        self._check_enough(len(found))
        check_roster(found, self.session.id, trusted)
        seeds, privates = (
            dict(zip(holders, split_secret(root, session.needed, len(holders)), strict=True))
            for root in (self._seed, self._pad)
        )
        sealed = {
            i: seal(self._key_to(i, keys), seeds[i], privates[i], session.id)
            for i, keys in found.items()
            if i != self.index
        }
        self._roster, self._own_share, self.step = found, seeds[self.index], Step.SHARES
        return self._record(RecordKind.SHARES, listed(sealed))

    def pad(self, envelopes: bytes, numbers: Lanes) -> bytes:
        """Return the record of the client's numbers with pads on them; the numbers themselves change.

        What its own pads are made of is gone then: shares for others, and one of its own, are all that it keeps.

        Args:
            envelopes: the server's record: from whom they come shares a pad.
            numbers: to sum, of the session's shape.

        Raises:
            RefusedRevealError: fewer clients shared than the threshold.
            WrongRoundError: it was done already: a pad serves once.
            EncodeError: the numbers are not of the session's shape.
            FrameError: it is no such record.
        """
        self._after(Step.SHARES)
        record = self._read(envelopes, RecordKind.ENVELOPES, self.session.members - 1)
        found = by_index(record, self.session.members)
        if not found.keys() <= self._roster.keys() - {self.index}:
            raise MalformedFrameError("an envelope comes from a client that is not in the list")
        self._check_enough(len(found) + 1)
        if (numbers.bits.size, numbers.reals.size) != (self.session.bits, self.session.reals):
            raise EncodeError(
                f"the sum is of {self.session.bits} bits and {self.session.reals} reals, "
                f"this client has {numbers.bits.size} and {numbers.reals.size}"
            )
        self.step, self._peers = Step.PADDED, tuple(found)  # first: whatever fails now, no pad is made again
        for i, envelope in found.items():
            try:
                self._held[i] = b"".join(unseal(self._key_from(i), envelope, self.session.id))
            except WrongShareError:
                continue  # of that client there are other shares
        private = private_of(self.session, self.index, self._pad)
        pairs = (
            (i, pad_of(pair_seed(private, self._roster[i].pad, self.session, self.index, i), self.session))
            for i in self._peers
        )
        own = pad_of(seed_of(self.session, self.index, self._seed), self.session)
        put_on(numbers, self.index, own, pairs)
        self._envelope, self._pad, self._seed = bytes(SECRET_SIZE), bytes(ROOT_SIZE), bytes(ROOT_SIZE)
        return self._record(RecordKind.PADDED, numbers.to_bytes(self.session))

    def reveal(self, survivors: bytes) -> bytes:
        """Return the record of shares: of the seed of who answered, of the private key of who dropped out.

        Never both of one client, and once: the secrets are gone then.

        Raises:
            RefusedRevealError: fewer clients answered than the threshold, or this one is not among them.
            WrongRoundError: it was done already, or comes too early.
            FrameError: it is no such record.
        """
        self._after(Step.PADDED)
        record = self._read(survivors, RecordKind.SURVIVORS, self.session.members)
        stayed = by_index(record, self.session.members).keys()
        if self.index not in stayed or not stayed <= {self.index, *self._peers}:
            raise RefusedRevealError("a list of who answered lacks this client, or has one that shared nothing")
        self._check_enough(len(stayed))
        shares = {i: both[:ROOT_SIZE] if i in stayed else both[ROOT_SIZE:] for i, both in sorted(self._held.items())}
        shares[self.index] = self._own_share
        answer = self._record(RecordKind.REVEALED, listed(shares))
        self._own_share, self._held, self.step = bytes(ROOT_SIZE), {}, Step.REVEALED
        return answer

    def to_bytes(self) -> bytes:
        """Return the member as bytes: secrets, to be kept where only this client reads them."""
        roster = {i: keys.to_bytes() for i, keys in self._roster.items()}
        secrets = (self._envelope, self._pad, self._seed, self._own_share)
        counts = (len(roster), len(self._held), len(self._peers))
        peers = b"".join(i.to_bytes(2, "little") for i in self._peers)
        head = self.session.setup(self.index) + _SECRETS.pack(self.step, *secrets, *counts)
        return head + listed(roster) + listed(self._held) + peers

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the member that `to_bytes` wrote.

        Raises:
            FrameError: the bytes are none.
        """
        size = SumRecord.size_of(RecordKind.SETUP, 1)
        session, index = Session.read(data[:size])
        if len(data) < size + _SECRETS.size:
            raise MalformedFrameError("what a client kept of a secure sum is cut")
        step, *secrets, keys, held, peers = _SECRETS.unpack_from(data, size)
        ends = [size + _SECRETS.size]
        for count, width in ((keys, 162), (held, 34), (peers, 2)):
            if count > MOST_MEMBERS:
                raise MalformedFrameError(f"a client kept {count} items of a secure sum")
            ends.append(ends[-1] + count * width)
        if len(data) != ends[-1] or step not in iter(Step):
            raise MalformedFrameError("what a client kept of a secure sum has another length than it says")
        member = cls(session, index)
        member.step = Step(step)
        member._envelope, member._pad, member._seed, member._own_share = secrets
        member._roster = {i: PublicKeys.from_bytes(item) for i, item in _items(data[ends[0] : ends[1]], 162)}
        member._held = dict(_items(data[ends[1] : ends[2]], 34))
        member._peers = tuple(i for i, _ in _items(data[ends[2] : ends[3]], 2))
        return member

    def _after(self, step: Step) -> None:
        if self.step is not step:
            asked = Step(step + 1).name.lower()
            raise WrongRoundError(f"a client answers once in each step, and this one cannot answer {asked} now")

    def _check_enough(self, clients: int) -> None:
        if clients < self.session.needed:
            raise RefusedRevealError(f"{clients} clients are fewer than the threshold of {self.session.needed}")

    def _read(self, data: bytes, kind: RecordKind, most: int) -> SumRecord:
        record = SumRecord.from_bytes(data, kind, most)
        if record.session != self.session.id or record.index != self.index or record.round != self.session.round:
            raise WrongRoundError("the record is of another session, or for another client")
        return record

    def _record(self, kind: RecordKind, body: bytes) -> bytes:
        return SumRecord(kind, self.index, self.session.round, self.session.id, body).to_bytes()

    def _key_to(self, other: int, keys: PublicKeys) -> bytes:
        return shared_secret(self._envelope, keys.envelope, self.session.id, b"seal" + _way(self.index, other))

    def _key_from(self, other: int) -> bytes:
        keys = self._roster[other]
        return shared_secret(self._envelope, keys.envelope, self.session.id, b"seal" + _way(other, self.index))


def pair_seed(private: bytes, public: bytes, session: Session, one: int, other: int) -> bytes:
    """Return the seed of the pad of two clients, 32 bytes, from either one's private key and the other's public one."""
    return shared_secret(private, public, session.id, b"pad" + _way(*sorted((one, other))))


def private_of(session: Session, index: int, root: bytes) -> bytes:
    """Return a client's private key for pads, 32 bytes, of its root."""
    return derived(root, session.id, index, b"pad key")


def seed_of(session: Session, index: int, root: bytes) -> bytes:
    """Return the seed of the pad that is a client's own, 32 bytes, of its root."""
    return derived(root, session.id, index, b"own pad")


def commitment(session: Session, index: int, root: bytes) -> bytes:
    """Return what shows later that a seed's root is the one that this client began with, 32 bytes."""
    return sha256(b"fedmrn seed" + session.id + index.to_bytes(2, "little") + root).digest()


def _way(sender: int, receiver: int) -> bytes:
    return sender.to_bytes(2, "little") + receiver.to_bytes(2, "little")


def _items(data: bytes, size: int) -> list[tuple[int, bytes]]:
    parts = (data[at : at + size] for at in range(0, len(data), size))
    return [(int.from_bytes(part[:2], "little"), part[2:]) for part in parts]
