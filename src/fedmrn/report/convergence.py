"""How soon: the rounds and the bytes that it takes to reach an accuracy for the first time."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from statistics import fmean

from fedmrn.errors import ConfigError
from fedmrn.experiments.run.record import WAYS, Record
from fedmrn.report.summary import Summary, reference_of

_SHARES = (0.8, 0.9, 0.97)


@dataclass(frozen=True, slots=True)
class Reached:
    """When a target was first reached; means over the seeds that reached it, None if none did.

    Attributes:
        target: accuracy in (0, 1).
        seeds, reached: how many there are, and how many reached it.
        rounds: up to the first tested round with at least this accuracy.
        up_bytes, total_bytes: of all clients up to and with that round, and both ways.
    """

    target: float
    seeds: int
    reached: int
    rounds: float | None
    up_bytes: float | None
    total_bytes: float | None


def reach(seeds: Sequence[Sequence[Record]], target: float) -> Reached:
    """Return when a variant first reached a target accuracy, from the records of its seeds."""
    spent = []
    for records in seeds:
        first = next((i for i, r in enumerate(records) if r.accuracy is not None and r.accuracy >= target), None)
        if first is not None:
            up, down = (sum(r.total(way) for r in records[: first + 1]) for way in WAYS)
            spent.append((first + 1, up, up + down))
    if not spent:
        return Reached(target, len(seeds), 0, None, None, None)
    rounds, up_bytes, total = (fmean(column) for column in zip(*spent, strict=True))
    return Reached(target, len(seeds), len(spent), rounds, up_bytes, total)


def default_targets(rows: Sequence[Summary]) -> tuple[float, ...]:
    """Return 80, 90 and 97 % of FedAvg's last accuracy (the best if it did not run), down to whole percents."""
    reference = reference_of(rows)
    best = reference.final if reference else max(row.final for row in rows)
    levels = (floor(100 * share * best) / 100 for share in _SHARES)
    return tuple(dict.fromkeys(level for level in levels if level > 0))


def check_targets(targets: Sequence[float]) -> tuple[float, ...]:
    """Return targets in order, each once.

    Raises:
        ConfigError: one is not in (0, 1].
    """
    for target in targets:
        if not 0 < target <= 1:
            raise ConfigError(f"--target {target:g} is not an accuracy above 0 and at most 1, such as 0.85")
    return tuple(sorted(set(targets)))
