"""tables.toml of a store: what the marks of its pages show."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StrictBool
from pydantic.dataclasses import dataclass

from fedmrn.errors import ConfigError
from fedmrn.experiments.parsing import parse_toml, validate
from fedmrn.files import read_file
from fedmrn.results.records import Plain, Text, Word

FILE = "tables.toml"
_MOST_BYTES = 1 << 20
_SHAPE = ConfigDict(extra="forbid")
Where = dict[Word, list[Plain]]
"""What a run must be to be shown: setting, method, seed, label or an option, such as "method.scale" -> its values."""
Names = dict[Word, Word]
"""What a setting or a label is called -> what a page calls it."""


@dataclass(frozen=True, kw_only=True, config=_SHAPE)
class Column:
    """A column of a table, or a number in a claim.

    Attributes:
        value: setting, method, seeds, lr, an option, a key of `stated`, a quantity of `groups.QUANTITIES`,
            "difference" (of accuracy, paired by seed, with its 95 % interval), "by seed" (the same, one after another),
            "up saved" or "total saved" (how many times less than the reference).
        head: what stands above it; `value`, unless given.
        rounds: such as "16-30", "20", "last", "last 10"; all, unless given.
        against: the method, or the label among all runs of the records, that differences and savings are against.
        of: the label whose value this is, where rows are ranges of rounds.
    """

    value: Word
    head: Word = ""
    rounds: Word = ""
    against: Word = "fedavg"
    of: Word = ""

    @property
    def heading(self) -> str:
        """What stands above it."""
        return self.head or self.value


Columns = list[Word | Column]


@dataclass(frozen=True, kw_only=True, config=_SHAPE)
class TableSpec:
    """A table.

    Attributes:
        records: the collections that its runs are of.
        where: which of their runs.
        rows: a row for each group of seeds, each run, or each range of rounds; "rates" is a row for each method, with
            the column's value at each learning rate, and the best rate; "stated" is the table of a collection.
        rounds: the ranges, where rows are.
        columns: what is shown.
        like: a setting -> another, whose runs are references for its own too.
        names: of settings and labels.
        order: settings and labels, in the order of rows.
        pending: the records may not be there yet; the page then says so.
    """

    records: list[Word]
    pending: StrictBool = False
    where: Where = Field(default_factory=dict)
    rows: Literal["groups", "runs", "rounds", "rates", "stated"] = "groups"
    rounds: list[Word] = Field(default_factory=list)
    columns: Columns = Field(default_factory=list)
    like: Names = Field(default_factory=dict)
    names: Names = Field(default_factory=dict)
    order: list[Word] = Field(default_factory=list)


@dataclass(frozen=True, kw_only=True, config=_SHAPE)
class FigureSpec:
    """A figure: accuracy of groups of seeds, or two columns of a table that a collection has of its own.

    Attributes:
        records, pending, where, names, order: as of a table.
        against: rounds, total traffic or uploaded bytes.
        title: what it shows.
        least: where the axis of accuracy starts, in %.
        columns: two columns of a stated table, across and up: a point a row, with the row's number.
    """

    records: list[Word]
    title: Text
    pending: StrictBool = False
    where: Where = Field(default_factory=dict)
    names: Names = Field(default_factory=dict)
    order: list[Word] = Field(default_factory=list)
    against: Literal["rounds", "traffic", "upload"] = "rounds"
    least: Annotated[float, Field(ge=0, lt=100)] = 0.0
    columns: Annotated[list[Word], Field(max_length=2)] = Field(default_factory=list)


@dataclass(frozen=True, kw_only=True, config=_SHAPE)
class SourceSpec:
    """Commands and origins of collections.

    Attributes:
        records, pending: as of a table.
    """

    records: list[Word]
    pending: StrictBool = False


@dataclass(frozen=True, kw_only=True, config=_SHAPE)
class ClaimCell(Column):
    """A number in a claim: a column of one group.

    Attributes:
        records, where: name exactly one group of seeds.
    """

    records: list[Word] = Field(default_factory=list)
    where: Where = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=_SHAPE)
class ClaimRow:
    """A claim: a line.

    Attributes:
        claim: what is claimed.
        measured: what was measured, with {} for each of the cells.
        cells: the numbers.
        verdict: what follows.
        more: where to read on, or the command.
    """

    claim: Text
    measured: Text
    verdict: Literal["holds", "holds in part", "does not hold", "not shown", "not tested"]
    more: Text
    cells: list[ClaimCell] = Field(default_factory=list)


@dataclass(frozen=True, kw_only=True, config=_SHAPE)
class ClaimsSpec:
    """A table of claims."""

    rows: list[ClaimRow]


@dataclass(frozen=True, kw_only=True, config=_SHAPE)
class Specs:
    """What tables.toml says, by the name in the marks."""

    table: dict[Word, TableSpec] = Field(default_factory=dict)
    figure: dict[Word, FigureSpec] = Field(default_factory=dict)
    source: dict[Word, SourceSpec] = Field(default_factory=dict)
    claims: dict[Word, ClaimsSpec] = Field(default_factory=dict)


def read_specs(folder: Path) -> Specs:
    """Return what a store's tables.toml says; nothing if there is none.

    Raises:
        ConfigError: naming the key that is wrong.
    """
    path = folder / FILE
    data = read_file(path, _MOST_BYTES, "; mend it", error=ConfigError)
    if data is None:
        return Specs()
    try:
        return validate(Specs, parse_toml(data.decode("utf-8"), str(path)), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file in UTF-8") from error
