"""The setting of secure aggregation: how many clients must stay, and whose keys count."""

from collections.abc import Collection
from dataclasses import dataclass
from math import ceil

from fedmrn.errors import ConfigError
from fedmrn.secure.collector import Collector, Total
from fedmrn.secure.member import SumMember
from fedmrn.secure.neighbours import fewest
from fedmrn.secure.session import Session, least_threshold
from fedmrn.secure.update import check_scheme, mask_sum, numbers_of, shape_of
from fedmrn.server.scheme import Scheme
from fedmrn.server.summed import MaskSum
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Layout


@dataclass(frozen=True, kw_only=True)
class SecureSum:
    """Secure aggregation as an option of a federation: a client's mask is never seen, only the sum of all.

    Attributes:
        threshold: how many of the clients that are asked must stay to the end: a whole number, or a share of them,
            above 1/2 and up to 1. Whatever is set, at least so many must that a server without helpers cannot open
            one's update, about 0.62 of them (`fedmrn.secure.session.least_threshold`).
        colluding: None: each client shares with every other one. A share of all clients, from 0 and below 1/2: each
            shares with as few neighbours as withstand so many helpers of a server that keeps to the protocol
            (`fedmrn.secure.neighbours`). Faster with many clients; against a server that lies it is no protection.

    Raises:
        ConfigError: the threshold is neither, or so is the share.
    """

    threshold: float = 2 / 3
    colluding: float | None = None

    def __post_init__(self) -> None:
        whole = isinstance(self.threshold, int) and not isinstance(self.threshold, bool) and self.threshold >= 2
        if not whole and not (isinstance(self.threshold, float) and 0.5 < self.threshold <= 1):
            raise ConfigError(
                "the threshold of secure sums is a number of clients, at least 2, or a share of them above 0.5 and up "
                f"to 1.0; got {self.threshold!r:.40}"
            )

        if self.colluding is not None and not 0 <= self.colluding < 0.5:
            raise ConfigError(
                "the share of clients that may help the server is at least 0 and below 0.5, or None to have all share "
                f"with all; got {self.colluding!r:.40}"
            )

    def neighbours(self, clients: int) -> tuple[int, int]:
        """Return with how many others each of so many clients shares, and how many shares give a secret.

        0, 0: with all others, because that was set, or because fewer would not do.
        """
        if self.colluding is None:
            return 0, 0
        return fewest(clients, clients - self.needed(clients), ceil(self.colluding * clients - 1e-9)) or (0, 0)

    def needed(self, clients: int) -> int:
        """Return how many of so many clients must stay.

        Raises:
            ConfigError: there are fewer than 2, or fewer than the threshold.
        """
        t = self.threshold if isinstance(self.threshold, int) else ceil(self.threshold * clients - 1e-9)
        if clients < max(2, t):
            raise ConfigError(
                f"a secure sum with threshold {self.threshold:g} cannot be of {clients} clients: ask for more in each "
                "round (min_train_nodes=... on Flower), or set a lower threshold"
            )
        return max(int(t), least_threshold(clients))

    @staticmethod
    def check(scheme: Scheme, layout: Layout) -> None:
        """Refuse a scheme whose updates are no bits under one noise key, or that weighs clients.

        Raises:
            ConfigError: says what to set.
        """
        check_scheme(scheme, layout)

    def begin(self, round: int, clients: int, scheme: Scheme, layout: Layout) -> Collector:
        """Return the server's side of a round with so many clients.

        Raises:
            ConfigError: as `check` and `needed`.
        """
        self.check(scheme, layout)
        shape, neighbours = shape_of(scheme, layout), self.neighbours(clients)
        return Collector(Session.begin(round, clients, self.needed(clients), *shape, *neighbours))

    def member(self, setup: bytes, sign: bytes | None = None) -> tuple[SumMember, bytes]:
        """Return a client's side, and its keys; as `SumMember.begin`."""
        return SumMember.begin(setup, sign=sign, colluding=self.colluding)

    @staticmethod
    def share(member: SumMember, roster: bytes, trusted: Collection[bytes] = ()) -> bytes:
        """Return a client's shares; as `SumMember.share`."""
        return member.share(roster, trusted=frozenset(trusted))

    @staticmethod
    def pad(member: SumMember, envelopes: bytes, update: Frame) -> bytes:
        """Return an update with pads on it, in place of its frame.

        Raises:
            FrameError, EncodeError: as `SumMember.pad`.
        """
        return member.pad(envelopes, numbers_of(update, member.session))

    @staticmethod
    def summed(total: Total, clients: tuple[int | str, ...], session: Session, layout: Layout) -> MaskSum:
        """Return the sum as the fold takes it; `clients` are all that were asked, by index."""
        return mask_sum(total, clients, session, layout)
