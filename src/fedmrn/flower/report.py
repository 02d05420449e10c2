"""What came of a round on Flower: who was folded, who was refused and why, and the bytes of the frames."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class RoundReport:
    """One round.

    Attributes:
        round: its number, from 1.
        asked: node ids that were sent a broadcast.
        folded: node ids whose update is in the mean.
        refused: what was wrong with each reply that was not folded, "node N: ErrorType: text".
        failed: errors that Flower reports in place of a reply, "node N: code C: text".
        answered: node ids of which there is a reply or an error.
        up: bytes of the frames that were folded.
        down: bytes of the broadcast frames, once for each node, whether it answered or not.
        trainable: trained parameters of the model.
    """

    round: int
    asked: list[int]
    trainable: int
    folded: list[int] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    answered: set[int] = field(default_factory=set)
    up: int = 0
    down: int = 0

    @property
    def silent(self) -> int:
        """How many of the nodes asked sent nothing: neither a reply nor an error."""
        return len(self.asked) - len(self.answered)

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
