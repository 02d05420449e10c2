"""A secure sum without a transport: all members and the collector in one place, and who stops answering when."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from fedmrn.secure import Collector, SumMember
from fedmrn.secure.lanes import Lanes, lane_type
from fedmrn.secure.session import Session


def numbers(session: Session, index: int) -> Lanes:
    """A client's numbers: a pure function of its index."""
    draw = np.random.default_rng(index)
    bits = draw.integers(0, 2, session.bits).astype(lane_type(session))
    return Lanes(bits, draw.integers(0, 1 << 32, session.reals, dtype=np.uint32))


def plain_sum(session: Session, members: Collection[int]) -> tuple[list[int], list[int]]:
    """The sum of these clients' numbers, in Python's own integers."""
    each = [numbers(session, i) for i in members]
    bits = [sum(int(one.bits[at]) for one in each) for at in range(session.bits)]
    reals = [sum(int(one.reals[at]) for one in each) % 2**32 for at in range(session.reals)]
    return bits, reals


@dataclass
class Sums:
    """One secure sum, a stage at a time; `gone` are clients that answer a stage no more, by what they do not send."""

    session: Session
    members: dict[int, SumMember] = field(default_factory=dict)
    collector: Collector = field(init=False)

    def __post_init__(self) -> None:
        self.collector = Collector(self.session)

    def keys(self, gone: Collection[int] = ()) -> Self:
        for i in range(self.session.members):
            if i not in gone:
                self.members[i], keys = SumMember.begin(self.collector.setup(i), colluding=0.0)
                self.collector.take_keys(i, keys)
        return self

    def shares(self, gone: Collection[int] = ()) -> Self:
        for i in self.collector.listed:
            shares = self.members[i].share(self.collector.roster(i))
            if i not in gone:
                self.collector.take_shares(i, shares)
        return self

    def padded(self, gone: Collection[int] = ()) -> Self:
        for i in self.collector.shared:
            padded = self.members[i].pad(self.collector.envelopes(i), numbers(self.session, i))
            if i not in gone:
                self.collector.take_padded(i, padded)
        return self

    def revealed(self, gone: Collection[int] = ()) -> Self:
        for i in self.collector.stayed:
            revealed = self.members[i].reveal(self.collector.survivors(i))
            if i not in gone:
                self.collector.take_revealed(i, revealed)
        return self


def small(members: int = 3, threshold: int = 2, bits: int = 11, reals: int = 3) -> Sums:
    """The sums of a small session."""
    return Sums(Session.begin(7, members, threshold, bits, reals))
