"""What came of runs, in numbers: one summary a method, over its seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from fedmrn.experiments.run.record import WAYS, Record, Way, accuracies, sizes_on
from fedmrn.report.account import Line, account

EXACT = "float32"
"""The value of `method.down` with which clients hold exactly what the server has."""
_LAST = 10


@dataclass(frozen=True, slots=True)
class Summary:
    """A method's row; accuracies in [0, 1], bytes and seconds as means over seeds.

    Attributes:
        method: its name.
        label: the name, and what tells it from other rows of the method.
        lr: the learning rate.
        seeds: how many runs.
        rounds: of each run.
        clients: that took part in a round, mean over rounds and seeds.
        down: how the state travels down, the value of `method.down`.
        final, final_std: accuracy after the last tested round, mean and standard deviation over seeds (0 for one
            seed).
        best: mean over seeds of the best round. It looks at the test set; quote `final`.
        last_ten: mean accuracy of those of the last ten rounds that were tested, or of the last tested round.
        up_bytes, down_bytes, total_bytes: of a whole run, all clients: the lengths of all frames, with those of
            calibration, and both ways.
        calibration_bytes: those of `total_bytes` that calibration took, which the account does not have.
        up_bits, down_bits, total_bits: the same bytes as bits a trainable parameter and client, mean over rounds.
        bits_per_parameter: of updates alone, as the records have it: `up_bits` where nothing was calibrated.
        round_seconds: a round, evaluation included.
        account: the bytes each way by section.
    """

    method: str
    label: str
    lr: float
    seeds: int
    rounds: int
    clients: float
    down: str
    final: float
    final_std: float
    best: float
    last_ten: float
    up_bytes: float
    down_bytes: float
    total_bytes: float
    calibration_bytes: float
    up_bits: float
    down_bits: float
    total_bits: float
    bits_per_parameter: float
    round_seconds: float
    account: list[Line] = field(repr=False)


def summarise(
    method: str, lr: float, runs: Sequence[Sequence[Record]], label: str = "", *, down: str = EXACT
) -> Summary:
    """Return the summary of a method.

    Args:
        method: its name.
        lr: the learning rate.
        runs: the records of its runs: at least one, each with as many rounds, at least one of them tested.
        label: the method's name, unless given.
        down: the value of `method.down`.
    """
    curves = [accuracies(records) for records in runs]
    finals = [curve[-1] for curve in curves]
    up, down_ = (fmean(sum(r.total(way) for r in records) for records in runs) for way in WAYS)
    up_bits, down_bits = (fmean(fmean(_bits(r, way) for r in records) for records in runs) for way in WAYS)
    return Summary(
        method=method,
        label=label or method,
        lr=lr,
        seeds=len(runs),
        rounds=len(runs[0]),
        clients=fmean(fmean(len(r.clients) for r in records) for records in runs),
        down=down,
        final=fmean(finals),
        final_std=stdev(finals) if len(finals) > 1 else 0.0,
        best=fmean(max(curve) for curve in curves),
        last_ten=fmean(fmean(accuracies(records[-_LAST:]) or accuracies(records)[-1:]) for records in runs),
        up_bytes=up,
        down_bytes=down_,
        total_bytes=up + down_,
        calibration_bytes=fmean(sum(map(_calibration, records)) for records in runs),
        up_bits=up_bits,
        down_bits=down_bits,
        total_bits=up_bits + down_bits,
        bits_per_parameter=fmean(fmean(r.bits_per_parameter for r in records) for records in runs),
        round_seconds=fmean(fmean(r.seconds for r in records) for records in runs),
        account=account(runs),
    )


def _calibration(record: Record) -> int:
    """Return the bytes of a round's calibration, both ways."""
    return sum(record.total(way) - sizes_on(way, record).total for way in WAYS)


def _bits(record: Record, way: Way) -> float:
    """Return a round's bits a trainable parameter and client on one way, calibration included."""
    return record.bits_per_parameter * record.total(way) / record.up.total


def reference_of(rows: Sequence[Summary]) -> Summary | None:
    """Return FedAvg's row (the best of several), whose accuracy others are compared with, or None if it did not run."""
    return max((row for row in rows if row.method == "fedavg"), key=lambda row: row.final, default=None)
