"""One round as a conversation, on the server's side: who was asked what, what came of it, and every byte both ways.

    conduct = Conduct(server.begin(number, clients), layout.trainable)
    for reply in transport.ask(conduct.train(client) for client in clients):
        try:
            conduct.take(reply)
        except FrameError:
            continue  # refused: it is in the report, and nothing else has changed
    conduct.finish()

What is folded is `fedmrn.server`'s business, how messages travel a transport's. Both simulations and the Flower
strategy conduct their rounds by this class.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import (
    ConfigError,
    DuplicateFrameError,
    FrameError,
    LostModelError,
    UnknownClientError,
    WrongRoundError,
)
from fedmrn.federation.account import Account, Exchange, total
from fedmrn.federation.failures import Failures
from fedmrn.federation.report import RoundReport, Stage
from fedmrn.federation.transport import Message, MessageKind, Reply
from fedmrn.server import Round
from fedmrn.server.publisher import Publisher
from fedmrn.server.summed import MaskSum
from fedmrn.wire.frame import OWN_LIMITS, Frame
from fedmrn.wire.layout import Group
from fedmrn.wire.plain import plain

Form = tuple[object, ...]


class Conduct:
    """One round's conversation, on the server's side: asks clients, folds or refuses replies, counts bytes.

    Args:
        round: just begun, with all clients that may be asked to train; or the number of one in which nobody is.
        trainable: trained parameters of the model.
        by_client: keep each client's bytes, as they travel and in plain (`exchanges`). Frames are decoded for it, so
            this is for simulations.
        noun: what a client is called in the report.
        publisher: the server's, of public models, where nobody trains; a round has it.

    Attributes:
        report: what came of the round so far.
    """

    def __init__(
        self,
        round: Round | int,
        trainable: int,
        *,
        by_client: bool = False,
        noun: str = "client",
        publisher: Publisher | None = None,
    ) -> None:
        number = round if isinstance(round, int) else round.number
        self.report = RoundReport(round=number, trainable=trainable)
        self._round: Round | None = None if isinstance(round, int) else round
        self._by_client, self._noun = by_client, noun
        self._exchanges: dict[int, Exchange] = {}
        self._failures = Failures(noun)
        self._raw_by_form: dict[Form, Account] = {}
        self._publisher = publisher if isinstance(round, int) else round.publisher

    @property
    def finished(self) -> bool:
        """Whether `finish` was called, or nobody trains in this round."""
        return self._round is None

    @property
    def exchanges(self) -> Mapping[int, Exchange]:
        """The bytes of each client's frames of training; empty without `by_client`."""
        return MappingProxyType(self._exchanges)

    def train(self, client: int, *, kept: NDArray[np.float32] | None = None, held: bytes = b"") -> Message:
        """Return the message that asks a client to train; asked a second time, it gets the same broadcast again.

        Args:
            client: one of the round's.
            kept: in a simulation, what it keeps from its last round.
            held: in a simulation, what it keeps of public models.

        Raises:
            UnknownClientError: the client is not one of the round's.
            WrongRoundError: the round is finished.
        """
        frame = self._open().broadcast_frame(client)
        self.note_public(client)
        account = frame.account()
        self.note_sent(client, MessageKind.TRAIN, account)
        if self._by_client:
            self.note_exchange(client, Exchange(down=account, raw_down=self._raw_broadcast(frame)))
        return Message(client=client, kind=MessageKind.TRAIN, content=frame, kept=kept, held=held)

    def ask(self, client: int, kind: MessageKind, content: bytes | Frame, *, held: bytes = b"") -> Message:
        """Return a message of another kind than training, and count it: a frame by its parts.

        Raises:
            ConfigError: the kind is training, whose message `train` makes.
        """
        if kind is MessageKind.TRAIN:
            raise ConfigError("the message that asks a client to train is made by Conduct.train")
        account = content.account() if isinstance(content, Frame) else {"body": len(content)}
        self.note_sent(client, kind, account)
        return Message(client=client, kind=kind, content=content, held=held)

    def take(self, reply: Reply) -> Frame | None:
        """Note a reply, and fold it if it is an update; return the update's frame.

        Raises:
            FrameError: as `fold`; of other kinds of message, the client was not asked, or answered as often already.
        """
        if reply.error is not None:
            self.fail(reply.client, reply.error, reply.kind)
        elif reply.kind is MessageKind.TRAIN:
            return self.fold(reply.client, reply.data)
        else:
            try:
                self.note_received(reply.client, reply.kind, {"body": len(reply.data)})
            except FrameError as error:
                self.refuse(reply.client, error, size=len(reply.data), kind=reply.kind)
                raise
        return None

    def fold(self, client: int, data: bytes) -> Frame:
        """Check and fold a client's update; return its frame.

        Raises:
            FrameError: as `fedmrn.server.Round.add`, or the client was not asked. It is noted, and nothing has changed.
        """
        try:
            if client not in self._stage(MessageKind.TRAIN).asked:
                raise UnknownClientError(f"client {client} was not asked in round {self.report.round}")
            frame = self._open().add(client, data)
        except FrameError as error:
            self.refuse(client, error, size=len(data))
            raise
        account = frame.account()
        self.note_received(client, MessageKind.TRAIN, account)
        self.report.folded.append(client)
        self.report.up += len(data)
        if self._by_client:
            self.note_exchange(client, Exchange(up=account, raw_up=plain(frame, OWN_LIMITS).account()))
        return frame

    def note_padded(self, client: int, account: Account, raw: Account | None = None) -> None:
        """Count an update with pads on it, by part and as a frame in plain; `fold_sum` folds all."""
        self.note_received(client, MessageKind.TRAIN, account)
        self.note_exchange(client, Exchange(up=account, raw_up=account if raw is None else raw))

    def fold_sum(self, total: MaskSum, size: int) -> None:
        """Fold all updates of the round as one sum of masks; `size` is the bytes of all with their pads on.

        Raises:
            FrameError: as `fedmrn.server.Round.add_sum`; nothing has changed.
        """
        self._open().add_sum(total)
        self.report.up += size
        self.report.folded += [client for client in total.clients if isinstance(client, int)]

    def refuse(
        self,
        client: int,
        error: FrameError,
        *,
        size: int = 0,
        answers: bool = True,
        kind: MessageKind = MessageKind.TRAIN,
    ) -> None:
        """Note a reply that is not taken.

        Args:
            client: who sent it.
            error: what is wrong with it.
            size: its bytes, as far as they are known.
            answers: False if it answers no message of this round: its sender may still answer.
            kind: of the message that it claims to answer.
        """
        stage = self._stage(kind)
        if size:
            stage.received = total((stage.received, {"refused": size}))
        if answers and client in stage.asked:
            stage.answered.add(client)
        text = f"{type(error).__name__}: {error}"
        if kind is MessageKind.TRAIN:
            self.report.refused.append(f"{self._noun} {client}: {text}")
        else:
            self.report.failed_otherwise.append(f"{self._noun} {client}: {kind}: {text}")

    def fail(
        self,
        client: int,
        reason: str,
        kind: MessageKind = MessageKind.TRAIN,
        *,
        answers: bool = True,
        lost: bool = False,
    ) -> None:
        """Note that there is an error in place of a reply; it is taken back if the client answers after all.

        Args:
            client: whose.
            reason: what it says, for the report.
            kind, answers: as for `refuse`.
            lost: it says that the client does not hold the public model that it was thought to, as a reason with
                LostModelError in it does. Such a client is sent the whole model next.
        """
        stage = self.report.stages.get(kind)
        if answers and stage is not None and client in stage.asked:
            stage.answered.add(client)
            if self._publisher is not None and (lost or LostModelError.__name__ in reason):
                self._publisher.claimed(client)
            self._failures.replace(self.report, client, kind, reason)
        else:
            self._failures.note(self.report, client, kind, reason)

    def note_public(self, client: int) -> None:
        """Note how a client is sent the public model, where there is one."""
        if self._publisher is not None:
            self.report.public[client] = self._publisher.sent(client)

    def note_sent(self, client: int, kind: MessageKind, account: Account) -> None:
        """Count what a client is sent, for messages that are made elsewhere."""
        stage = self._stage(kind)
        stage.asked[client] = stage.asked.get(client, 0) + 1
        stage.sent = total((stage.sent, account))

    def note_exchange(self, client: int, more: Exchange) -> None:
        """Count what went between the server and one client, where bytes are kept by client."""
        if self._by_client:
            known = self._exchanges.get(client)
            self._exchanges[client] = more if known is None else known + more

    def note_beside(self, kind: MessageKind, *, sent: Account | None = None, received: Account | None = None) -> None:
        """Count what travels beside the content of a message of this kind or of its reply, such as metrics."""
        stage = self._stage(kind)
        stage.sent = total((stage.sent, sent or {}))
        stage.received = total((stage.received, received or {}))

    def note_received(self, client: int, kind: MessageKind, account: Account) -> None:
        """Count what a client answers, for replies that are read elsewhere.

        Raises:
            UnknownClientError: it was sent no message of this kind.
            DuplicateFrameError: it answered as often as it was asked.
        """
        stage = self.report.stages.get(kind)
        if stage is None or client not in stage.asked:
            raise UnknownClientError(f"client {client} was not asked to {kind} in round {self.report.round}")
        replies = stage.replies.get(client, 0) + 1
        if replies > stage.asked[client]:
            raise DuplicateFrameError(f"client {client} answered {kind} already in round {self.report.round}")
        stage.answered.add(client)
        stage.replies[client] = replies
        stage.received = total((stage.received, account))
        self._failures.withdraw(self.report, client, kind)

    def finish(self) -> NDArray[np.float32]:
        """Move the server's state by the mean of what was folded, and return it; no update is taken from then on.

        Raises:
            EmptyRoundError, UnusableModelError: nothing was folded, or it leads to no usable model; the state stays.
            WrongRoundError: called twice.
        """
        try:
            return self._open().finish()
        finally:
            self._round = None  # it holds the state that the round began with

    def _open(self) -> Round:
        if self._round is None:
            raise WrongRoundError(f"round {self.report.round} is finished")
        return self._round

    def _stage(self, kind: MessageKind) -> Stage:
        return self.report.stages.setdefault(kind, Stage())

    def _public(self, group: Group) -> NDArray[np.float32]:
        """Return a group of the public model that this round's broadcasts lead to."""
        round = self._open()
        return round.shown[round.layout.span(group)]

    def _raw_broadcast(self, frame: Frame) -> Account:
        """Count a broadcast in plain. A round's broadcasts are of one form, so that one of them is decoded."""
        form: Form = tuple((s.role, s.template, len(s.body)) for s in frame.sections)
        if form not in self._raw_by_form:
            self._raw_by_form[form] = plain(frame, OWN_LIMITS, self._public).account()
        return self._raw_by_form[form]
