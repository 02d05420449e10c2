"""What a round's conversation is made of, messages and replies, and what carries them: a transport.

A transport only carries. Who is asked, what is folded and what is counted is `fedmrn.federation.conduct`'s.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedmrn.wire.frame import Frame


class MessageKind(StrEnum):
    """What a client is asked to do."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    CALIBRATE = "calibrate"
    """Find the statistics of a model on its own samples."""
    KEYS = "keys"
    """Of a secure sum: send public keys."""
    SHARES = "shares"
    """Of a secure sum: share secrets among the clients whose keys came."""
    UNMASK = "unmask"
    """Of a secure sum: reveal a share of each client's, so that the sum can be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What the server asks of one client.

    Attributes:
        client: which.
        kind: what it is to do.
        content: what it is sent: bytes, or a frame, whose bodies are views of the server's state until it is sent.
        kept: in a simulation, what the client keeps from its last round; a real client has it. Float32, shape (coded
            parameters,).
        held: in a simulation, what the client keeps of public models (`fedmrn.wire.held`).
    """

    client: int
    kind: MessageKind
    content: bytes | Frame = field(repr=False)
    kept: NDArray[np.float32] | None = field(default=None, repr=False)
    held: bytes = field(default=b"", repr=False)

    @property
    def data(self) -> bytes:
        """The bytes to send; those of a frame are joined anew each time."""
        return self.content.to_bytes() if isinstance(self.content, Frame) else self.content


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one client answers.

    Attributes:
        client: which.
        kind: of the message that it answers.
        data: the bytes that it sends back.
        metrics: numbers beside them; `train_loss`, the mean of the last local epoch, where it trained.
        kept: in a simulation, what the client keeps for its next round, if its method has it keep something.
        held: in a simulation, what it keeps of public models; empty where there are none.
        error: why there is no answer; None if there is one.
    """

    client: int
    kind: MessageKind
    data: bytes = field(default=b"", repr=False)
    metrics: Mapping[str, float] = field(default_factory=dict)
    kept: NDArray[np.float32] | None = field(default=None, repr=False)
    held: bytes = field(default=b"", repr=False)
    error: str | None = None


class Transport(Protocol):
    """Carries messages to clients and their replies back."""

    def ask(self, messages: Iterable[Message]) -> Iterator[Reply]:
        """Send messages, and yield replies as they come, in any order.

        Messages may be taken one at a time, when there is room for the next. More may be asked while replies are
        pending: each call yields the replies to its own messages. It ends when all have answered, or when no more
        replies are to be expected.

        Raises:
            EncodeError: a client's training diverged.
            WorkerError: the transport itself failed. What a real client failed of is a reply with an error; errors of
                simulated clients are faults of the run, and may be raised.
        """
