"""What came of a round: who was asked, folded, refused and why, who failed or was silent, and every byte both ways."""

from dataclasses import dataclass, field

from fedmrn.federation.account import Account
from fedmrn.federation.transport import MessageKind
from fedmrn.server.publisher import Sent

_BESIDE = ("config", "metrics", "errors", "verdicts")
"""Parts of an account that are no frame's and no array's."""


@dataclass(slots=True, kw_only=True)
class Stage:
    """Who was asked by messages of one kind in a round, who answered, and the bytes both ways.

    Bytes by part: of frames as `Frame.account` says; "arrays" of plain ones; and beside these "config", "metrics" and
    "errors", names and values, and "verdicts", what clients are told of their uploads.

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

    @property
    def up(self) -> int:
        """All bytes from clients."""
        return sum(self.received.values())

    @property
    def down(self) -> int:
        """All bytes to clients."""
        return sum(self.sent.values())


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
        failed: errors in place of an update, "node N: text"; not of a client whose update came after all.
        failed_otherwise: errors in place of other answers, "node N: KIND: text", and why a secure sum was lost.
        up: bytes of the frames that were folded.
        stages: who was asked, and the bytes, by kind of message.
        public: how each client that was asked to train was sent the public model; empty where there is none.
        epsilon: of differential privacy, all rounds so far together; None where masks are not private.
    """

    round: int
    trainable: int
    folded: list[int] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    failed_otherwise: list[str] = field(default_factory=list)
    up: int = 0
    stages: dict[MessageKind, Stage] = field(default_factory=_training)
    public: dict[int, Sent] = field(default_factory=dict)
    epsilon: float | None = None

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
        sent = self.stages[MessageKind.TRAIN].sent
        return sum(size for part, size in sent.items() if part not in _BESIDE)

    @property
    def total_up(self) -> int:
        """Bytes of everything that clients sent: updates, refused ones too, answers to evaluation, metrics, errors."""
        return sum(stage.up for stage in self.stages.values())

    @property
    def total_down(self) -> int:
        """Bytes of everything that clients were sent: broadcasts, models to evaluate, and configurations."""
        return sum(stage.down for stage in self.stages.values())

    @property
    def evaluation(self) -> Stage | None:
        """Who was asked to evaluate, and the bytes; None if nobody was."""
        return self.stages.get(MessageKind.EVALUATE)

    @property
    def silent(self) -> int:
        """How many of the clients that were sent a broadcast sent nothing: neither a reply nor an error."""
        return len(self.stages[MessageKind.TRAIN].waiting)

    @property
    def unheard(self) -> bool:
        """Whether messages of some kind were sent, and nobody answered: neither by a reply nor by an error."""
        return any(stage.asked and len(stage.waiting) == len(stage.asked) for stage in self.stages.values())

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
            **({} if self.epsilon is None else {"epsilon": self.epsilon}),
            **self._calibration(),
            **self._totals(),
        }

    def evaluation_metrics(self) -> dict[str, int | float | list[int] | list[float]]:
        """Return the counts of evaluation on clients as Flower's metrics, with the totals of the round."""
        stage = self.evaluation or Stage()
        return {
            "evaluation-asked": sum(stage.asked.values()),
            "evaluation-answered": sum(stage.replies.values()),
            "evaluation-uplink-bytes": stage.up,
            "evaluation-downlink-bytes": stage.down,
            **self._totals(),
        }

    def _calibration(self) -> dict[str, int]:
        """Who calibrated the round's model, and the bytes; nothing where nobody was asked to."""
        stage = self.stages.get(MessageKind.CALIBRATE)
        if stage is None:
            return {}
        return {
            "calibration-asked": len(stage.asked),
            "calibration-answered": len(stage.replies),
            "calibration-uplink-bytes": stage.up,
            "calibration-downlink-bytes": stage.down,
        }

    def _totals(self) -> dict[str, int]:
        """All bytes of the round so far: evaluation comes after training."""
        return {"uplink-total-bytes": self.total_up, "downlink-total-bytes": self.total_down}

    def evaluation_text(self) -> str:
        """Return a line on evaluation, with the totals of the round."""
        stage = self.evaluation or Stage()
        answered, asked = sum(stage.replies.values()), sum(stage.asked.values())
        totals = f"the whole round {self.total_up:,} up, {self.total_down:,} down"
        bytes_ = f"{stage.up:,} bytes up, {stage.down:,} down"
        return f"round {self.round}: {answered} of {asked} evaluations answered; {bytes_}; {totals}"

    def __str__(self) -> str:
        counts = ((len(self.refused), "refused"), (len(self.failed), "failed"), (self.silent, "silent"))
        rest = "".join(f", {n} {word}" for n, word in counts if n)
        spent = "" if self.epsilon is None else f"; epsilon {self.epsilon:.3g} so far"
        line = f"round {self.round}: {len(self.folded)} of {len(self.asked)} updates folded{rest}{spent}"
        line += f"; {self.up:,} bytes up"
        if self.evaluation is None:
            return f"{line}, {self.down:,} down"
        return f"{line}, {self.down:,} down; with evaluation {self.total_up:,} up, {self.total_down:,} down"
