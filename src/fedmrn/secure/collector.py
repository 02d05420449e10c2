"""The server's side of one secure sum: passes on keys and envelopes, adds what comes, and takes off what is left.

    for i in range(n): collector.take_keys(i, ...)          of setup(i)
    for i in collector.listed: collector.take_shares(i, ...)       of roster(i)
    for i in collector.shared: collector.take_padded(i, ...)       of envelopes(i)
    for i in collector.stayed: collector.take_revealed(i, ...)     of survivors(i)
    total = collector.finish()

What a stage asks for closes the one before it: an answer to that is late, and refused.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from fedmrn.errors import (
    BelowThresholdError,
    DuplicateFrameError,
    FrameError,
    LateAnswerError,
    MalformedFrameError,
    UnknownClientError,
    UntrustedKeyError,
    WrongRoundError,
    WrongShareError,
)
from fedmrn.secure.keys import PublicKeys, public_of
from fedmrn.secure.lanes import Lanes
from fedmrn.secure.member import commitment, pair_seed, private_of, seed_of
from fedmrn.secure.pads import pad_of, take_off
from fedmrn.secure.records import RecordKind, SumRecord, by_index, listed
from fedmrn.secure.session import Session
from fedmrn.secure.shares import combine_shares

_T = TypeVar("_T")


class Phase(IntEnum):
    """What a collector waits for."""

    KEYS = 1
    SHARES = 2
    PADDED = 3
    REVEALED = 4
    OVER = 5


@dataclass(frozen=True, slots=True)
class Total:
    """The sum of the numbers of the clients that answered.

    Attributes:
        members: their indices.
        numbers: the sum, bits modulo 2^b and reals modulo 2^32.
    """

    members: tuple[int, ...]
    numbers: Lanes


class Collector:
    """The server in one round's secure sum; it holds the sum, and no client's own numbers.

    Args:
        session: of the round.

    Attributes:
        session: as given.
        phase: what is waited for.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.phase = session, Phase.KEYS
        self._keys: dict[int, PublicKeys] = {}
        self._public = set[bytes]()
        self._commitments: dict[int, bytes] = {}
        self._shares: dict[int, dict[int, bytes]] = {}
        self._sum = Lanes.zeros(session)
        self._stayed: set[int] = set()
        self._revealed: dict[int, dict[int, bytes]] = {}

    @property
    def listed(self) -> list[int]:
        """Clients whose keys came."""
        return sorted(self._keys)

    @property
    def shared(self) -> list[int]:
        """Clients whose envelopes came."""
        return sorted(self._shares)

    @property
    def stayed(self) -> list[int]:
        """Clients whose padded numbers came."""
        return sorted(self._stayed)

    def setup(self, index: int) -> bytes:
        """Return what a client is told first."""
        return self.session.setup(index)

    def take_keys(self, index: int, data: bytes) -> None:
        """Take a client's keys.

        Raises:
            FrameError: they are late, a second time, or none; another client sent one, or it is of low order.
        """
        record = self._read(index, data, RecordKind.KEYS, 1, Phase.KEYS, self._keys)
        if not record.body:
            raise MalformedFrameError("a record of keys has none")
        body = bytes(record.body)
        keys = PublicKeys.from_bytes(body[:160])
        keys.check_usable()  # else all others would refuse the list, and one client stop the round
        if self._public & {keys.envelope, keys.pad}:
            raise UntrustedKeyError(f"client {index} sends a key that another one has sent")
        self._public |= {keys.envelope, keys.pad}
        self._keys[index], self._commitments[index] = keys, body[160:]

    def roster(self, index: int) -> bytes:
        """Return the keys of a client and its neighbours, for it; keys that come from now on are late.

        Raises:
            BelowThresholdError: too few came.
        """
        self._close(Phase.KEYS, len(self._keys))
        return self._record(
            RecordKind.ROSTER, index, listed({i: k.to_bytes() for i, k in self._near(index, self._keys).items()})
        )

    def take_shares(self, index: int, data: bytes) -> None:
        """Take a client's envelopes.

        Raises:
            FrameError: they are late, a second time, none, or not one for each other client of its list.
        """
        record = self._read(index, data, RecordKind.SHARES, len(self._keys), Phase.SHARES, self._shares)
        found = by_index(record, self.session.members)
        if found.keys() != self._near(index, self._keys).keys() - {index}:
            raise MalformedFrameError("envelopes are one for each other client of its list")
        self._shares[index] = found

    def envelopes(self, index: int) -> bytes:
        """Return the envelopes for a client; shares that come from now on are late.

        Raises:
            BelowThresholdError: too few shared.
        """
        self._close(Phase.SHARES, len(self._shares))
        return self._record(
            RecordKind.ENVELOPES,
            index,
            listed({i: each[index] for i, each in self._near(index, self._shares).items() if i != index}),
        )

    def take_padded(self, index: int, data: bytes) -> None:
        """Add a client's padded numbers.

        Raises:
            FrameError: they are late, a second time, or none.
        """
        session = self.session
        record = self._read(index, data, RecordKind.PADDED, session.padded_size, Phase.PADDED, self._stayed)
        if index not in self._shares:
            raise UnknownClientError(f"client {index} has shared nothing, and cannot be summed")
        if len(record.body) != session.padded_size:
            raise MalformedFrameError(f"padded numbers take {session.padded_size} bytes, {len(record.body)} came")
        self._sum.add(Lanes.from_bytes(record.body, session))
        self._stayed.add(index)

    def survivors(self, index: int) -> bytes:
        """Return who answered of a client and its neighbours, for it; padded numbers that come from now on are late.

        Raises:
            BelowThresholdError: too few answered.
        """
        self._close(Phase.PADDED, len(self._stayed))
        return self._record(
            RecordKind.SURVIVORS, index, listed(dict.fromkeys(self._near(index, dict.fromkeys(self._stayed)), b""))
        )

    def take_revealed(self, index: int, data: bytes) -> None:
        """Take the shares that a client reveals.

        Raises:
            FrameError: they are late, a second time, none, or of a client that shared nothing.
        """
        record = self._read(index, data, RecordKind.REVEALED, len(self._shares), Phase.REVEALED, self._revealed)
        found = by_index(record, self.session.members)
        if index not in self._stayed or not found.keys() <= self._near(index, self._shares).keys():
            raise MalformedFrameError("shares are revealed by clients that answered, of neighbours that shared")
        self._revealed[index] = found

    def finish(self) -> Total:
        """Take the pads off, and return the sum; nothing is taken from then on.

        Raises:
            BelowThresholdError: too few revealed shares, or a share is wrong.
            WrongRoundError: it was called already.
        """
        if self.phase is Phase.OVER:
            raise WrongRoundError(f"the sum of round {self.session.round} was read already, or is lost")
        self._close(Phase.REVEALED, len(self._revealed))
        stayed, session = self.stayed, self.session
        gone = [i for i in self.shared if i not in self._stayed]
        try:
            own = [pad_of(self._seed(i), session) for i in stayed]
            take_off(self._sum, own, ())
            for i in gone:
                private = self._private(i)
                near = self._near(i, dict.fromkeys(stayed))
                seeds = ((k, pair_seed(private, self._keys[k].pad, session, i, k)) for k in near)
                take_off(self._sum, (), ((k, i, pad_of(seed, session)) for k, seed in seeds))
        except FrameError as error:
            raise BelowThresholdError(f"round {session.round} is lost: {error}") from error
        most = (1 << session.width) - 1
        self._sum.bits[:] &= self._sum.bits.dtype.type(most)
        return Total(tuple(stayed), self._sum)

    def _seed(self, index: int) -> bytes:
        root = self._root(index)
        if commitment(self.session, index, root) != self._commitments[index]:
            raise WrongShareError(f"the shares of client {index}'s seed do not give what it committed to")
        return seed_of(self.session, index, root)

    def _private(self, index: int) -> bytes:
        private = private_of(self.session, index, self._root(index))
        if public_of(private) != self._keys[index].pad:
            raise WrongShareError(f"the shares of client {index}'s private key do not give its public key")
        return private

    def _root(self, index: int) -> bytes:
        of = enumerate(self.session.holders(index))
        found = {place: self._revealed[i][index] for place, i in of if index in self._revealed.get(i, ())}
        return combine_shares(found, self.session.needed)

    def _near(self, index: int, of: Mapping[int, _T]) -> dict[int, _T]:
        """Return what there is of a client and its neighbours."""
        return {i: of[i] for i in self.session.holders(index) if i in of}

    def _read(
        self, index: int, data: bytes, kind: RecordKind, most: int, phase: Phase, taken: Container[int]
    ) -> SumRecord:
        if self.phase > phase:
            raise LateAnswerError(f"{kind.name.lower()} of client {index} came late, and are not taken")
        if self.phase < phase:
            raise WrongRoundError(f"{kind.name.lower()} of client {index} were not asked for yet")
        if not 0 <= index < self.session.members:
            raise UnknownClientError(f"client {index} is none of this round's")
        if index in taken:
            raise DuplicateFrameError(f"{kind.name.lower()} of client {index} came already")
        record = SumRecord.from_bytes(data, kind, most)
        if record.index != index or record.session != self.session.id or record.round != self.session.round:
            raise WrongRoundError("the record is of another session, or from another client")
        return record

    def _close(self, phase: Phase, count: int) -> None:
        """Go on from a phase, if enough answered; further calls have no effect."""
        if self.phase > phase:
            return
        if count < self.session.threshold:
            raise BelowThresholdError(
                f"round {self.session.round} is lost: {count} of {self.session.members} clients answered with "
                f"{phase.name.lower()}, and {self.session.threshold} are needed"
            )
        self.phase = Phase(phase + 1)

    def _record(self, kind: RecordKind, index: int, body: bytes) -> bytes:
        return SumRecord(kind, index, self.session.round, self.session.id, body).to_bytes()
