"""Commands that read what runs have written: report, inspect."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fedmrn.cli.say import OUT, say
from fedmrn.errors import ConfigError, RunError


def report_command(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Run folders, or folders with run folders in them.")
    ],
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the report. [default: FOLDER, if it is one]", show_default=False),
    ] = None,
    target: Annotated[
        list[float] | None,
        typer.Option(
            metavar="ACCURACY",
            help="How soon was it reached? Several can be given. [default: 0.8, 0.9, 0.97 of FedAvg's]",
            show_default=False,
        ),
    ] = None,
    formats: Annotated[str, typer.Option(help="Of the figures' files, with commas between.")] = "png,pdf",
) -> None:
    """Write the page, tables and figures of runs that are there, finished or not.

    A FOLDER is a run's, or holds run folders at any depth.

    Runs that differ in the seed only are taken together. Runs of another setting (data, split, rounds, local epochs,
    ...) are a part of their own. Tuning runs, in folders named `tune`, are left out.

    Examples: `fedmrn report runs/digits --target 0.9 --target 0.95`

    `fedmrn report runs/tuned runs/untuned --out both`
    """
    from fedmrn.report import check_formats, check_targets, find_runs

    if out_dir is None and len(folders) > 1:
        raise ConfigError("--out FOLDER is needed with several folders: it says where the report goes")
    levels, kinds = check_targets(target or []), check_formats(formats)
    print_report(out_dir or folders[0], find_runs(folders), levels, kinds)


def inspect_command(
    file: Annotated[Path, typer.Argument(help="A frame, such as runs/digits/fedmrn-seed1/last-update.bin.")],
) -> None:
    """Print a frame for a person: header, sections, bytes."""
    from fedmrn.cli.show import show_frame
    from fedmrn.files import read_file
    from fedmrn.wire.frame import OWN_LIMITS, Frame

    cure = "; give a frame such as runs/digits/fedmrn-seed1/last-update.bin"
    data = read_file(file, OWN_LIMITS.max_bytes, cure, links=True)
    if data is None:
        raise RunError(f"{file} is not a file{cure}")
    show_frame(OUT, Frame.from_bytes(data, limits=OWN_LIMITS), len(data))


def print_report(
    folder: Path, runs: list[Path], targets: Sequence[float] = (), formats: Sequence[str] = ("png",)
) -> None:
    """Write the report of these runs into a folder, and print its tables."""
    from fedmrn.cli.progress import Bars
    from fedmrn.cli.show import show_comparison, show_table
    from fedmrn.experiments.many.tune import tuning_cells, tuning_title
    from fedmrn.report import write_report
    from fedmrn.report.tables import convergence_table

    OUT.works = True
    with Bars(OUT, 0) as bars, bars.wait("drawing figures"):
        reports = write_report(folder, runs, targets=targets, formats=formats)
    for report in reports:
        show_comparison(OUT, report.rows, report.title)
        if targets:
            show_table(OUT, *convergence_table(report.rows, report.reached), title="first reached", figures=True)
        for tuning in report.tuning:
            header, rows = tuning_cells(tuning)
            show_table(OUT, header, rows, title=tuning_title(tuning), figures=True)
        for note in report.notes:
            say(OUT, note, style="yellow")
    files = "report.html, summary.md (bytes by section), plots (accuracy-traffic.png, accuracy-rounds.png, ...)"
    say(OUT, f"{folder}/: {files}")
