"""A round's secure sum as a conversation, on the server's side: every record counted by kind, and the sum folded.

    sums = SumConduct(conduct, protect.begin(...), clients, protect)
    ... sums.setup(client), sums.take_keys(client, data)         for all clients
    ... sums.roster(client), sums.take_shares(client, data)      for sums.listed
    ... sums.envelopes(client), sums.take_padded(client, data)   beside the broadcast, and in place of an update
    ... sums.survivors(client), sums.take_revealed(client, data) for sums.stayed
    sums.fold()

It needs none of the libraries of secure sums: `protect` has them (`fedmrn.secure.SecureSum`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedmrn.errors import BelowThresholdError, FrameError, UnknownClientError
from fedmrn.federation.account import Account, Exchange
from fedmrn.federation.conduct import Conduct
from fedmrn.federation.transport import MessageKind
from fedmrn.wire.layout import Group, Layout

if TYPE_CHECKING:
    from fedmrn.secure import Collector, SecureSum

_PARTS = {MessageKind.KEYS: "keys", MessageKind.SHARES: "shares", MessageKind.UNMASK: "unmasking"}
"""Parts of an account: what kind of message brings them. Envelopes travel beside broadcasts, and are shares."""


class SumConduct:
    """One round's secure sum, on the server's side.

    Args:
        conduct: of the round; bytes are counted there, and what is refused.
        collector: fresh, of as many clients.
        clients: who is asked, by index.
        protect: that made the collector.
        layout: of the model.
    """

    def __init__(
        self, conduct: Conduct, collector: "Collector", clients: Sequence[int], protect: "SecureSum", layout: Layout
    ) -> None:
        self._conduct, self._collector, self._protect, self._layout = conduct, collector, protect, layout
        self._clients, self._size = tuple(clients), 0
        self._index = {client: i for i, client in enumerate(clients)}

    @property
    def listed(self) -> list[int]:
        """Clients whose keys came."""
        return self._named(self._collector.listed)

    @property
    def shared(self) -> list[int]:
        """Clients whose envelopes came."""
        return self._named(self._collector.shared)

    @property
    def stayed(self) -> list[int]:
        """Clients whose padded numbers came."""
        return self._named(self._collector.stayed)

    def setup(self, client: int) -> bytes:
        """Return what asks a client for its keys."""
        return self._sent(client, MessageKind.KEYS, self._collector.setup(self._at(client)))

    def take_keys(self, client: int, data: bytes) -> None:
        """Take a client's keys.

        Raises:
            FrameError: it is refused, and in the report.
        """
        self._take(client, MessageKind.KEYS, data)

    def roster(self, client: int) -> bytes:
        """Return what asks a client for its shares.

        Raises:
            BelowThresholdError: too few keys came.
        """
        return self._sent(client, MessageKind.SHARES, self._collector.roster(self._at(client)))

    def take_shares(self, client: int, data: bytes) -> None:
        """Take a client's shares; as `take_keys`."""
        self._take(client, MessageKind.SHARES, data)

    def envelopes(self, client: int) -> bytes:
        """Return the shares for a client, which travel beside its broadcast.

        Raises:
            BelowThresholdError: too few shared.
        """
        data = self._collector.envelopes(self._at(client))
        account = {"shares": len(data)}
        self._conduct.note_beside(MessageKind.TRAIN, sent=account)
        self._conduct.note_exchange(client, Exchange(down=account, raw_down=account))
        return data

    def take_padded(self, client: int, data: bytes, raw: Account | None = None) -> None:
        """Take an update with pads on it; `raw` is the account of its frame in plain, where it is known.

        Raises:
            FrameError: it is refused, and in the report.
        """
        try:
            self._collector.take_padded(self._at(client), data)
        except FrameError as error:
            self._conduct.refuse(client, error, size=len(data))
            raise
        self._conduct.note_padded(client, self._account(len(data)), raw)
        self._size += len(data)

    def survivors(self, client: int) -> bytes:
        """Return what asks a client to reveal shares.

        Raises:
            BelowThresholdError: too few updates came.
        """
        return self._sent(client, MessageKind.UNMASK, self._collector.survivors(self._at(client)))

    def take_revealed(self, client: int, data: bytes) -> None:
        """Take what a client reveals; as `take_keys`."""
        self._take(client, MessageKind.UNMASK, data)

    def fold(self) -> None:
        """Take the pads off the sum, and fold it.

        Raises:
            BelowThresholdError: too few revealed shares, or what was summed is no sum of masks: the round is lost.
        """
        session = self._collector.session
        total = self._protect.summed(self._collector.finish(), self._clients, session, self._layout)
        try:
            self._conduct.fold_sum(total, self._size)
        except FrameError as error:
            raise BelowThresholdError(f"round {session.round} is lost: {error}") from error

    def _account(self, size: int) -> Account:
        """Return an update with pads by part: as a frame's, with wishes for scales in the header."""
        layout, width = self._layout, self._collector.session.width
        counts = {group: layout.span(group).stop - layout.span(group).start for group in Group}
        bodies = {
            group.name.lower(): -(-count * width // 8) if group is Group.CODED else 4 * count
            for group, count in counts.items()
        }
        return {**bodies, "header": size - sum(bodies.values()), "checksum": 0}

    def _sent(self, client: int, kind: MessageKind, data: bytes) -> bytes:
        account = {_PARTS[kind]: len(data)}
        self._conduct.note_sent(client, kind, account)
        self._conduct.note_exchange(client, Exchange(down=account, raw_down=account))
        return data

    def _take(self, client: int, kind: MessageKind, data: bytes) -> None:
        takes = {
            MessageKind.KEYS: self._collector.take_keys,
            MessageKind.SHARES: self._collector.take_shares,
            MessageKind.UNMASK: self._collector.take_revealed,
        }
        account = {_PARTS[kind]: len(data)}
        try:
            takes[kind](self._at(client), data)
        except FrameError as error:
            self._conduct.refuse(client, error, size=len(data), kind=kind)
            raise
        self._conduct.note_received(client, kind, account)
        self._conduct.note_exchange(client, Exchange(up=account, raw_up=account))

    def _at(self, client: int) -> int:
        if client not in self._index:
            raise UnknownClientError(f"client {client} is not in this round's secure sum")
        return self._index[client]

    def _named(self, indices: Sequence[int]) -> list[int]:
        return [self._clients[i] for i in indices]
