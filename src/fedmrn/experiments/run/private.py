"""What the account of privacy says of a run: before it, and after."""

from collections.abc import Sequence

from fedmrn.experiments.config import Experiment
from fedmrn.experiments.run.record import Record
from fedmrn.privacy import DELTA, PrivateRounds, epsilon_of
from fedmrn.wire.layout import Group, Layout

_SEES = "for who sees the sums of masks alone, clients honest"


def before(experiment: Experiment, layout: Layout) -> str:
    """Return in a line which epsilon a run will have.

    Raises:
        ConfigError: dp-accounting is not installed (extra `privacy`).
    """
    theta, train, d = experiment.scheme().theta, experiment.train, layout.span(Group.CODED).stop
    epsilon = epsilon_of([PrivateRounds(theta, train.clients_per_round, d, train.rounds)])
    return (
        f"with these settings epsilon will be {epsilon:.3g} (delta {DELTA:g}) for each client, {_SEES}: "
        f"theta {theta:g}, {train.clients_per_round} clients a round, {train.rounds} rounds, {d:,} coded parameters; "
        "the dice of a simulation follow from its seed, and are not private"
    )


def after(experiment: Experiment, layout: Layout, records: Sequence[Record]) -> str:
    """Return in a line which epsilon these rounds have, by the clients that took part in each.

    Raises:
        ConfigError: as `before`.
    """
    theta, d = experiment.scheme().theta, layout.span(Group.CODED).stop
    sizes = [len(record.clients) for record in records]
    epsilon = epsilon_of(PrivateRounds(theta, n, d, sizes.count(n)) for n in sorted(set(sizes)))
    return f"epsilon is {epsilon:.3g} (delta {DELTA:g}) after {len(sizes)} rounds, {_SEES}"
