"""What came of a round: who was asked, folded, refused and why, who failed or was silent, and every byte both ways."""

from dataclasses import dataclass, field

from fedmrn.federation.account import Account
from fedmrn.federation.transport import MessageKind


@dataclass(slots=True, kw_only=True)
class Stage:
    """Who was asked by messages of one kind in a round, who answered, and the bytes both ways.

    Attributes:
        asked: client -> how often it was asked, in the order of asking.
        answered: clients that sent a reply or an error.
        replies: client -> how many replies it sent that were taken.
        sent: bytes to clients by part, once for each time that one was asked.
        received: bytes from clients by part; those of refused replies are the part "refused".
    """

    asked: dict[int, int] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)
    replies: dict[int, int] = field(default_factory=dict)
    sent: Account = field(default_factory=dict)
    received: Account = field(default_factory=dict)

    @property
    def again(self) -> list[int]:
        """Clients that were asked more than once."""
        return [client for client, times in self.asked.items() if times > 1]

    @property
    def waiting(self) -> list[int]:
        """Clients that were asked and have sent nothing: neither a reply nor an error."""
        return [client for client in self.asked if client not in self.answered]


def _training() -> dict[MessageKind, Stage]:
    return {MessageKind.TRAIN: Stage()}


@dataclass(slots=True, kw_only=True)
class RoundReport:
    """What came of one round: folded, refused, failed and silent clients, and bytes both ways.

    Attributes:
        round: its number, from 1.
        trainable: trained parameters of the model.
        folded: clients whose update is in the mean.
        refused: what was wrong with each reply that was not folded, "node N: ErrorType: text".
        failed: errors in place of an update, "node N: text".
        failed_otherwise: errors in place of other answers, "node N: KIND: text".
        up: bytes of the frames that were folded.
        stages: who was asked, and the bytes, by kind of message.
    """

    round: int
    trainable: int
    folded: list[int] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    failed_otherwise: list[str] = field(default_factory=list)
    up: int = 0
    stages: dict[MessageKind, Stage] = field(default_factory=_training)

    @property
    def asked(self) -> list[int]:
        """Clients that were sent a broadcast."""
        return list(self.stages[MessageKind.TRAIN].asked)

    @property
    def answered(self) -> set[int]:
        """Clients of which there is a reply or an error."""
        return self.stages[MessageKind.TRAIN].answered

    @property
    def down(self) -> int:
        """Bytes of the broadcast frames, whether their clients answered or not."""
        return sum(self.stages[MessageKind.TRAIN].sent.values())

    @property
    def silent(self) -> int:
        """How many of the clients that were sent a broadcast sent nothing: neither a reply nor an error."""
        return len(self.stages[MessageKind.TRAIN].waiting)

    def metrics(self) -> dict[str, int | float | list[int] | list[float]]:
        """Return the counts as Flower's metrics."""
        clients = max(1, len(self.folded))
        return {
            "updates-asked": len(self.asked),
            "updates-folded": len(self.folded),
            "updates-refused": len(self.refused),
            "updates-failed": len(self.failed),
            "updates-silent": self.silent,
            "uplink-frame-bytes": self.up,
            "downlink-frame-bytes": self.down,
            "uplink-bits-per-parameter": 8 * self.up / (clients * self.trainable),
        }

    def __str__(self) -> str:
        counts = ((len(self.refused), "refused"), (len(self.failed), "failed"), (self.silent, "silent"))
        rest = "".join(f", {n} {word}" for n, word in counts if n)
        return f"round {self.round}: {len(self.folded)} of {len(self.asked)} updates folded{rest}; {self.up:,} bytes up"
