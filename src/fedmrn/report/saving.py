"""What a method's traffic is beside FedAvg's, and which option makes the larger part of it smaller."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedmrn.errors import ConfigError
from fedmrn.methods import METHODS
from fedmrn.report.summary import EXACT, Summary

SMALLER = "grid"
"""The value of `method.down` that the hint names."""
_MOST = 2 / 3  # FedAvg's downlink is half, and a few bytes of headers more: that is not what the hint is for
_NAMED = 3  # rows that the hint names at most


@dataclass(frozen=True, slots=True)
class Saving:
    """FedAvg's bytes over a row's, of whole runs with all clients and calibration.

    Attributes:
        up: of the uplink.
        total: of both ways.
    """

    up: float
    total: float


def reference_for(row: Summary, rows: Sequence[Summary]) -> Summary | None:
    """Return the FedAvg that a row is compared with: of as many rounds and clients, or None.

    Of several, one with an exact broadcast is taken, and of those the one with the best last accuracy.

    Args:
        row: the one that is asked for.
        rows: of one setting.
    """
    alike = [r for r in rows if r.method == "fedavg" and (r.rounds, r.clients) == (row.rounds, row.clients)]
    return max(alike, key=lambda r: (r.down == EXACT, r.final), default=None)


def saving(row: Summary, rows: Sequence[Summary]) -> Saving | None:
    """Return what a row saves against FedAvg (`reference_for`) in the same table; None without one."""
    reference = reference_for(row, rows)
    if reference is None:
        return None
    return Saving(up=reference.up_bytes / row.up_bytes, total=reference.total_bytes / row.total_bytes)


def downlink_hint(rows: Sequence[Summary]) -> str | None:
    """Return a line on rows most of whose traffic is the downlink, with the option for it; None if there are none.

    Most is more than two thirds. Rows that have the option, or whose method cannot have it, are not meant.
    """
    heavy = [
        row
        for row in rows
        if row.down != SMALLER and row.down_bytes > _MOST * row.total_bytes and _takes_it(row.method)
    ]
    if not heavy:
        return None
    shares = sorted(int(100 * row.down_bytes / row.total_bytes) for row in heavy)
    share = f"{shares[0]}" if shares[0] == shares[-1] else f"{shares[0]} to {shares[-1]}"
    names = " and ".join(row.label for row in heavy)
    if len(heavy) > _NAMED:
        names = f"{len(heavy)} of {len(rows)} methods"
    return f"the downlink is {share} % of the traffic of {names}: --set method.down={SMALLER} makes it smaller"


def _takes_it(name: str) -> bool:
    """Whether a method can have the option; of one that this version does not know nobody knows."""
    if name not in METHODS:
        return True
    try:
        METHODS[name].scheme(down=SMALLER)
    except ConfigError:
        return False
    return True
