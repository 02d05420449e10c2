"""What is recorded of a round: a line of rounds.jsonl, as the runner writes it and as resuming and reports read it.

Further keys may stand in a line. Those that hold a table of numbers by tensor name are observations: what a codec could
say of the round's updates. They go untouched from the server's fold to whoever draws them.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedmrn.errors import ConfigError, RunError
from fedmrn.federation.account import Account, total
from fedmrn.files import open_file
from fedmrn.parsed import parse_json
from fedmrn.server.publisher import Sent
from fedmrn.text import printable

if TYPE_CHECKING:
    from fedmrn.federation.calibration import Calibrated
    from fedmrn.federation.simulation import RoundResult

Way = Literal["up", "down"]
WAYS: tuple[Way, Way] = ("up", "down")
Whole = Annotated[int, Field(ge=0, le=1 << 53, strict=True)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
_Number = Annotated[float, Field(strict=True)]  # a loss may be infinite
_Accuracy = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
_SHAPE = ConfigDict(extra="ignore")
FILE = "rounds.jsonl"
MOST_OF_A_LINE, MOST = 1 << 22, 1 << 30
"""Bytes of a line and of the file that are read at most."""


@dataclass(frozen=True, kw_only=True, config=_SHAPE)
class Sizes:
    """Bytes of all clients together, by part of their frames (`Frame.account`); `total` is the sum of the others.

    Secure sums have keys, shares and unmasking beside frames; in other rounds these are None.
    In records from before running variances were a part of their own, `variance` is None and `stats` holds them.
    """

    coded: Whole
    dense: Whole
    stats: Whole
    variance: Whole | None = None
    header: Whole
    checksum: Whole
    keys: Whole | None = None
    shares: Whole | None = None
    unmasking: Whole | None = None
    total: Whole

    def __post_init__(self) -> None:
        parts = self.coded + self.dense + self.stats + (self.variance or 0) + self.header + self.checksum
        parts += (self.keys or 0) + (self.shares or 0) + (self.unmasking or 0)
        if not 0 < self.total == parts:
            raise ValueError("total is not the sum of the other parts, or is 0")

    def of(self, parts: Iterable[str]) -> int:
        """Return the sum of the bytes of these parts."""
        return sum(getattr(self, part) or 0 for part in parts)


@dataclass(frozen=True, config=_SHAPE)
class Ways:
    """Bytes of the updates (up) and of the broadcasts (down)."""

    up: Sizes
    down: Sizes


@dataclass(frozen=True, kw_only=True, config=_SHAPE)
class CalibrationRecord:
    """The second exchange of a round, in which clients found the statistics of the new model.

    Attributes:
        accuracy, loss: of the model before it, None where the round was not tested; the record's own are of the
            calibrated model.
        clients: who was asked.
        up, down: the bytes of all clients together, beside those of the record.
    """

    accuracy: _Accuracy | None = None
    loss: _Number | None = None
    clients: Annotated[list[Whole], Field(min_length=1)]
    up: Sizes
    down: Sizes


@dataclass(frozen=True, kw_only=True, config=_SHAPE)
class Record:
    """A round; everything but `seconds` is a function of the configuration and the seed.

    The order of the fields is that of a line's keys.

    Attributes:
        round: its number, from 1.
        accuracy: of the new global model on the test samples, in [0, 1] (`fedmrn.data.SCORES` says what it is); None
            where the round was not tested.
        loss, train_loss: on the test samples (None where not tested), and in training: the mean over clients of their
            last local epoch.
        up, down: the bytes of all clients together.
        raw: the same without coding (`fedmrn.wire.plain.plain`); not in runs from before it was counted.
        by_client: way -> coded and total -> bytes of each client, in the order of `clients`; as `raw`, may be missing.
        bits_per_parameter: of the uplink, a trainable parameter and client, everything included.
        calibration: how the model was before it was calibrated, and the bytes of that; None where it was not.
        public: how each client was sent the public model (`fedmrn.server.publisher.Sent`), in the order of `clients`;
            None where there is none.
        further: what else the line holds, as it stands there; see `observed`.
        clients: who took part.
        seconds: wall time, evaluation included.
    """

    round: Whole
    accuracy: _Accuracy | None = None
    loss: _Number | None = None
    train_loss: _Number
    up: Sizes
    down: Sizes
    raw: Ways | None = None
    by_client: dict[str, dict[str, list[Whole]]] | None = None
    bits_per_parameter: _Positive
    calibration: CalibrationRecord | None = None
    public: list[Sent] | None = None
    further: dict[str, Any] = Field(default_factory=dict)
    clients: Annotated[list[Whole], Field(min_length=1)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]

    def __post_init__(self) -> None:
        for name in self.further:
            if name in _KEYS:
                raise ValueError(f"{name!r} is a key of every record: an observable needs another name")

    @classmethod
    def of_line(cls, text: str | bytes) -> "Record":
        """Return the record that a line holds.

        Raises:
            RunError: says which key of the line is wrong.
        """
        try:
            values = parse_json(text, finite=False)  # a loss may be infinite
        except ConfigError as error:
            raise RunError(str(error)) from error
        if not isinstance(values, dict):
            raise RunError("it is not an object")
        known = {key: value for key, value in values.items() if key in _KEYS}
        further = {key: value for key, value in values.items() if key not in _KEYS}
        try:
            return _RECORD.validate_python({**known, "further": further})
        except ValidationError as error:
            raise RunError(explain(error)) from error

    def as_line(self) -> str:
        """Return the line, with its end."""
        values: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "further":
                values |= value  # as it stood there, however deep
            elif value is not None:
                values[field.name] = asdict(value, dict_factory=_known) if isinstance(value, _NESTED) else value
        return json.dumps(values) + "\n"

    def total(self, way: Way) -> int:
        """Return all bytes that went one way, calibration included."""
        own = (self,) if self.calibration is None else (self, self.calibration)
        return sum(sizes_on(way, part).total for part in own)

    @property
    def observed(self) -> dict[str, dict[str, float]]:
        """What was observed of the updates: name -> name of a tensor -> number."""
        return {name: table for name, table in self.further.items() if _is_table(table)}


_NESTED = (Sizes, Ways, CalibrationRecord)


def _known(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in items if value is not None}


_RECORD = TypeAdapter(Record)
_KEYS = {field.name for field in fields(Record)} - {"further"}


def _is_table(value: object) -> bool:
    """Whether a value is a table of numbers by name, with at least one."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(number, int | float) and not isinstance(number, bool) for number in value.values())
    )


