"""The byte account of a round: what went each way, by part of the frames."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

Account = dict[str, int]
"""Bytes by part, as `fedmrn.wire.frame.Frame.account` gives them."""


def total(accounts: Iterable[Account]) -> Account:
    """Return the sum of accounts, part by part."""
    found: Counter[str] = Counter()
    for account in accounts:
        found.update(account)
    return dict(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What went between the server and one client in a round.

    Attributes:
        up, down: of the frames as they travelled.
        raw_up, raw_down: of the same frames with masks as plain bits, with side data and state as float32
            (`fedmrn.wire.plain.plain`).
    """

    up: Account = field(default_factory=dict)
    down: Account = field(default_factory=dict)
    raw_up: Account = field(default_factory=dict)
    raw_down: Account = field(default_factory=dict)

    def __add__(self, other: "Exchange") -> "Exchange":
        return Exchange(
            up=total((self.up, other.up)),
            down=total((self.down, other.down)),
            raw_up=total((self.raw_up, other.raw_up)),
            raw_down=total((self.raw_down, other.raw_down)),
        )
