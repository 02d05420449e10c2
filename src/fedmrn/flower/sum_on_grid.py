"""A round's secure sum over Flower's grid: keys and shares while it is configured, unmasking while it is aggregated.

Keys, shares and unmasking are messages of type "train.secure", one record each; the record says which it is. What a
node must know of the others' shares travels beside its broadcast, and the padded update in place of its frame.
"""

from collections.abc import Callable, Iterable, Sequence
from logging import INFO, getLogger
from typing import TYPE_CHECKING

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedmrn.errors import BelowThresholdError, ConfigError, FrameError, LimitError
from fedmrn.federation.conduct import Conduct
from fedmrn.federation.sum_conduct import SumConduct
from fedmrn.federation.transport import MessageKind
from fedmrn.flower.records import ENVELOPES, FRAME, SECURE, arrays_size, record_bytes, to_array
from fedmrn.flower.replies import Replies
from fedmrn.server import Server
from fedmrn.server.scheme import Scheme
from fedmrn.wire.layout import Layout

if TYPE_CHECKING:
    from fedmrn.secure import SecureSum

log = getLogger("flwr").log
_SUM = "train.secure"
"""The type of the messages."""


def checked_protection(protect: "SecureSum | None", scheme: Scheme, layout: Layout) -> "SecureSum | None":
    """Return the setting, if updates of the scheme can be summed so.

    Raises:
        ConfigError: they cannot; it says what to set.
    """
    if protect is not None:
        protect.check(scheme, layout)
    return protect


class SumOnGrid:
    """One round's secure sum.

    Args:
        protect: the setting.
        server: of the run.
        conduct: of the round, which has begun.
        grid: to them.
        key: of the record of arrays.
        timeout: how long each exchange waits, in seconds; 0: until all have answered.
    """

    def __init__(
        self, protect: "SecureSum", server: Server, conduct: Conduct, grid: Grid, key: str, timeout: float
    ) -> None:
        self._protect, self._server = protect, server
        self._conduct, self._grid, self._key, self._timeout = conduct, grid, key, timeout or None
        self._envelopes: dict[int, bytes] = {}

    def begin(self, nodes: Sequence[int]) -> list[int]:
        """Exchange keys and shares with the round's nodes; return those that take part.

        None do where they are too few: that is told, and the round is lost.
        """
        server, number = self._server, self._conduct.report.round
        try:
            collector = self._protect.begin(number, len(nodes), server.scheme, server.layout)
        except (ConfigError, LimitError) as error:
            return self._lose(f"round {number} is lost: {error}")
        self._sums = sums = SumConduct(self._conduct, collector, nodes, self._protect, server.layout)
        try:
            self._exchange(MessageKind.KEYS, nodes, sums.setup, sums.take_keys)
            self._exchange(MessageKind.SHARES, sums.listed, sums.roster, sums.take_shares)
            self._envelopes = {node: sums.envelopes(node) for node in sums.shared}
        except BelowThresholdError as error:
            return self._lose(str(error))
        if not sums.shared:  # nobody was there to be told of the others, which is what closes a stage
            what = "shares" if sums.listed else "keys"
            return self._lose(f"round {number} is lost: 0 of {len(nodes)} clients answered with {what}")
        return sums.shared

    def enclose(self, messages: Iterable[Message]) -> None:
        """Put the shares for each node beside its broadcast."""
        for message in messages:
            beside = ConfigRecord({ENVELOPES: self._envelopes[message.metadata.dst_node_id]})
            message.content = RecordDict({**message.content, SECURE: beside})

    def take(self, node: int, data: bytes) -> None:
        """Take a padded update.

        Raises:
            FrameError: it is refused, and in the report.
        """
        self._sums.take_padded(node, data)

    def unmask(self) -> None:
        """Let the nodes that answered reveal shares, and fold the sum; a round that is lost is told."""
        sums = self._sums
        try:
            self._exchange(MessageKind.UNMASK, sums.stayed, sums.survivors, sums.take_revealed)
            sums.fold()
        except BelowThresholdError as error:
            self._lose(str(error))
            return
        text = "round %s: the sum of %s nodes' masks was read, and no node's own"
        log(INFO, text, self._conduct.report.round, len(self._conduct.report.folded))

    def _lose(self, why: str) -> list[int]:
        """Put into the report why the round is lost, and return the nodes that are left: none."""
        self._conduct.report.failed_otherwise.append(why)
        return []

    def _exchange(
        self,
        kind: MessageKind,
        nodes: Sequence[int],
        ask: Callable[[int], bytes],
        take: Callable[[int, bytes], None],
    ) -> None:
        messages = []
        for node in nodes:
            content = RecordDict({self._key: ArrayRecord({FRAME: to_array(ask(node))})})
            messages.append(Message(content=content, message_type=_SUM, dst_node_id=node))
        replies = Replies(kind, messages)
        for message in self._grid.send_and_receive(messages, timeout=self._timeout):
            sender = replies.take(self._conduct, message)
            if sender is None:
                continue
            try:
                data = record_bytes(message.content, self._key)
            except FrameError as error:
                self._conduct.refuse(sender, error, size=arrays_size(message.content), kind=kind)
                continue
            try:
                take(sender, data)
            except FrameError:
                continue  # it is in the report


NO_SUM: SumOnGrid | None = None
"""Of a strategy whose round has none."""
