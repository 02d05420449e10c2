"""Tables of the report: each a header and rows of text."""

from collections.abc import Sequence

from fedmrn.report.convergence import Reached
from fedmrn.report.runs import Comparison
from fedmrn.report.summary import HEADER, Summary, cells, reference_of
from fedmrn.report.times import step_milliseconds

Table = tuple[Sequence[str], Sequence[Sequence[str]]]

# To be formatted with the name of the setting's score.
FINAL = (
    "The {score} is that of the global model on the test samples, in percent: after the last round (with the standard "
    "deviation over seeds), in the best, and the mean of the last ten. Bytes are lengths of frames that were written, "
    "sent and parsed, headers and checksums included, mean over seeds. saved: FedAvg's uplink over this one, a round. "
    "bpp: uplink bits a parameter and client, headers included. sec: a round, and ms a step: of local training "
    "(see Time)."
)
CONVERGENCE = (
    "The first round after which the test {score} was at least the target, and the megabytes of all clients up to and "
    "with that round; means over the seeds that reached it, with their number where not all did. "
    "A first crossing of a noisy curve is early."
)


def final_table(comparison: Comparison, rows: Sequence[Summary]) -> Table:
    """Return the table of results: a row a method, with the seeds and rounds that its numbers are of."""
    reference = reference_of(rows)
    body = []
    for variant, row in zip(comparison.variants, rows, strict=True):
        label, lr, *numbers = cells(row, reference)
        step = step_milliseconds(variant)
        body.append((label, lr, str(row.seeds), variant.progress, *numbers, "-" if step is None else f"{step:.3g}"))
    return (HEADER[0], HEADER[1], "seeds", "rounds", *HEADER[2:], "ms a step"), body


def convergence_table(rows: Sequence[Summary], reached: Sequence[Sequence[Reached]]) -> Table:
    """Return the table of convergence: a row a method, with rounds, uplink and total megabytes to each target."""
    header = ["method"]
    for found in reached[0]:
        header += [f"{100 * found.target:g} %: rounds", "MB up", "MB both"]
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
    """Return the table of all settings: last accuracies in percent, a row a setting, a column a method."""
    labels = list(dict.fromkeys(row.label for summaries in rows for row in summaries))
    body = []
    for comparison, summaries in zip(comparisons, rows, strict=True):
        found = {row.label: row for row in summaries}
        body.append((comparison.name, *(_accuracy(found.get(label)) for label in labels)))
    return ("setting", *labels), body


def _accuracy(row: Summary | None) -> str:
    if row is None:
        return "-"
    return f"{100 * row.final:.2f}" + (f"±{100 * row.final_std:.2f}" if row.seeds > 1 else "")
