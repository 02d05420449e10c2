"""The account of a run of private masks, on the server's side: what is told before and after, and what is refused.

It is made for a number of clients in every round. A round of fewer would hide each of them less: it is lost, and the
model stays, so that the epsilon that was told before the run holds.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fedmrn.errors import ConfigError
from fedmrn.federation.report import RoundReport
from fedmrn.privacy import DELTA, Mechanism, PrivateRounds, epsilon_of
from fedmrn.privacy.account import check_account
from fedmrn.server.scheme import Scheme
from fedmrn.wire.layout import Group, Layout
from fedmrn.wire.private import check_sums_alone

if TYPE_CHECKING:
    from fedmrn.secure import SecureSum

_SEES = "for who sees the sums of masks alone, clients honest"


class PrivateRun:
    """What is known of a run's privacy.

    Args:
        scheme: of the run, with a theta above 0.
        layout: of the model.
        least: clients that the account counts on in every round.
        caveat: what else is told before the run.

    Raises:
        ConfigError: more than masks would travel, a round may be of one client, theta is smaller than the account
            goes, or dp-accounting is not installed (extra `privacy`).
    """

    def __init__(self, scheme: Scheme, layout: Layout, least: int, caveat: str = "") -> None:
        check_sums_alone(layout, scheme.theta)
        if least < 2:
            raise ConfigError(
                f"theta = {scheme.theta:g} hides a client among those of its round, and a round may be of one client: "
                "say how many it has at least"
            )
        check_account()
        Mechanism(scheme.theta, least)  # refuses what it cannot account for
        self._caveat = f"; {caveat}" if caveat else ""
        self._theta, self._d, self._least = scheme.theta, layout.span(Group.CODED).stop, least
        self._sizes: dict[int, int] = {}

    @property
    def least(self) -> int:
        """Clients that the account counts on in every round."""
        return self._least

    def before(self, rounds: int) -> str:
        """Return in a line which epsilon a run of so many rounds will have at most."""
        epsilon = epsilon_of([PrivateRounds(self._theta, self._least, self._d, max(rounds, 1))])
        return (
            f"with these settings epsilon will be {epsilon:.3g} (delta {DELTA:g}) for each client, {_SEES}: "
            f"theta {self._theta:g}, {self._least} clients a round, {rounds} rounds, {self._d:,} coded parameters"
            f"{self._caveat}"
        )

    def recall(self, rounds: int, sizes: Iterable[tuple[int, int]] = ()) -> None:
        """Note the rounds of a run that goes on; of those that nothing is known of, the fewest clients are counted.

        Args:
            rounds: that are over.
            sizes: number of the round, and of the clients whose masks were folded, as far as they are known.
        """
        self._sizes = dict.fromkeys(range(1, rounds + 1), self._least)
        self._sizes |= {number: size for number, size in sizes if number in self._sizes}

    def close(self, report: RoundReport) -> bool:
        """Note a round whose updates have come, and tell its report the epsilon so far; whether it may move the model.

        Where too few clients answered it may not: then the report says so, and that nothing was folded.
        """
        folded = len(report.folded)
        enough = folded >= self._least
        if folded and not enough:
            report.failed.append(
                f"the round: {folded} clients answered, and the account of privacy is made for {self._least} or more "
                "in every round: it is lost, and the model stays"
            )
            report.folded.clear()
            report.up = 0
        self._sizes[report.round] = folded if enough else 0
        report.epsilon = self.epsilon
        return enough

    @property
    def epsilon(self) -> float:
        """Of the rounds so far; those that were lost told nobody a sum."""
        sizes = [size for size in self._sizes.values() if size]
        if not sizes:
            return 0.0
        return epsilon_of(PrivateRounds(self._theta, n, self._d, sizes.count(n)) for n in sorted(set(sizes)))

    def after(self) -> str:
        """Return in a line which epsilon the rounds so far have."""
        rounds = sum(size > 0 for size in self._sizes.values())
        return f"epsilon is {self.epsilon:.3g} (delta {DELTA:g}) after {rounds} rounds, {_SEES}"


def private_run(scheme: Scheme, layout: Layout, least: int, protect: "SecureSum | None" = None) -> PrivateRun | None:
    """Return the account of a run on a server; None where masks are not private.

    Args:
        scheme, layout: of the run.
        least: clients that a round asks at least; without `protect`, those that must answer.
        protect: secure sums: of the clients that are asked, its threshold must stay, and no sum of fewer is read.

    Raises:
        ConfigError: as `PrivateRun`.
    """
    if not scheme.theta:
        return None
    if protect is None:
        return PrivateRun(scheme, layout, least, "this server sees single masks, of which epsilon says nothing")
    asked = max(2, least, protect.threshold if isinstance(protect.threshold, int) else 0)
    return PrivateRun(scheme, layout, protect.needed(asked))
