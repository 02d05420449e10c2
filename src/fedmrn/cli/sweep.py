"""`fedmrn sweep`: what there is to do, doing it, and the report."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from fedmrn.cli.board import Board
from fedmrn.cli.say import say
from fedmrn.cli.show import show_table
from fedmrn.errors import RunError
from fedmrn.experiments.many.cells import check, default_jobs, run_cells
from fedmrn.experiments.many.sweep import Cell, Sweep
from fedmrn.experiments.run.folder import check_folder, finished
from fedmrn.experiments.run.record import read_records
from fedmrn.files import locked, make_folder, refuse_links
from fedmrn.report import write_report
from fedmrn.report.tables import LEGEND, screen_table
from fedmrn.tracking import check_trackers


def carry_out(
    out: Console,
    err: Console,
    sweep: Sweep,
    folder: Path,
    data_dir: Path,
    jobs: int | None,
    track: Sequence[str],
    *,
    dry_run: bool,
) -> int:
    """Run what is left of a sweep and report it, or with `dry_run` say what there is; return the exit code."""
    check_trackers(track)
    left = plan(sweep, folder)
    if dry_run:
        _show_plan(out, sweep, folder)
    for line in (f"{sweep.name}: {sweep.description}", state(sweep, folder, left)):
        say(out, line, "dim")
    if dry_run:
        return 0
    failed = 0
    if track:  # what is finished is told too
        left += [cell for cell in sweep.cells if cell not in left]
    if left:
        try:
            jobs = jobs or default_jobs([cell.experiment for cell in left])
            failed = _run_left(out, sweep, folder, left, data_dir, jobs, track)
        except KeyboardInterrupt:
            say(err, f"stopped, every whole round is in {folder}; the same command goes on from there")
            return 130
    _report_tables(out, sweep, folder)
    say(out, f"{folder}/: the runs, and a report.html for each table")
    return 1 if failed else 0


def plan(sweep: Sweep, folder: Path) -> list[Cell]:
    """Return the cells that are not finished, in the order in which to run them: seed by seed.

    Raises:
        RunError: the folder of a cell holds another configuration, or one that cannot be read, or is a link.
    """
    for cell in sweep.cells:
        refuse_links(folder, folder / cell.folder)
        check_folder(folder / cell.folder, cell.experiment, resume=True)
    return sorted((c for c in sweep.cells if not _finished(c, folder)), key=lambda cell: cell.experiment.seed)


def _finished(cell: Cell, folder: Path) -> bool:
    try:
        return finished(folder / cell.folder, cell.experiment)
    except RunError:  # a damaged checkpoint: told when the cell is run, and the others run
        return False


def _show_plan(console: Console, sweep: Sweep, folder: Path) -> None:
    """Print every cell and how far it is."""
    rows = []
    for cell in sweep.cells:
        done, rounds = len(read_records(folder / cell.folder)), cell.experiment.train.rounds
        rows.append((str(cell.folder), f"{min(done, rounds)} of {rounds}"))
    show_table(console, ("cell", "rounds"), rows)


def state(sweep: Sweep, folder: Path, left: Sequence[Cell]) -> str:
    """Return in a line how many cells are finished, begun and new, and which runs are not of this sweep."""
    begun = sum((folder / cell.folder / "config.toml").exists() for cell in left)
    text = f"{len(sweep.cells)} cells: {len(sweep.cells) - len(left)} finished, {begun} begun, {len(left) - begun} new"
    cells = {folder / cell.folder for cell in sweep.cells}
    strangers = sorted(str(p.parent.relative_to(folder)) for p in folder.rglob("config.toml") if p.parent not in cells)
    return f"{text}; not of this sweep: {', '.join(strangers)}" if strangers else text


def _run_left(
    console: Console, sweep: Sweep, folder: Path, left: Sequence[Cell], data_dir: Path, jobs: int, track: Sequence[str]
) -> int:
    """Run the cells that are left, and return how many failed; those are told, and the others go on.

    Raises:
        RunError: another process runs this sweep.
        UsageError: data that is missing or damaged, a setting that does not fit it.
    """
    with console.status("reading the data"):
        check([cell.experiment for cell in left], data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    with (
        locked(folder),
        Board(console, sweep, folder, jobs) as board,
        closing(run_cells(left, folder, jobs=jobs, data_dir=data_dir, track=track)) as events,
    ):
        for event in events:
            failed += event.kind == "failed"
            board.tell(event)
    return failed


def _report_tables(console: Console, sweep: Sweep, folder: Path) -> None:
    """Write a report for each table of the sweep, over its finished cells, and print one for all.

    Raises:
        RunError: no cell is finished.
    """
    header: Sequence[str] = ()
    rows: list[tuple[str, ...]] = []
    with console.status("writing the reports"):
        for name, table in sweep.tables.items():
            runs = [folder / c.folder for c in table if _finished(c, folder)]
            if runs:
                if name:
                    make_folder(folder / name)
                for found in write_report(folder / name, runs):
                    header, body = screen_table(found.rows)
                    rows += [(name, *row) for row in body]
    if not rows:
        raise RunError(
            f"no cell of sweep {sweep.name} is finished: what failed is told above, and the same command tries again"
        )
    if any(row[0] for row in rows):
        header = ("", *header)
    else:
        rows = [row[1:] for row in rows]
    show_table(console, header, rows, title=sweep.description, caption=LEGEND, figures=True)
