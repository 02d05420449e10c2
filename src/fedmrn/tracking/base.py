"""What a tracker is, what it is told of a round, and the names that metrics have in all of them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

ACCURACY, LOSS, TRAIN_LOSS = "test/accuracy", "test/loss", "train/loss"
UP, DOWN, TOTAL = "traffic/up_bytes", "traffic/down_bytes", "traffic/total_bytes"
"""Bytes of all clients together: of a round up and down, and both ways since round 1."""
UP_BITS = "traffic/up_bits_per_parameter"
FOLDED = "clients/folded"
SECONDS = "time/round_seconds"

Setting = str | int | float | bool
"""A value of the configuration."""


class Measured(NamedTuple):
    """What was measured of a round.

    Attributes:
        number: of the round.
        seconds: that it took.
        values: by the names of this module; without `TOTAL`, which `fedmrn.tracking.Tracking` counts.
    """

    number: int
    seconds: float
    values: Mapping[str, float]


class Point(NamedTuple):
    """What a tracker is told of a round.

    Attributes:
        step: the round's number.
        time: when it ended, in seconds since 1970. Of rounds that are told later: as if they had ended one right after
            another.
        values: metrics by name.
    """

    step: int
    time: float
    values: Mapping[str, float]


class Tracker(Protocol):
    """Is told of one run. Any exception that it raises ends the tracking, and not the run."""

    def start(self, configuration: Mapping[str, Setting], before: Sequence[Point]) -> None:
        """Begin, or go on where the same run was tracked before.

        Args:
            configuration: of the run, by dotted names.
            before: the rounds that are done, from the first. Those that the tracker has are not added twice.
        """

    def add(self, point: Point) -> None:
        """Add a round."""

    def close(self, *, whole: bool) -> None:
        """Write what is not written yet; `whole` says that the run has come to its end."""
