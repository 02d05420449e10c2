"""The byte account of a round: what went each way, by part of the frames."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmrn.wire.frame import Frame
from fedmrn.wire.messages import plain

if TYPE_CHECKING:
    from fedmrn.federation.clients import Answer

Account = dict[str, int]
"""Bytes by part, as `Frame.account` gives them."""


def total(accounts: Iterable[Account]) -> Account:
    """Return the sum of accounts, part by part."""
    found: Counter[str] = Counter()
    for account in accounts:
        found.update(account)
    return dict(found)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What went between the server and one client in a round.

    Attributes:
        up, down: of the two frames as they travelled.
        raw_up, raw_down: of the same frames with masks as plain bits, with side data and state as float32
            (`fedmrn.wire.messages.plain`).
    """

    up: Account
    down: Account
    raw_up: Account
    raw_down: Account

    @classmethod
    def of(cls, update: Frame, answer: "Answer") -> "Exchange":
        """Count an update; the client has counted the broadcast that it answers."""
        return cls(update.account(), answer.down, plain(update).account(), answer.raw_down)
