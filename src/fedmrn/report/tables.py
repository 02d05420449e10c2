"""Tables of the report and of the screen: each a header and rows of text."""

from collections.abc import Sequence

from fedmrn.report.convergence import Reached
from fedmrn.report.runs import Comparison
from fedmrn.report.saving import saving
from fedmrn.report.summary import Summary
from fedmrn.report.times import step_milliseconds

Table = tuple[Sequence[str], Sequence[Sequence[str]]]

# To be formatted with the name of the setting's score.
RESULT = (
    "final %: {score} of the global model on the test samples after the last round; ± is the standard deviation over "
    "seeds. MB: all bytes of all clients in a whole run. total saved: FedAvg's total over this row's."
)
COLUMNS = (
    ("best, last 10", "{score} of the best round (it looks at the test samples), and the mean of the last ten"),
    ("MB", "lengths of frames that were sent and parsed, with headers, checksums and calibration; means over seeds"),
    ("saved", "FedAvg's MB over this row's, where FedAvg had as many rounds and clients"),
    ("bits", "the same bytes, a trainable parameter and client; means over rounds"),
    ("sec, ms a step", "a round, and a step of local training"),
)
CONVERGENCE = (
    "The first round after which the test {score} was at least the target, and the megabytes of all clients until "
    "then. Means over the seeds that reached it; their number, where not all did. A noisy curve crosses early."
)


HEADER = (
    "method",
    "lr",
    "final %",
    "up MB",
    "down MB",
    "total MB",
    "up saved",
    "total saved",
    "up bits",
    "down bits",
    "total bits",
    "best",
    "last 10",
    "sec",
)
_SHORT = ("method", "final %", "total MB", "total saved", "up MB", "down MB")
_NOT_ON_SCREEN = {"best", "last 10", "up saved", "sec"}  # a terminal has 80 columns
LEGEND = (
    "MB: of a whole run, all clients. total saved: FedAvg's total MB over this row's. bits: a trainable parameter and "
    "client, headers included."
)


def cells(row: Summary, rows: Sequence[Summary]) -> tuple[str, ...]:
    """Return a row as text, in the order of `HEADER`; `rows` are those of the same setting, of which it is one."""
    saved = saving(row, rows)
    return (
        row.label,
        f"{row.lr:g}",
        _final(row),
        *(f"{size / 1e6:.2f}" for size in (row.up_bytes, row.down_bytes, row.total_bytes)),
        *(("-", "-") if saved is None else (f"{saved.up:.1f}x", f"{saved.total:.1f}x")),
        *(f"{bits:.3f}" if bits < 10 else f"{bits:.2f}" for bits in (row.up_bits, row.down_bits, row.total_bits)),
        f"{100 * row.best:.2f}",
        f"{100 * row.last_ten:.2f}",
        f"{row.round_seconds:.2f}",
    )


def screen_table(rows: Sequence[Summary]) -> Table:
    """Return the table of results for a terminal: some columns less, and headers of two lines."""
    shown = [i for i, name in enumerate(HEADER) if name not in _NOT_ON_SCREEN]
    body = [[text[i] for i in shown] for text in (cells(row, rows) for row in rows)]
    return [HEADER[i].replace(" ", "\n") for i in shown], body


def short_table(rows: Sequence[Summary]) -> Table:
    """Return what one wants to know first: a row a method, accuracy and traffic."""
    shown = [HEADER.index(name) for name in _SHORT]
    return _SHORT, [[text[i] for i in shown] for text in (cells(row, rows) for row in rows)]


def final_table(comparison: Comparison, rows: Sequence[Summary]) -> Table:
    """Return the table of results: a row a method, with the seeds and rounds that its numbers are of."""
    body = []
    for variant, row in zip(comparison.variants, rows, strict=True):
        *numbers, seconds = cells(row, rows)
        step = step_milliseconds(variant)
        body.append((*numbers, str(row.seeds), variant.progress, seconds, "-" if step is None else f"{step:.3g}"))
    return (*HEADER[:-1], "seeds", "rounds", HEADER[-1], "ms a step"), body


def convergence_table(rows: Sequence[Summary], reached: Sequence[Sequence[Reached]]) -> Table:
    """Return the table of convergence: a row a method, with rounds, uplink and total megabytes to each target."""
    header = ["method"]
    for found in reached[0]:
        header += [f"{100 * found.target:g} %: rounds", "up MB", "total MB"]
    return header, [
        (row.label, *(c for one in targets for c in _cells(one))) for row, targets in zip(rows, reached, strict=True)
    ]


def _cells(found: Reached) -> tuple[str, str, str]:
    if found.rounds is None or found.up_bytes is None or found.total_bytes is None:
        return "-", "-", "-"
    some = f" ({found.reached} of {found.seeds})" if found.reached < found.seeds else ""
    rounds = f"{found.rounds:.1f}".removesuffix(".0")
    return rounds + some, f"{found.up_bytes / 1e6:.2f}", f"{found.total_bytes / 1e6:.2f}"


def overview_table(comparisons: Sequence[Comparison], rows: Sequence[Sequence[Summary]]) -> Table:
    """Return the table of all settings: last accuracies in percent and total savings; a column a method."""
    labels = list(dict.fromkeys(row.label for summaries in rows for row in summaries))
    body = []
    for comparison, summaries in zip(comparisons, rows, strict=True):
        found = {row.label: row for row in summaries}
        body.append((comparison.name, *(_in_short(found.get(label), summaries) for label in labels)))
    return ("setting", *labels), body


def _in_short(row: Summary | None, rows: Sequence[Summary]) -> str:
    if row is None:
        return "-"
    saved = saving(row, rows)
    return _final(row) + ("" if saved is None else f" ({saved.total:.1f}x)")


def _final(row: Summary) -> str:
    return f"{100 * row.final:.2f}" + (f"±{100 * row.final_std:.2f}" if row.seeds > 1 else "")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
