"""Tables of a page: what tables.toml asks for, from the records."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isnan, nan
from statistics import fmean, stdev

from fedmrn.errors import ConfigError
from fedmrn.methods import METHODS
from fedmrn.report.verdict import interval
from fedmrn.results.groups import (
    QUANTITIES,
    SeedGroup,
    known_of,
    paired,
    ratio,
    seed_groups,
    value_of,
)
from fedmrn.results.records import Collection, StoredRun
from fedmrn.results.specs import ClaimCell, ClaimsSpec, Column, Columns, TableSpec, Where
from fedmrn.text import nearest

Collections = Mapping[str, Collection]
TableText = tuple[list[str], list[list[str]]]
"""Header and rows."""
_NOT_RUN = "not run"
_SAVED = {"up saved": "up MB", "total saved": "total MB"}
_DEFAULT: Columns = [
    "method",
    "lr",
    "seeds",
    Column(value="accuracy", rounds="last", head="final %"),
    "up MB",
    "down MB",
]


def table_of(spec: TableSpec, collections: Collections) -> TableText:
    """Return header and rows.

    Raises:
        ConfigError: the table asks for what the records do not have.
    """
    listed = named(spec.records, collections)
    if spec.rows == "stated":
        (collection, *more) = listed
        if more or not collection.header:
            raise ConfigError(f"{spec.records}: one collection with a table of its own is needed where rows are stated")
        return list(collection.header), [list(row) for row in collection.rows]
    every = [run for collection in listed for run in collection.runs]
    groups = ordered(seed_groups(run for run in every if fits(run, spec.where)), spec.order)
    references = seed_groups(every)
    references += [
        replace(each, setting=to) for to, of in spec.like.items() for each in references if each.setting == of
    ]
    if spec.rows == "rounds":
        return _by_rounds(spec, groups, references)
    if spec.rows == "rates":
        return _by_rates(spec, groups)
    columns = [_column(each) for each in spec.columns or _DEFAULT]
    if spec.rows == "runs":
        groups = [replace(group, runs=(run,)) for group in groups for run in group.runs]
    rows = [[_named(cell(column, group, references), spec.names) for column in columns] for group in groups]
    return [column.heading for column in columns], rows


def _by_rounds(spec: TableSpec, groups: Sequence[SeedGroup], references: Sequence[SeedGroup]) -> TableText:
    columns = [_column(each) for each in spec.columns]
    rows = []
    for words in spec.rounds:
        row = [words.replace("-", " to ")]
        for column in columns:
            found = [group for group in groups if group.label == column.of]
            if len(found) != 1:
                labels = ", ".join(sorted({group.label for group in groups}))
                raise ConfigError(f"column {column.heading}: of = {column.of!r} is not one of {labels}, or several are")
            row.append(cell(replace(column, rounds=words), found[0], references))
        rows.append(row)
    return ["rounds", *(column.heading for column in columns)], rows


def _by_rates(spec: TableSpec, groups: Sequence[SeedGroup]) -> TableText:
    """Return a row a method and a column a rate, and which rate gave the highest value; of equal ones the lowest."""
    if len(spec.columns) != 1 or _column(spec.columns[0]).value not in QUANTITIES:
        raise ConfigError('rows by rates: one column is needed, of a quantity of rounds such as "accuracy"')
    quantity, found = _column(spec.columns[0]), dict[str, dict[float, float]]()
    for group in groups:
        method, lr = group.runs[0].method, group.runs[0].lr
        if lr in found.setdefault(method, {}):
            raise ConfigError(f"rows by rates: {method} is there twice with lr={lr:g}; say which in `where`")
        known = known_of(group, quantity.value, quantity.rounds)
        found[method][lr] = fmean(known) if len(known) == len(group.runs) else nan
    rows, rates = [], sorted({lr for by_rate in found.values() for lr in by_rate})
    for method, by_rate in found.items():
        tried = sorted(lr for lr, value in by_rate.items() if not isnan(value))
        best = max(tried, key=by_rate.__getitem__, default=nan)
        edge = " (edge of the grid)" if len(tried) > 1 and best in (tried[0], tried[-1]) else ""
        cells = [f"{by_rate[lr]:{QUANTITIES[quantity.value].form}}" if lr in tried else _NOT_RUN for lr in rates]
        rows.append([_named(method, spec.names), *cells, f"{best:g}{edge}"])
    return ["method", *(f"lr={lr:g}" for lr in rates), "takes"], rows


def claims_of(spec: ClaimsSpec, collections: Collections) -> TableText:
    """Return the table of claims."""
    rows = []
    for row in spec.rows:
        numbers = [_number(each, collections) for each in row.cells]
        try:
            measured = row.measured.format(*numbers)
        except (IndexError, KeyError, ValueError) as error:
            raise ConfigError(f"claim {row.claim!r}: {row.measured!r} does not fit its {len(numbers)} cells") from error
        rows.append([row.claim, measured, f"**{row.verdict}**", row.more])
    return ["claim", "measured here", "verdict", "more"], rows


def _number(spec: ClaimCell, collections: Collections) -> str:
    every = [run for collection in named(spec.records, collections) for run in collection.runs]
    groups = seed_groups(run for run in every if fits(run, spec.where))
    if len(groups) != 1:
        raise ConfigError(f"{spec.records} {spec.where}: {len(groups)} groups of runs, where a cell needs one")
    return cell(spec, groups[0], seed_groups(every))


def named(records: Sequence[str], collections: Collections) -> list[Collection]:
    """Return the collections of these names.

    Raises:
        ConfigError: one is not there.
    """
    for name in records:
        if name not in collections:
            raise ConfigError(f"records {name!r} do not exist{nearest(name, collections)}")
    return [collections[name] for name in records]


def fits(run: StoredRun, where: Where) -> bool:
    """Whether a run is one of those that are asked for."""
    known = {"setting": run.setting, "method": run.method, "seed": run.seed, "label": run.label or run.method} | run.set
    return all(known.get(name, "") in values for name, values in where.items())


def ordered(groups: Sequence[SeedGroup], order: Sequence[str]) -> list[SeedGroup]:
    """Return groups by the order of their settings, then of their labels; those that it does not name last."""

    def place(name: str) -> int:
        return order.index(name) if name in order else len(order)

    return sorted(groups, key=lambda group: (place(group.setting), place(group.label)))


def _column(column: str | Column) -> Column:
    return Column(value=column) if isinstance(column, str) else column


def _named(text: str, names: Mapping[str, str]) -> str:
    return names.get(text, text)


def cell(column: Column, group: SeedGroup, references: Sequence[SeedGroup]) -> str:
    """Return what a column says of a group.

    Args:
        column: the column.
        group: the group.
        references: all groups of the records, one of which the column may be against.

    Raises:
        ConfigError: there is no such value.
    """
    run, name = group.runs[0], column.value
    known = {"setting": run.setting, "method": group.label, "seeds": group.seeds, "lr": f"{run.lr:g}", "note": run.note}
    if name in known:
        return known[name]
    if name in QUANTITIES or name in _SAVED or name in ("difference", "by seed"):
        return _measured(column, group, references)
    said = [each.stated.get(name, each.set.get(name)) for each in group.runs]
    if all(value is None for value in said):
        return "-"
    return " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in said if value is not None)


def _measured(column: Column, group: SeedGroup, references: Sequence[SeedGroup]) -> str:
    name, words = column.value, column.rounds
    if name in QUANTITIES:
        return _quantity(name, group, words)
    said = [run.stated[name] for run in group.runs if name in run.stated]
    reference = None if said else _reference(column, group, references)
    if reference is None:
        return " ".join(map(str, said)) or _NOT_RUN
    return _compared(column, group, reference)


def _compared(column: Column, group: SeedGroup, reference: SeedGroup) -> str:
    name, words = column.value, column.rounds
    if name in _SAVED:
        times = ratio(group, reference, _SAVED[name], words)
        return _NOT_RUN if times is None else f"{times:.1f}x"
    if reference.runs == group.runs:
        return "-"
    found = paired(group, reference, words)
    if name == "difference" and len(found) > 1:
        return _with_interval(found)
    return " ".join(f"{each:+.2f}" for each in found) or _NOT_RUN


def _quantity(name: str, group: SeedGroup, words: str) -> str:
    every = [value_of(run, name, words) for run in group.runs]
    texts = [value for value in every if isinstance(value, str)]
    values = [value for value in every if isinstance(value, float)]
    if texts or not values:
        return " ".join(texts) or _NOT_RUN
    form = QUANTITIES[name].form
    text = f"{fmean(values):{form}}"
    if name in ("accuracy", "best") and len(values) > 1:
        text += f"±{stdev(values):{form}}"
    return text if len(values) == len(every) else f"{text} ({len(values)} of {len(every)} seeds)"


def _with_interval(values: Sequence[float]) -> str:
    mean, half = interval(values)
    return f"{mean:+.2f}±{half:.2f}"


def _reference(column: Column, group: SeedGroup, references: Sequence[SeedGroup]) -> SeedGroup | None:
    """Return the group that a column is against; None if that is a method which was not run there."""
    here = [each for each in references if each.setting == group.setting]
    found = [g for g in here if g.label == column.against]
    found = found or [g for g in here if g.runs[0].method == column.against]
    if not found and column.against in METHODS:
        return None
    if len(found) != 1:
        labels = ", ".join(each.label for each in here)
        raise ConfigError(
            f"against = {column.against!r}: {len(found)} of {labels} in {group.setting}, where one is needed"
        )
    return found[0]
