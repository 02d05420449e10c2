"""The report: tables, figures and one self-contained page, made from run folders alone."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fedmrn.errors import ConfigError
from fedmrn.experiments.many.tune import Tuning, is_of, read_tuning, tuning_cells, tuning_title
from fedmrn.files import clear_scraps, write_atomic
from fedmrn.report.account import ACCOUNT_HEADER, ACCOUNT_LEGEND, account_cells, traffic_line
from fedmrn.report.collect import collect, find_runs
from fedmrn.report.convergence import Reached, check_targets, default_targets, reach
from fedmrn.report.figures import Studio, codec_picture, pictures
from fedmrn.report.page import Chapter, page
from fedmrn.report.plots import FORMATS
from fedmrn.report.runs import Comparison
from fedmrn.report.saving import saving
from fedmrn.report.summary import Summary, summarise
from fedmrn.report.tables import HEADER, cells, convergence_table, final_table, markdown, overview_table

__all__ = ["Report", "check_formats", "check_targets", "find_runs", "write_report"]


@dataclass(frozen=True, slots=True)
class Report:
    """What a report says of one setting.

    Attributes:
        title: what was run.
        rows: one for each variant of the method: runs that differ in nothing but the seed.
        reached: for each row, when it reached each target.
        tuning: how options were chosen, if they were.
        notes: what is not finished.
    """

    title: str
    rows: list[Summary]
    reached: list[list[Reached]]
    tuning: list[Tuning]
    notes: list[str]


def write_report(
    folder: Path, runs: Sequence[Path], *, targets: Sequence[float] = (), formats: Sequence[str] = ("png",)
) -> list[Report]:
    """Write summary.json, summary.md, the figures and report.html into `folder`; return what they say of each setting.

    The same run folders give the same bytes. A tuning.json beside run folders is reported if these follow it.

    Args:
        folder: where to; may be one of the runs.
        runs: run folders, at least one.
        targets: accuracies in (0, 1] for the table of convergence; some below the reference's if there are none.
        formats: of the figures' files, of `plots.FORMATS`; the page holds them as PNG.

    Raises:
        RunError: a folder cannot be read, or none holds a finished round.
    """
    comparisons, notes = collect(runs)
    reports = [_say(comparison, targets) for comparison in comparisons]
    studio = Studio(folder, formats)
    folder.mkdir(parents=True, exist_ok=True)
    clear_scraps(folder)
    parts = []
    for i, (comparison, report) in enumerate(zip(comparisons, reports, strict=True), 1):
        figures = pictures(comparison, studio, f"{i}-" if len(comparisons) > 1 else "")
        tuning = [(tuning_title(t), tuning_cells(t)) for t in report.tuning]
        tables = final_table(comparison, report.rows), convergence_table(report.rows, report.reached)
        parts.append(Chapter(comparison, report.rows, *tables, tuning, figures))
    rows = [report.rows for report in reports]
    overview = overview_table(comparisons, rows) if len(comparisons) > 1 else None
    heading = comparisons[0].title if overview is None else f"{len(comparisons)} settings compared"
    codecs = codec_picture(comparisons, studio)
    write_atomic(folder / "summary.json", json.dumps(_values(comparisons, reports), indent=1).encode())
    write_atomic(folder / "summary.md", "\n".join(map(_markdown, parts)).encode())
    write_atomic(folder / "report.html", page(heading, parts, overview, codecs, notes).encode())
    return reports


def check_formats(text: str) -> tuple[str, ...]:
    """Return the formats in a text such as png,pdf.

    Raises:
        ConfigError: one does not exist.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"--formats {text!r}: {name!r} is not one of {', '.join(FORMATS)}")
    return names


def _say(comparison: Comparison, targets: Sequence[float]) -> Report:
    rows = []
    for variant in comparison.variants:
        method, options = variant.experiment.method, variant.experiment.options
        rows.append(summarise(method, options.lr, variant.records, variant.label, down=options.down))
    levels = check_targets(targets) or default_targets(rows)
    reached = [[reach(variant.records, level) for level in levels] for variant in comparison.variants]
    return Report(comparison.title, rows, reached, _tuning(comparison), comparison.notes())


def _tuning(comparison: Comparison) -> list[Tuning]:
    """Return the tunings that lie beside runs and that all runs beside them agree with."""
    found = []
    for parent in sorted({run.path.resolve().parent for run in comparison.runs}):
        tuning = read_tuning(parent)
        experiments = [run.experiment for run in comparison.runs if run.path.resolve().parent == parent]
        names = {experiment.method for experiment in experiments}
        if tuning is not None and names & tuning["methods"].keys() and all(is_of(tuning, e) for e in experiments):
            found.append(tuning)
    return found


def _values(comparisons: Sequence[Comparison], reports: Sequence[Report]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for comparison, report in zip(comparisons, reports, strict=True):
        for variant, row, reached in zip(comparison.variants, report.rows, report.reached, strict=True):
            names = [run.name for run in variant.runs]
            more: dict[str, object] = {
                "setting": comparison.title,
                "runs": names,
                "targets": [asdict(one) for one in reached],
            }
            saved = saving(row, report.rows)
            more["saved"] = None if saved is None else asdict(saved)
            rows.append({**asdict(row), **more})
    return rows


def _markdown(part: Chapter) -> str:
    text = f"# {part.comparison.title}\n\n" + markdown(HEADER, [cells(row, part.rows) for row in part.rows])
    text += f"\n## Convergence\n\n{markdown(*part.convergence)}"
    for title, table in part.tuning:
        text += f"\n{title}\n\n{markdown(*table)}"
    text += f"\n## Bytes\n\n{ACCOUNT_LEGEND}\n"
    for row in part.rows:
        text += f"\n### {row.label}\n\n{traffic_line(row.account, row.calibration_bytes)}\n\n"
        text += markdown(ACCOUNT_HEADER, account_cells(row.account))
    return text
