"""What came of runs, in numbers: one row a method, over its seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from fedmrn.experiments.run.record import WAYS, Record
from fedmrn.report.account import Line, account

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
        final, final_std: accuracy after the last round, mean and standard deviation over seeds (0 for one seed).
        best: mean over seeds of the best round. It looks at the test set; quote `final`.
        last_ten: mean accuracy of the last ten rounds.
        up_bytes, down_bytes, total_bytes: of a whole run, all clients: the lengths of all frames, and both ways.
        bits_per_parameter: uplink bits a trainable parameter a client, everything included, mean over rounds.
        round_seconds: a round, evaluation included.
        account: the bytes each way by section.
    """

    method: str
    label: str
    lr: float
    seeds: int
    rounds: int
    final: float
    final_std: float
    best: float
    last_ten: float
    up_bytes: float
    down_bytes: float
    total_bytes: float
    bits_per_parameter: float
    round_seconds: float
    account: list[Line] = field(repr=False)


def summarise(method: str, lr: float, runs: Sequence[Sequence[Record]], label: str = "") -> Summary:
    """Return the row of a method from the records of its runs (at least one, each with as many rounds, at least one).

    The label is the method's name, unless given.
    """
    finals = [records[-1].accuracy for records in runs]
    up, down = (fmean(sum(r.total(way) for r in records) for records in runs) for way in WAYS)
    return Summary(
        method=method,
        label=label or method,
        lr=lr,
        seeds=len(runs),
        rounds=len(runs[0]),
        final=fmean(finals),
        final_std=stdev(finals) if len(finals) > 1 else 0.0,
        best=fmean(max(r.accuracy for r in records) for records in runs),
        last_ten=fmean(fmean(r.accuracy for r in records[-_LAST:]) for records in runs),
        up_bytes=up,
        down_bytes=down,
        total_bytes=up + down,
        bits_per_parameter=fmean(fmean(r.bits_per_parameter for r in records) for records in runs),
        round_seconds=fmean(fmean(r.seconds for r in records) for records in runs),
        account=account(runs),
    )


HEADER = ("method", "lr", "final %", "best", "last 10", "up MB", "saved", "bpp", "down MB", "sec")
LEGEND = (
    "saved: FedAvg's uplink over this one. bpp: uplink bits a parameter and client, headers included. sec: a round."
)


def cells(row: Summary, reference: Summary | None) -> tuple[str, ...]:
    """Return a row as text, in the order of `HEADER`; `reference` is what its uplink is compared with."""
    factor = "-"
    if reference:  # of a round: not all may have the same rounds yet
        factor = f"{reference.up_bytes / reference.rounds / (row.up_bytes / row.rounds):.1f}x"
    spread = f"±{100 * row.final_std:.2f}" if row.seeds > 1 else ""
    return (
        row.label,
        f"{row.lr:g}",
        f"{100 * row.final:.2f}{spread}",
        f"{100 * row.best:.2f}",
        f"{100 * row.last_ten:.2f}",
        f"{row.up_bytes / 1e6:.2f}",
        factor,
        f"{row.bits_per_parameter:.3f}",
        f"{row.down_bytes / 1e6:.2f}",
        f"{row.round_seconds:.2f}",
    )


def reference_of(rows: Sequence[Summary]) -> Summary | None:
    """Return FedAvg's row (the best of several), which others are compared with, or None if it did not run."""
    return max((row for row in rows if row.method == "fedavg"), key=lambda row: row.final, default=None)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