def explain(error: ValidationError, *where: str) -> str:
    """Return in a printable line which key is wrong, and why; `where` are the keys around it."""
    first: Any = error.errors()[0]
    place = ".".join((*where, *map(str, first["loc"])))
    text = f"{place}: {first['msg']}" if place else str(first["msg"])
    return printable(text)


def sizes_on(way: Way, ways: Ways | CalibrationRecord | Record) -> Sizes:
    """Return the bytes of the updates (`way` is up) or of the broadcasts (down)."""
    return ways.up if way == "up" else ways.down


def read_records(folder: Path) -> list[Record]:
    """Return the whole lines of rounds.jsonl, as far as they count up from round 1.

    Raises:
        RunError: it cannot be the file of a run, or cannot be read.
    """
    path = folder / FILE
    records: list[Record] = []
    with suppress(FileNotFoundError), open_file(path, MOST, "; delete it, and its rounds are run again") as file:
        while line := file.readline(MOST_OF_A_LINE):
            try:
                record = Record.of_line(line)
            except RunError:
                break
            if record.round != len(records) + 1:
                break
            records.append(record)
    return records


def accuracies(records: Sequence[Record]) -> list[float]:
    """Return the accuracies of the rounds that were tested, in their order."""
    return [record.accuracy for record in records if record.accuracy is not None]


def to_record(result: "RoundResult") -> Record:
    """Return what is recorded of a round."""
    exchanges = result.exchanges
    return Record(
        round=result.round,
        accuracy=result.accuracy,
        loss=result.loss,
        train_loss=result.train_loss,
        up=_sizes(result.up),
        down=_sizes(result.down),
        raw=Ways(_sizes(total(e.raw_up for e in exchanges)), _sizes(total(e.raw_down for e in exchanges))),
        by_client={"up": _columns([e.up for e in exchanges]), "down": _columns([e.down for e in exchanges])},
        bits_per_parameter=result.bits_per_parameter,
        calibration=None if result.calibrated is None else _calibration(result.calibrated),
        public=result.public or None,
        further=result.observed,
        clients=result.clients,
        seconds=round(result.seconds, 3),
    )


def _calibration(found: "Calibrated") -> CalibrationRecord:
    return CalibrationRecord(
        accuracy=found.accuracy, loss=found.loss, clients=found.clients, up=_sizes(found.up), down=_sizes(found.down)
    )


def _columns(accounts: Sequence[Account]) -> dict[str, list[int]]:
    return {"coded": [a["coded"] for a in accounts], "total": [sum(a.values()) for a in accounts]}


def _sizes(account: Account) -> Sizes:
    return Sizes(**account, total=sum(account.values()))
