"""Metrics of clients as they travel over HTTP: a JSON object of numbers in a header, and their mean."""

import json
from collections import Counter
from collections.abc import Mapping
from math import fsum, isfinite
from typing import NoReturn

from fedmrn.errors import WrongMessageError
from fedmrn.wire.frame import DEFAULT_LIMITS

WEIGHT = "num-examples"
"""The metric that says how much the others count."""
MOST_BYTES = 4096
"""Characters of a header with JSON."""
_MOST, _LONGEST = 32, 64
_HEAVIEST = DEFAULT_LIMITS.max_weight


def read_metrics(text: str) -> dict[str, float]:
    """Return the numbers that a client sent, by name; none where the text is empty.

    Raises:
        WrongMessageError: it is not what `write_metrics` writes.
    """
    if not text:
        return {}
    if len(text) > MOST_BYTES or not text.isascii():
        raise WrongMessageError(f"metrics are at most {MOST_BYTES} characters of ASCII, got {len(text)}")
    try:
        found = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise WrongMessageError("metrics are a JSON object of finite numbers, and this is no JSON") from error
    if not isinstance(found, dict) or len(found) > _MOST:
        raise WrongMessageError(f"metrics are a JSON object of at most {_MOST} numbers")
    return {_name(name): _number(name, value) for name, value in found.items()}


def write_metrics(metrics: Mapping[str, float]) -> str:
    """Return metrics as they travel, and as `read_metrics` takes them.

    Raises:
        WrongMessageError: there are more than 32, a name is longer than 64 characters, or a value is not finite.
    """
    text = json.dumps(
        {_name(name): _number(name, value) for name, value in metrics.items()}, separators=(",", ":"), allow_nan=False
    )
    read_metrics(text)
    return text


def weight_of(metrics: Mapping[str, float], frame: int | None = None) -> int:
    """Return how much a client's metrics count: what they say, else the weight of its frame.

    Raises:
        WrongMessageError: they say nothing and there is no frame, or it is no whole number from 1 to 2^20.
    """
    weight = metrics.get(WEIGHT, frame)
    if weight is None or weight != int(weight) or not 1 <= weight <= _HEAVIEST:
        raise WrongMessageError(f"the metric {WEIGHT} is a whole number from 1 to {_HEAVIEST}, got {weight}")
    return int(weight)


class MetricMeans:
    """The weighted means of one round's metrics.

    Those count that have the names that most clients' have: fewer than half of the clients can neither keep the others'
    metrics out nor stop them. Of several forms that are as frequent, the first in their own order is taken.
    """

    def __init__(self) -> None:
        self._found: dict[int, tuple[int, dict[str, float]]] = {}

    def add(self, client: int, weight: int, metrics: Mapping[str, float]) -> None:
        """Keep what a client says."""
        self._found[client] = weight, {name: value for name, value in metrics.items() if name != WEIGHT}

    def mean(self) -> dict[str, float]:
        """Return the means, each between the least and the largest value; empty where nobody said anything."""
        forms = Counter(tuple(sorted(values)) for _, values in self._found.values() if values)
        common = min(forms, key=lambda form: (-forms[form], form), default=())
        rows = [self._found[client] for client in sorted(self._found)]
        good = [(weight, values) for weight, values in rows if tuple(sorted(values)) == common]
        total = sum(weight for weight, _ in good)
        means = {name: fsum(weight / total * values[name] for weight, values in good) for name in common}
        columns = {name: [values[name] for _, values in good] for name in common}
        return {name: min(max(mean, min(columns[name])), max(columns[name])) for name, mean in means.items()}


def _name(name: str) -> str:
    if not isinstance(name, str) or not 1 <= len(name) <= _LONGEST or not (name.isascii() and name.isprintable()):
        raise WrongMessageError(f"the name of a metric is 1 to {_LONGEST} printable characters of ASCII")
    return name


def _number(name: str, value: object) -> float:
    if isinstance(value, str | bytes | bool):
        raise WrongMessageError(f"metric {name[:_LONGEST]!r} is no number")
    try:
        number = float(value)  # type: ignore[arg-type]  # numbers of NumPy and tensors of one element will do
    except (TypeError, ValueError, OverflowError) as error:
        raise WrongMessageError(f"metric {name[:_LONGEST]!r} is no number that a double holds") from error
    if not isfinite(number):
        raise WrongMessageError(f"metric {name[:_LONGEST]!r} is not finite")
    return int(number) if number.is_integer() and abs(number) < 1 << 53 else number


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
