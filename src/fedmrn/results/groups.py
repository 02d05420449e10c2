"""Runs as tables show them: groups that differ in nothing but the seed, and what one can say of a group."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import isnan, nan
from statistics import fmean
from typing import Any

from fedmrn.errors import ConfigError
from fedmrn.report.naming import word
from fedmrn.results.records import Plain, StoredRun, spread
from fedmrn.text import spans


@dataclass(frozen=True)
class SeedGroup:
    """Runs of one setting and method with the same options, in the order of their seeds.

    Attributes:
        setting: the preset.
        label: the method, and what tells the group from others of it.
        runs: at least one.
    """

    setting: str
    label: str
    runs: tuple[StoredRun, ...]

    @property
    def seeds(self) -> str:
        """The seeds, with ranges."""
        numbers = [run.seed for run in self.runs if isinstance(run.seed, int)]
        return ", ".join(
            filter(None, (spans(numbers), *(str(run.seed) for run in self.runs if isinstance(run.seed, str))))
        )


def seed_groups(runs: Iterable[StoredRun]) -> list[SeedGroup]:
    """Return runs as groups, in the order of their first runs; labels say what differs if a method is there twice."""
    found: dict[tuple[Any, ...], list[StoredRun]] = {}
    for run in runs:
        members = found.setdefault((run.setting, run.label or run.method, tuple(sorted(run.set.items()))), [])
        if run not in members:  # it may stand in several records
            members.append(run)
    alike: dict[tuple[str, str], list[Mapping[str, Plain]]] = {}
    for setting, label, said in found:
        alike.setdefault((setting, label), []).append(dict(said))
    groups = []
    for (setting, label, said), members in found.items():
        differ = _differing(alike[setting, label])
        more = [word(name, value) for name, value in said if name in differ]
        ordered = sorted(members, key=lambda run: str(run.seed).zfill(20))
        groups.append(SeedGroup(setting, ", ".join([label, *more]), tuple(ordered)))
    return groups


def _differing(tables: Sequence[Mapping[str, Plain]]) -> set[str]:
    names = {name for table in tables for name in table}
    return {name for name in names if len({table.get(name) for table in tables}) > 1}


Values = Callable[[StoredRun], list[float] | None]
"""A run -> a number a round, NaN for a round without; None where it was not kept."""


@dataclass(frozen=True)
class Quantity:
    """What there is of every round.

    Attributes:
        values: a run's.
        combine: the numbers of a range of rounds -> one.
        form: how that is written.
        per: what the sum of the numbers is divided by, of the same rounds; None where `combine` is all.
    """

    values: Values
    combine: Callable[[Sequence[float]], float]
    form: str
    per: Values | None = None

    def of(self, run: StoredRun, first: int, last: int) -> float | None:
        """Return it for a range of rounds; None where the run has not all of them, or nothing to divide by.

        Rounds without a number, which were not tested, are passed over.
        """
        values, counts = self.values(run), self.per(run) if self.per else [1.0] * last
        if values is None or counts is None or last > min(len(values), len(counts)):
            return None
        divisor = sum(counts[first - 1 : last]) if self.per else 1.0
        there = [each for each in values[first - 1 : last] if not isnan(each)]
        return self.combine(there) / divisor if there and divisor else None


def _accuracy(run: StoredRun) -> list[float] | None:
    return [nan if value is None else 100 * value for value in run.accuracy] or None


def _bytes(*ways: str) -> Values:
    def values(run: StoredRun) -> list[float] | None:
        sizes = [spread(getattr(run, way), len(run.accuracy)) for way in ways]
        return None if None in sizes else [float(sum(each)) for each in zip(*filter(None, sizes), strict=True)]

    return values


def _megabytes(*ways: str) -> Quantity:
    return Quantity(_bytes(*ways), lambda values: sum(values) / 1e6, ".2f")


def _clients(run: StoredRun) -> list[float] | None:
    """Trainable parameters of all clients of a round: what bits are counted by."""
    numbers = spread(run.clients, len(run.accuracy)) or []
    return [float(number * run.parameters) for number in numbers]


def _bits(values: Values, per: Values = _clients) -> Quantity:
    return Quantity(values, lambda sizes: 8 * sum(sizes), ".3f", per)


def _again(place: int) -> Values:
    """Bytes (place 0) or parameters (1) of clients that held the public model."""

    def values(run: StoredRun) -> list[float] | None:
        numbers = spread(run.again[place], len(run.accuracy)) if run.again else None
        return None if numbers is None else [float(number * (run.parameters if place else 1)) for number in numbers]

    return values


def _rest(whole: Values, part: Values) -> Values:
    def values(run: StoredRun) -> list[float] | None:
        both = whole(run), part(run)
        return None if both[0] is None or both[1] is None else [a - b for a, b in zip(*both, strict=True)]  # type: ignore[arg-type]

    return values


QUANTITIES: Mapping[str, Quantity] = {
    "accuracy": Quantity(_accuracy, fmean, ".2f"),
    "best": Quantity(_accuracy, max, ".2f"),
    "up MB": _megabytes("up"),
    "down MB": _megabytes("down"),
    "total MB": _megabytes("up", "down"),
    "up bits": _bits(_bytes("up")),
    "mask bits": _bits(_bytes("mask")),
    "down bits": _bits(_bytes("down")),
    "total bits": _bits(_bytes("up", "down")),
    "down bits, again": _bits(_again(0), _again(1)),
    "down bits, new": _bits(_rest(_bytes("down"), _again(0)), _rest(_clients, _again(1))),
}


def rounds_of(words: str, done: int) -> tuple[int, int]:
    """Return the first and the last round that words such as "16-30", "last 10" or "" (all) mean.

    Args:
        words: as above, or "20" or "last".
        done: rounds of the run.

    Raises:
        ConfigError: they mean none.
    """
    if not words:
        return 1, max(done, 1)
    if found := re.fullmatch("last(?: ([1-9][0-9]{0,8}))?", words):
        return max(1, done - int(found[1] or 1) + 1), max(done, 1)
    found = re.fullmatch("([0-9]{1,9})(?:-([0-9]{1,9}))?", words)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last:
        raise ConfigError(f'rounds {words!r} are not of the form "16-30", "20", "last" or "last 10"')
    return first, last


def value_of(run: StoredRun, name: str, words: str) -> float | str | None:
    """Return a quantity of a range of rounds: of the curve, else as it is stated; None if the run does not have it.

    A quantity that is stated stands under its name and the rounds, such as "accuracy 16-20".
    """
    found = QUANTITIES[name].of(run, *rounds_of(words, len(run.accuracy)))
    return run.stated.get(f"{name} {words}".strip()) if found is None else found


def known_of(group: SeedGroup, name: str, words: str) -> list[float]:
    """Return a quantity of a range of rounds of each run of a group that has it as a number."""
    return [value for run in group.runs if isinstance(value := value_of(run, name, words), float)]


def paired(group: SeedGroup, reference: SeedGroup, words: str) -> list[float]:
    """Return the accuracy of a group less that of a reference in points, for each seed that both have."""
    there = {run.seed: value_of(run, "accuracy", words) for run in reference.runs}
    pairs = [(value_of(run, "accuracy", words), there.get(run.seed)) for run in group.runs]
    return [a - b for a, b in pairs if isinstance(a, float) and isinstance(b, float)]


def ratio(group: SeedGroup, reference: SeedGroup, name: str, words: str) -> float | None:
    """Return a reference's mean over that of a group: how many times less the group has."""
    means = []
    for each in (reference, group):
        known = known_of(each, name, words)
        if not known:
            return None
        means.append(fmean(known))
    return means[0] / means[1]


def megabytes_so_far(run: StoredRun, *ways: str) -> list[float] | None:
    """Return the megabytes of all clients up to each round; None where they were not kept."""
    values = _bytes(*ways)(run)
    return None if values is None else [value / 1e6 for value in accumulate(values)]
