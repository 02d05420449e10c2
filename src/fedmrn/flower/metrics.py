"""Metrics of clients, which may be anything: those that agree are averaged, the others are left out and named."""

from collections import Counter
from collections.abc import Iterable
from math import isfinite

from flwr.app import MetricRecord, RecordDict

Shape = tuple[tuple[str, int], ...]
"""Name and length (-1: a single value) of each metric, in order of names."""


def shape_of(content: RecordDict, weighted_by: str) -> Shape | None:
    """Return what a reply's metrics look like; None if they cannot take part in a mean weighted by one of them."""
    records = list(content.metric_records.values())
    if len(records) != 1:
        return None
    weight = records[0].get(weighted_by)
    if not isinstance(weight, int | float) or not isfinite(weight) or weight <= 0:
        return None
    return tuple(sorted((name, len(v) if isinstance(v, list) else -1) for name, v in records[0].items()))


def agreeing(replies: Iterable[tuple[int, RecordDict]], weighted_by: str) -> tuple[list[RecordDict], list[int]]:
    """Return contents whose metrics have the form that most have, and the nodes whose metrics do not.

    No single client can so keep the others' metrics out of the mean, or stop it. Of several forms that are as
    frequent, the first in their own order is taken, whatever the order of the replies.
    """
    found = [(node, content, shape_of(content, weighted_by)) for node, content in replies]
    counts = Counter(shape for _, _, shape in found if shape is not None)
    if not counts:
        return [], [node for node, _, _ in found]
    common = min(counts, key=lambda shape: (-counts[shape], shape))
    good = [content for _, content, shape in found if shape == common]
    return good, [node for node, _, shape in found if shape != common]


def only_metrics(content: RecordDict) -> RecordDict:
    """Return a content without its arrays, which may be large."""
    return RecordDict({name: MetricRecord(dict(record)) for name, record in content.metric_records.items()})
