"""Secure sums in a simulation: both sides in this process, with all their bytes.

A simulated client hands over its plain frame, whatever transport carries it; its pads are put on here, before anything
is folded. The pads are fresh and not of the run's seed; the sum, and so the run, does not depend on them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedmrn.federation.conduct import Conduct
from fedmrn.federation.sum_conduct import SumConduct
from fedmrn.federation.transport import Reply
from fedmrn.server import Server
from fedmrn.wire.frame import Frame, Kind
from fedmrn.wire.plain import plain

if TYPE_CHECKING:
    from fedmrn.secure import SecureSum, SumMember


class SimulatedSum:
    """One round's secure sum; keys and shares are exchanged when it is made.

    Args:
        protect: the setting.
        server: of the run.
        conduct: of the round.
        clients: who trains.
    """

    def __init__(self, protect: "SecureSum", server: Server, conduct: Conduct, clients: Sequence[int]) -> None:
        self._protect = protect
        collector = protect.begin(conduct.report.round, len(clients), server.scheme, server.layout)
        self._sums = sums = SumConduct(conduct, collector, clients, protect, server.layout)
        self._members: dict[int, SumMember] = {}
        for client in clients:
            self._members[client], keys = protect.member(sums.setup(client))
            sums.take_keys(client, keys)
        for client in sums.listed:
            sums.take_shares(client, protect.share(self._members[client], sums.roster(client)))

    def take(self, reply: Reply) -> None:
        """Put pads on the update in a reply, and take it.

        Raises:
            FrameError, EncodeError: as the parts do.
        """
        frame = Frame.from_bytes(reply.data, kind=Kind.UPDATE)
        envelopes = self._sums.envelopes(reply.client)
        padded = self._protect.pad(self._members[reply.client], envelopes, frame)
        self._sums.take_padded(reply.client, padded, plain(frame).account())

    def finish(self) -> None:
        """Let the clients reveal shares, and fold the sum.

        Raises:
            BelowThresholdError: too few clients answered.
        """
        for client in self._sums.stayed:
            self._sums.take_revealed(client, self._members[client].reveal(self._sums.survivors(client)))
        self._sums.fold()
