"""The verdict on a setting: what each method's accuracy and traffic are beside FedAvg's, in a sentence."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev

from scipy.special import stdtrit

from fedmrn.experiments.run.record import accuracies
from fedmrn.report.naming import score
from fedmrn.report.runs import Comparison, Variant
from fedmrn.report.saving import reference_for
from fedmrn.report.summary import Summary

_MOST = 3  # sentences


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds and half the width of its 95 % interval, by Student's t; two values at least."""
    return fmean(values), float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / sqrt(len(values))


def verdict(comparison: Comparison, rows: Sequence[Summary]) -> list[str]:
    """Return a few sentences on what came of a setting, the most saving method first.

    Args:
        comparison: its variants.
        rows: a summary for each variant, in the same order.
    """
    said = []
    for variant, row in zip(comparison.variants, rows, strict=True):
        reference = reference_for(row, rows)
        if reference is None or row.method == "fedavg":
            continue
        against = comparison.variants[[other is reference for other in rows].index(True)]
        apart, worse = _apart(variant, against, score(comparison.experiment))
        times = reference.total_bytes / row.total_bytes
        traffic = f"{times:.1f} times less traffic" if times >= 1 else f"{1 / times:.1f} times the traffic"
        said.append((worse, -times, f"{row.label} {apart}, with {traffic}, up and down together."))
    if not said:
        return _alone(comparison, rows)
    said.sort()
    first = [text for *_, text in said[:_MOST]]
    return [*first, f"{len(said) - _MOST} more methods are in the table."] if len(said) > _MOST else first


def _apart(variant: Variant, reference: Variant, name: str) -> tuple[str, bool]:
    """Return in words how far the last accuracies are apart, paired by seed, and whether they are surely lower."""
    there = dict(_last(reference))
    differences = [100 * (last - there[seed]) for seed, last in _last(variant) if seed in there]
    paired = bool(differences)
    if not paired:
        differences = [100 * (fmean(a for _, a in _last(variant)) - fmean(there.values()))]
    mean = fmean(differences)
    side = "below" if mean < 0 else "above"
    if len(differences) == 1:
        return (
            f"ends {abs(mean):.2f} points of {name} {side} FedAvg ({'one seed' if paired else 'of other seeds'})",
            mean < 0,
        )
    mean, half = interval(differences)
    said = f"{mean:+.2f}±{half:.2f} points, 95 % over {len(differences)} seeds"
    if abs(mean) <= half:
        return f"cannot be told from FedAvg by its {name} ({said})", False
    return f"ends {side} FedAvg in {name} ({said})", mean < 0


def _last(variant: Variant) -> list[tuple[int, float]]:
    pairs = zip(variant.used, variant.records, strict=True)
    return [(run.experiment.seed, accuracies(records)[-1]) for run, records in pairs]


def _alone(comparison: Comparison, rows: Sequence[Summary]) -> list[str]:
    """Return what can be said without a FedAvg of as many rounds and clients."""
    name = score(comparison.experiment)
    best, least = max(rows, key=lambda row: row.final), min(rows, key=lambda row: row.total_bytes)
    if len(rows) == 1:
        return [f"{best.label}: {100 * best.final:.2f} % {name} for {best.total_bytes / 1e6:.2f} MB in all."]
    if best is least:
        return [f"{best.label} has the highest {name} and the least traffic."]
    return [
        f"{best.label} has the highest {name}, {100 * best.final:.2f} % for {best.total_bytes / 1e6:.2f} MB in all; "
        f"{least.label} the least traffic, {least.total_bytes / 1e6:.2f} MB for {100 * least.final:.2f} %."
    ]
