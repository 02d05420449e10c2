"""What the account of privacy says of a run: before it, and after."""

from collections.abc import Sequence

from fedmrn.experiments.config import Experiment
from fedmrn.experiments.run.record import Record
from fedmrn.federation.private_run import PrivateRun
from fedmrn.wire.layout import Layout

_DICE = "the dice of a simulation follow from its seed, and are not private"


def _account(experiment: Experiment, layout: Layout) -> PrivateRun:
    return PrivateRun(experiment.scheme(), layout, experiment.train.clients_per_round, _DICE)


def before(experiment: Experiment, layout: Layout) -> str:
    """Return in a line which epsilon a run will have.

    Raises:
        ConfigError: dp-accounting is not installed (extra `privacy`), or a round has one client.
    """
    return _account(experiment, layout).before(experiment.train.rounds)


def after(experiment: Experiment, layout: Layout, records: Sequence[Record]) -> str:
    """Return in a line which epsilon these rounds have, by the clients that took part in each.

    Raises:
        ConfigError: as `before`.
    """
    account = _account(experiment, layout)
    account.recall(max((record.round for record in records), default=0), ((r.round, len(r.clients)) for r in records))
    return account.after()
