"""The byte account of a method: both ways, by section, a client, a round and in total, raw and as it was coded.

Everything is a sum of lengths of frames; `raw` is what the same frames take with masks as plain bits, and side data and
state as float32 (`fedmrn.wire.plain.plain`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from types import MappingProxyType

from fedmrn.experiments.run.record import WAYS, Record, Way, sizes_on

DIRECTIONS: Mapping[str, tuple[Way, ...]] = MappingProxyType({"up": ("up",), "down": ("down",), "both": WAYS})
SECTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mask": ("coded",),
        "side data": ("dense", "stats", "variance"),
        "header": ("header",),
        "checksum": ("checksum",),
        "keys": ("keys",),
        "shares": ("shares",),
        "unmasking": ("unmasking",),
        "total": ("total",),
    }
)
"""What a person reads -> the parts of `Frame.account`; those of secure sums are in no frame."""
_SECURE = ("keys", "shares", "unmasking")


@dataclass(frozen=True, slots=True)
class Amount:
    """Bytes and bits, as means over seeds.

    Attributes:
        client: bytes a client and round, mean over rounds.
        round: bytes a round, all clients, mean over rounds.
        total: bytes of the whole run.
        bits: a trainable parameter and client, mean over rounds.
        last_bits: the same in the last round.
    """

    client: float
    round: float
    total: float
    bits: float
    last_bits: float


@dataclass(frozen=True, slots=True)
class Line:
    """A section of a method's frames on one way.

    Attributes:
        way: a key of `DIRECTIONS`.
        section: a key of `SECTIONS`.
        coded: as it travelled.
        raw: without coding; None where a record does not say it.
        ratio: coded over raw, in total; None where raw is not known or nothing travelled.
    """

    way: str
    section: str
    coded: Amount
    raw: Amount | None
    ratio: float | None


def account(runs: Sequence[Sequence[Record]]) -> list[Line]:
    """Return the lines of a method from the records of its seeds: each way, each section."""
    known = all(record.raw is not None for records in runs for record in records)
    lines = []
    for way, ways in DIRECTIONS.items():
        for section, parts in SECTIONS.items():
            count = partial(_bytes, ways, parts)
            coded = _amount(runs, count)
            if section in _SECURE and not coded.total:
                continue
            raw = _amount(runs, partial(count, raw=True)) if known else None
            ratio = coded.total / raw.total if raw and raw.total else None
            lines.append(Line(way, section, coded, raw, ratio))
    return lines


def _bytes(ways: Sequence[Way], parts: Sequence[str], record: Record, *, raw: bool = False) -> int:
    """Return the bytes of these parts on these ways; `raw` is of records that know it."""
    source = record.raw if raw and record.raw else record
    return sum(sizes_on(way, source).of(parts) for way in ways)


def _amount(runs: Sequence[Sequence[Record]], count: Callable[[Record], int]) -> Amount:
    def bits(r: Record) -> float:  # both are of the same clients and parameters
        return float(r.bits_per_parameter * count(r) / r.up.total)

    return Amount(
        client=fmean(fmean(count(r) / len(r.clients) for r in records) for records in runs),
        round=fmean(fmean(map(count, records)) for records in runs),
        total=fmean(sum(map(count, records)) for records in runs),
        bits=fmean(fmean(map(bits, records)) for records in runs),
        last_bits=fmean(bits(records[-1]) for records in runs),
    )


ACCOUNT_HEADER = (
    "",
    "client",
    "raw",
    "round",
    "raw",
    "in total",
    "raw",
    "coded/raw",
    "bits",
    "last bits",
    "raw",
)
ACCOUNT_LEGEND = (
    "Bytes of a client a round, of a round, and of the whole run, as they travelled; beside each, raw: the same frames "
    "with masks as plain bits, with side data and state as float32. bits: a trainable parameter and client, mean over "
    "rounds; last bits: in the last round. mask: what the method codes, and on the way down the weights. side data: "
    "parameters and statistics of normalisation layers. keys, shares, unmasking: of secure sums, where masks travel "
    "under pads and raw has them in plain. Of broadcasts and updates: calibration comes on top."
)


def account_cells(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """Return a method's lines as text, in the order of `ACCOUNT_HEADER`."""
    rows: list[tuple[str, ...]] = []
    for line in lines:
        coded, raw, ratio = line.coded, line.raw, line.ratio
        rows.append(
            (
                f"{line.way}, {line.section}",
                f"{coded.client:,.0f}",
                f"{raw.client:,.0f}" if raw else "-",
                f"{coded.round:,.0f}",
                f"{raw.round:,.0f}" if raw else "-",
                f"{coded.total:,.0f}",
                f"{raw.total:,.0f}" if raw else "-",
                "-" if ratio is None else f"{ratio:.4f}",
                f"{coded.bits:.4f}",
                f"{coded.last_bits:.4f}",
                f"{raw.last_bits:.4f}" if raw else "-",
            )
        )
    return rows


def traffic_line(lines: Sequence[Line], calibration: float) -> str:
    """Return a method's traffic in a line: up, down and both, the bits of the last round, and what calibration took.

    Args:
        lines: of `account`.
        calibration: bytes both ways, which the lines do not have.
    """
    found = {line.way: line for line in lines if line.section == "total"}

    def size(way: str) -> str:
        line = found[way]
        coded = f"{line.coded.total / 1e6:.2f}"
        raw = f"{line.raw.total / 1e6:.2f}" if line.raw else "not known"
        return coded if raw == coded else f"{coded} (raw {raw})"

    up, down = (found[way].coded.last_bits for way in WAYS)
    line = f"MB up {size('up')}, down {size('down')}, both {size('both')}"
    line += f"; last round {up:.3f} bits a parameter up, {down:.3f} down"
    return f"{line}; calibration {calibration / 1e6:.2f} MB more" if calibration else line
