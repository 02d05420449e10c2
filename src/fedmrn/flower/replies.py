"""Replies of nodes: which message each answers, and what is counted of it before anybody looks at its frame."""

from collections.abc import Callable, Iterable

from flwr.app import Message
from flwr.app.metadata import Metadata

from fedmrn.errors import FrameError, LostModelError, UnknownClientError
from fedmrn.federation.conduct import Conduct
from fedmrn.federation.transport import MessageKind
from fedmrn.flower.metrics import Metrics
from fedmrn.flower.records import arrays_size, beside_arrays, update_bytes

_READ, _HEAD, _TAIL = 20_000, 240, 600
"""Characters of an error's text: of the most that is looked at, and of both ends of what is shown."""


class Replies:
    """The replies to some messages of one kind.

    Args:
        kind: of the messages.
        messages: that are about to be sent; ids are given to them then. Their metadata is kept, not their content.
    """

    def __init__(self, kind: MessageKind, messages: Iterable[Message] = ()) -> None:
        self._kind = kind
        self._asked = {message.metadata.dst_node_id: message.metadata for message in messages}

    def take(self, conduct: Conduct, reply: Message) -> int | None:
        """Count a reply, and return its node; None if it is an error or answers nothing, which is noted."""
        node = self._node_of(reply)
        sender, answers = reply.metadata.src_node_id if node is None else node, node is not None
        if reply.has_error():
            conduct.note_beside(
                self._kind, received={"errors": len((reply.error.reason or "").encode(errors="replace"))}
            )
            conduct.fail(sender, _reason(reply), self._kind, answers=answers, lost=_lost(reply))
            return None
        conduct.note_beside(self._kind, received=beside_arrays(reply.content))
        if node is None:
            error = UnknownClientError("this reply answers no message of this round")
            conduct.refuse(sender, error, size=arrays_size(reply.content), answers=False, kind=self._kind)
        return node

    def fold(
        self,
        conduct: Conduct,
        replies: Iterable[Message],
        metrics: Metrics,
        key: str,
        take: Callable[[int, bytes], object],
    ) -> None:
        """Fold updates one at a time, as they come; what does not belong is refused and noted.

        Args:
            conduct: of the round.
            replies: to the messages.
            metrics: are added to, of those that are folded.
            key: of the record of arrays.
            take: folds one, `Conduct.fold`, or takes it to a secure sum.
        """
        for message in replies:
            node = self.take(conduct, message)
            if node is None:
                continue
            try:
                data = update_bytes(message.content, key)
            except FrameError as error:
                conduct.refuse(node, error, size=arrays_size(message.content))
                continue
            try:
                take(node, data)
            except FrameError:
                continue  # it is in the report
            metrics.add(node, message.content)

    def note(self, conduct: Conduct, replies: Iterable[Message], metrics: Metrics) -> None:
        """Note answers that hold metrics alone; arguments as for `fold`."""
        for message in replies:
            node = self.take(conduct, message)
            if node is None:
                continue
            arrays = arrays_size(message.content)
            try:
                conduct.note_received(node, self._kind, {"arrays": arrays} if arrays else {})
            except FrameError as error:
                conduct.refuse(node, error, size=arrays, kind=self._kind)
                continue
            metrics.add(node, message.content)

    def _node_of(self, reply: Message) -> int | None:
        """Return the node whose message is answered; the sender of an error is not the node."""
        found = next((m for m in self._asked.values() if _answers(reply, m)), None)
        if found is None or not (reply.has_error() or reply.metadata.src_node_id == found.dst_node_id):
            return None
        return found.dst_node_id


def _answers(reply: Message, asked: Metadata) -> bool:
    return bool(asked.message_id) and asked.message_id == reply.metadata.reply_to_message_id


def _lost(message: Message) -> bool:
    """Whether an error is a LostModelError: the simulation engine has its name in the middle of a long text."""
    return LostModelError.__name__ in (message.error.reason or "")[-_READ:]


def _reason(message: Message) -> str:
    """What an error says, as one line: its text is a client's. Of a long one, such as a traceback, both ends."""
    text = (message.error.reason or "")[-_READ:].encode("unicode_escape").decode("ascii")
    shown = text if len(text) <= _HEAD + _TAIL else f"{text[:_HEAD]} ... {text[-_TAIL:]}"
    return f"code {message.error.code}: {shown}"
