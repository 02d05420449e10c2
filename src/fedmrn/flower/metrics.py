"""Metrics of clients, which may be anything: those that agree are averaged, the others are left out and named."""

from collections import Counter
from math import isfinite

from flwr.app import MetricRecord, RecordDict

from fedmrn.flower.records import records_of

_MOST = 10_000
"""Values that one client's metrics have at most."""
Shape = tuple[tuple[str, int], ...]
"""Name and length (-1: a single value) of each metric, in order of names."""


def _shape_of(content: RecordDict, weighted_by: str, heaviest: float) -> Shape | None:
    """Return what a reply's metrics look like; None if they cannot take part in a mean weighted by one of them.

    They can if they are one record of finite numbers, of at most `_MOST` values, whose weight is in (0, heaviest].
    """
    records = list(records_of(content, MetricRecord).values())
    if len(records) != 1:
        return None
    lists = [v if isinstance(v, list) else [v] for v in records[0].values()]
    weight = records[0].get(weighted_by)
    if sum(map(len, lists)) > _MOST or not all(isfinite(v) for values in lists for v in values):
        return None
    if not isinstance(weight, int | float) or not 0 < weight <= heaviest:
        return None
    return tuple(sorted((name, len(v) if isinstance(v, list) else -1) for name, v in records[0].items()))


class Metrics:
    """The metrics of one round's clients, as they come.

    Fewer than half of the clients can neither keep the others' metrics out of the mean nor stop it; what they claim in
    good form counts, by the weight that they claim. Of several forms that are as frequent, the first in their own order
    is taken, whatever the order of the replies.
    """

    def __init__(self, weighted_by: str, heaviest: float) -> None:
        self._weighted_by, self._heaviest = weighted_by, heaviest
        self._found: list[tuple[int, RecordDict, Shape | None]] = []

    def add(self, node: int, content: RecordDict) -> None:
        """Keep what a reply says, without its arrays."""
        shape = _shape_of(content, self._weighted_by, self._heaviest)
        self._found.append((node, RecordDict() if shape is None else _only_metrics(content), shape))

    def agreeing(self) -> tuple[list[RecordDict], list[int]]:
        """Return contents whose metrics have the form that most have, and the nodes whose metrics do not."""
        counts = Counter(shape for _, _, shape in self._found if shape is not None)
        common = min(counts, key=lambda shape: (-counts[shape], shape), default=())
        good = [content for _, content, shape in self._found if shape == common]
        return good, [node for node, _, shape in self._found if shape != common]


def _only_metrics(content: RecordDict) -> RecordDict:
    return RecordDict({name: MetricRecord(dict(record)) for name, record in records_of(content, MetricRecord).items()})
