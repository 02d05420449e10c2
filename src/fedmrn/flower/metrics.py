"""Metrics of clients, which may be anything: those that agree are averaged, the others are left out and named."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from logging import WARNING, getLogger
from math import isfinite
from numbers import Integral, Real
from typing import SupportsFloat, cast

from flwr.app import MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from fedmrn.errors import ConfigError
from fedmrn.flower.records import records_of

log = getLogger("flwr").log
_MOST = 10_000
"""_Values that one client's metrics have at most."""
_WHOLE = range(-(1 << 63), 1 << 63)
"""Whole numbers that Flower carries as such."""
Shape = tuple[tuple[str, int], ...]
"""Name and length (-1: a single value) of each metric, in order of names."""
_Aggregate = Callable[[list[RecordDict], str], MetricRecord]
"""Takes the mean of contents' metrics, weighted by the one of this name."""
_Number = int | float
Given = SupportsFloat | Sequence[SupportsFloat]
"""A metric as a client's author has it."""
_Values = dict[str, int | float | list[int] | list[float]]


def to_metrics(metrics: Mapping[str, Given]) -> MetricRecord:
    """Return a client's numbers as Flower carries them: whole numbers of 64 bits, and doubles.

    Numbers of NumPy and tensors of one element will do; whole numbers beyond 64 bits become doubles.

    Raises:
        ConfigError: a value is no number, or beyond what a double holds.
    """
    return MetricRecord(
        {
            name: _numbers(name, value)
            if isinstance(value, list | tuple)
            else _number(name, cast(SupportsFloat, value))
            for name, value in metrics.items()
        }
    )


def _numbers(name: str, values: Sequence[SupportsFloat]) -> list[int] | list[float]:
    """Return numbers of one type, as Flower wants them in a list."""
    found = [_number(name, value) for value in values]
    whole = [value for value in found if isinstance(value, int)]
    return whole if len(whole) == len(found) else [float(value) for value in found]


def _number(name: str, value: SupportsFloat) -> _Number:
    if isinstance(value, Integral) and int(value) in _WHOLE:
        return int(value)
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"metric {name!r} is no number that a double holds: {type(value).__name__}") from error


def _is_fit(value: object) -> bool:
    """Whether Flower can carry a value, and a mean can be taken of it."""
    if isinstance(value, int):
        return value in _WHOLE
    return isinstance(value, Real) and isfinite(value)


def _shape_of(content: RecordDict, weighted_by: str, heaviest: float) -> Shape | None:
    """Return what a reply's metrics look like; None if they cannot take part in a mean weighted by one of them.

    They can if they are one record of finite numbers, of at most `_MOST` values, whose weight is in (0, heaviest].
    """
    records = list(records_of(content, MetricRecord).values())
    if len(records) != 1:
        return None
    lists = [v if isinstance(v, list) else [v] for v in records[0].values()]
    weight = records[0].get(weighted_by)
    if sum(map(len, lists)) > _MOST or not all(_is_fit(v) for values in lists for v in values):
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

    def mean(self, round: int, aggregate: _Aggregate) -> _Values:
        """Return the mean of the metrics that agree, as `aggregate` takes it; the others are named in the log."""
        good, others = self.agreeing()
        if others:
            text = "round %s: metrics left out, as their form is not the others', of nodes %s"
            log(WARNING, text, round, others)
        take = _mean_of if aggregate is aggregate_metricrecords else aggregate
        return dict(take(good, self._weighted_by)) if good else {}


def _mean_of(contents: list[RecordDict], weighted_by: str) -> MetricRecord:
    """Return the weighted mean of metrics of one form, as Flower takes it; it lies between the least and the largest.

    Flower's own sum of values near the largest double can round to infinity.
    """
    mean = aggregate_metricrecords(contents, weighted_by)
    records = [next(iter(records_of(content, MetricRecord).values())) for content in contents]
    for name, value in mean.items():
        columns = [record[name] for record in records]
        if isinstance(value, list):
            rows = zip(*cast("list[list[float]]", columns), strict=True)
            mean[name] = [_between(float(one), row) for one, row in zip(value, rows, strict=True)]
        else:
            mean[name] = _between(float(value), cast("list[float]", columns))
    return mean


def _between(mean: float, values: "list[float] | tuple[float, ...]") -> float:
    return min(max(mean, float(min(values))), float(max(values)))


def _only_metrics(content: RecordDict) -> RecordDict:
    return RecordDict({name: MetricRecord(dict(record)) for name, record in records_of(content, MetricRecord).items()})
