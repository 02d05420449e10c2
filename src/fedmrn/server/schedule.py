"""Schedules of server rules: what depends on the number of the round."""

from dataclasses import dataclass

from fedmrn.errors import ConfigError
from fedmrn.whole import shown


@dataclass(frozen=True, slots=True)
class CubicSchedule:
    """Sparsity that rises fast at first: s_t = s (1 - (1 - (t - t0) / (T - t0))^3).

    FedSparsify (Stripelis et al., arXiv 2204.12430), after Zhu & Gupta (2017), with initial sparsity 0.

    Attributes:
        final: s, the share of zeros after the last round, 0 to 1 - 2^-20.
        rounds: T.
        start: t0, the last round without pruning, 0..T-1.
        every: prune in the rounds that it divides, as in the published code; in between the sparsity stays. In the last
            round it is the final one, whether `every` divides that or not (the published code stops short of it).

    Raises:
        ConfigError: a value is out of its range.
    """

    final: float
    rounds: int
    start: int = 0
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.final <= 1 - 2.0**-20 or self.every < 1:
            raise ConfigError(
                "sparsity is a share from 0 to 1 - 2^-20 and every at least 1, "
                f"got {shown(self.final)}, {shown(self.every)}"
            )
        if not 0 <= self.start < self.rounds:
            raise ConfigError(f"start is a round before the last of {shown(self.rounds)}, got {shown(self.start)}")

    def density(self, round: int) -> float:
        """Return the share of elements that are kept after this round, in (0, 1]."""
        reached = self.rounds if round >= self.rounds else round // self.every * self.every
        pruned = max(0, reached - self.start)
        return 1 - self.final * (1 - (1 - pruned / (self.rounds - self.start)) ** 3)
