"""The commands. Heavy libraries are imported when a command needs them, so that --help is quick."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedmrn.cli.say import say
from fedmrn.errors import (
    BoundError,
    ConfigError,
    EncodeError,
    FedmrnError,
    FrameError,
    LimitError,
    RunError,
    UsageError,
)
from fedmrn.experiments.run.engines import Engine

if TYPE_CHECKING:
    from fedmrn.experiments.config import Experiment

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Federated learning at one bit per parameter: real frames, every byte counted.\n\n"
    "Start with `fedmrn compare digits`: FedAvg and FedMRN side by side, in a minute or two, nothing to download.",
)
out = Console()
err = Console(stderr=True)

Preset = Annotated[str, typer.Argument(help="A preset (see `fedmrn presets`) or a TOML file of your own.")]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting: train.rounds=5, data.alpha=0.1, method.fedmrn.lr=0.05.",
    ),
]
DataDir = Annotated[
    Path,
    typer.Option(
        envvar="FEDMRN_DATA",
        help="Where data files lie, or are downloaded to; see `fedmrn datasets`.",
        show_default=True,
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with runs that are there; finished ones are not run again.")
]
_DATA = Path("data")


@app.command()
def run(
    preset: Preset,
    method: Annotated[str, typer.Option(help="Which method; see `fedmrn methods`.")] = "fedmrn",
    seed: Annotated[int, typer.Option(min=0, max=(1 << 63) - 1, help="Of everything random.")] = 1,
    set_: Changes = None,
    data_dir: DataDir = _DATA,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the run. [default: runs/PRESET/METHOD-seedN]", show_default=False),
    ] = None,
    resume: Resume = False,
    engine: Annotated[
        Engine,
        typer.Option(help="Who runs the clients: this process, or Flower's simulation engine (Ray). Same results."),
    ] = Engine.PROCESS,
) -> None:
    """Run one method with one seed.

    Example: `fedmrn run fmnist-iid --method fedmrn --seed 1 --set train.rounds=20 --data-dir data`
    """
    from fedmrn.experiments.config import run_name
    from fedmrn.experiments.settings import load_setting

    setting = load_setting(preset, set_ or [])
    experiment = setting.experiment(method, seed)
    folder = out_dir or Path("runs") / setting.name / run_name(experiment)
    if _run_all(f"{setting.name}: {setting.description}", [(experiment, folder)], data_dir, resume, engine):
        raise typer.Exit(1)
    _report(folder, [folder])


@app.command()
def compare(
    preset: Preset = "digits",
    methods: Annotated[str, typer.Option(help="Names with commas between, or `all`.")] = "fedavg,fedmrn,fedmrn-s",
    seeds: Annotated[str, typer.Option(help="Seeds, such as 1 or 1,2,5 or 1-3.")] = "1",
    set_: Changes = None,
    data_dir: DataDir = _DATA,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the runs. [default: runs/PRESET]", show_default=False),
    ] = None,
    resume: Resume = False,
    tune: Annotated[
        str | None,
        typer.Option(
            metavar="OPTION=VALUES",
            help="First let every method try the same values, and take its best: lr=0.01,0.03,0.1,0.3.",
        ),
    ] = None,
    tune_rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of a tuning run. [default: 5]")] = None,
    tune_seed: Annotated[
        int | None, typer.Option(min=0, max=(1 << 63) - 1, help="Seed of the tuning runs. [default: 0]")
    ] = None,
    tune_set: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Change a setting for the tuning runs only: data.partition=iid."),
    ] = None,
    tune_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the tuning runs. With --resume, another comparison of the same preset can use what is "
            "there. [default: OUT/tune]"
        ),
    ] = None,
) -> None:
    """Run several methods on one setting; end in a table and plots.

    Examples: `fedmrn compare digits --seeds 1-3`

    `fedmrn compare fmnist-short --methods all --seeds 1-2 --tune lr=0.01,0.03,0.1,0.3`
    """
    from fedmrn.experiments.config import run_name
    from fedmrn.experiments.settings import load_setting
    from fedmrn.methods import METHODS

    if tune is None and (tune_rounds, tune_seed, tune_set, tune_dir) != (None,) * 4:
        raise ConfigError("--tune-rounds, --tune-seed, --tune-set and --tune-dir mean something with --tune only")
    setting = load_setting(preset, set_ or [])
    names = list(METHODS) if methods == "all" else _names(methods)
    chosen = _seeds(seeds)
    plan = [setting.experiment(name, seed) for name in names for seed in chosen]
    folder = out_dir or Path("runs") / setting.name
    from fedmrn.experiments.many.tune import Grid, choose, trials, tuned, write_tuning
    from fedmrn.experiments.run.folder import refuse_any

    lost: list[Path] = []
    if tune is not None:
        grid = Grid.parse(tune, tune_rounds or 5, tune_seed or 0)
        there = load_setting(preset, [*(set_ or []), *(tune_set or [])], "--set or --tune-set")
        cells = trials(there, names, grid, tune_dir or folder / "tune")
        if not resume:  # told now, not after hours of tuning
            for experiment in plan:
                refuse_any(folder / run_name(experiment))  # its configuration depends on what the tuning chooses
        _run_all(f"tuning {tune}", [cell for own in cells.values() for cell in own.values()], data_dir, resume)
        tuning = choose(grid, cells, tune_set or [])
        write_tuning(folder, tuning)
        plan, dropped = tuned(setting, plan, tuning)
        for name in dropped:
            say(err, f"{name}: training diverged with every value of {grid.option}; left out", style="red")
            lost.append(folder / name)
    runs = [(e, folder / run_name(e)) for e in plan]
    lost += _run_all(f"{setting.name}: {setting.description}", runs, data_dir, resume)
    _report(folder, [path for _, path in runs if path not in lost])
    if lost:
        raise typer.Exit(1)


@app.command()
def sweep(
    source: Annotated[
        str | None, typer.Argument(metavar="[SWEEP]", help="One of those listed without it, or a TOML file.")
    ] = None,
    set_: Changes = None,
    data_dir: DataDir = _DATA,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the runs. [default: runs/SWEEP]", show_default=False),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Runs at a time. [default: what the cores can take; 1 on a GPU]"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and how far they are; run none.")] = False,
) -> None:
    """Run methods x seeds x settings from one file, several at a time; finished runs are not run again.

    The same command goes on with a sweep that was stopped or killed. Without a name: list the ready ones.

    Example: `fedmrn sweep digits-ablation --jobs 2`
    """
    from fedmrn.cli.show import show_table
    from fedmrn.experiments.many.sweep import load_sweep, sweeps

    if source is None:
        show_table(out, ("sweep", "what it is"), list(sweeps().items()))
        return
    found = load_sweep(source, set_ or [])
    from fedmrn.cli import sweep as work  # a wrong setting is told before the heavy imports

    code = work.carry_out(out, err, found, out_dir or Path("runs") / found.name, data_dir, jobs, dry_run=dry_run)
    if code:
        raise typer.Exit(code)


@app.command()
def report(
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

    `fedmrn report runs/mine runs/other --out both`
    """
    from fedmrn.report import check_formats, check_targets, find_runs

    if out_dir is None and len(folders) > 1:
        raise ConfigError("--out FOLDER is needed with several folders: it says where the report goes")
    levels, kinds = check_targets(target or []), check_formats(formats)
    _report(out_dir or folders[0], find_runs(folders), levels, kinds)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A frame, such as runs/digits/fedmrn-seed1/last-update.bin.")],
) -> None:
    """Print a frame for a person: header, sections, bytes."""
    from fedmrn.cli.show import show_frame
    from fedmrn.wire.frame import DEFAULT_LIMITS, Frame

    if not file.is_file():
        raise RunError(f"{file} is not a file; give a frame such as runs/digits/fedmrn-seed1/last-update.bin")
    size = file.stat().st_size
    if size > DEFAULT_LIMITS.max_bytes:
        raise LimitError(f"{file} has {size} bytes; at most {DEFAULT_LIMITS.max_bytes} are read")
    show_frame(out, Frame.from_bytes(file.read_bytes()), size)


@app.command()
def methods() -> None:
    """List the methods that can be compared."""
    from fedmrn.cli.show import show_table
    from fedmrn.methods import METHODS

    def options(values: Mapping[str, object]) -> str:
        follows = ("rounds", "seed")  # the run's own, unless they are set
        return ", ".join(
            f"{name}=" + ("the run's" if name in follows else f"{value}") for name, value in values.items()
        )

    rows = [(m.name, m.summary, options(m.options), str(m.id)) for m in METHODS.values()]
    caption = (
        "All take lr, optimizer, side, down, server and server_lr, server_beta, server_beta2, server_tau too. "
        "To set one: --set method.topk.density=0.01. With --set method.scale=auto each client chooses its noise scale."
    )
    show_table(out, ("method", "what it sends", "options", "id"), rows, caption=caption)


@app.command()
def datasets(data_dir: DataDir = _DATA) -> None:
    """List the data sets, and which are here already."""
    from fedmrn.cli.show import show_table
    from fedmrn.data import DATASETS, FolderSource

    rows = []
    for s in DATASETS.values():
        if isinstance(s, FolderSource):
            state = "here" if s.find(data_dir) else f"put {s.expects} into {data_dir / s.name}"
            rows.append((s.name, s.description, "-", s.licence, "your own", state))
            continue
        here = all((data_dir / s.name / f.name).exists() or (data_dir / f.name).exists() for f in s.files)
        size = f"{s.download_bytes / 1e6:.0f} MB" if s.files else "-"
        state = "ships with a dependency" if not s.files else "here" if here else f"not in {data_dir}"
        rows.append((s.name, s.description, f"{s.train:,} + {s.test:,}", s.licence, size, state))
    show_table(out, ("data set", "what it is", "train + test", "licence", "download", "state"), rows)


@app.command()
def presets() -> None:
    """List the presets."""
    from fedmrn.cli.show import show_table
    from fedmrn.experiments.settings import presets as all_presets

    show_table(out, ("preset", "what it is"), list(all_presets().items()))


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"--methods {text!r}: give each method once, with commas between, such as fedavg,fedmrn")
    return names


def _seeds(text: str) -> list[int]:
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            numbers = range(int(first), int(last if dash else first) + 1)
            seeds += numbers[:1001]
    except (ValueError, OverflowError):
        seeds = []
    if not seeds or len(set(seeds)) != len(seeds) or len(seeds) > 1000:
        raise ConfigError(f"--seeds {text!r}: give whole numbers such as 1 or 1,2,5 or 1-3, each once")
    return seeds


def _run_all(
    title: str,
    plan: "list[tuple[Experiment, Path]]",
    data_dir: Path,
    resume: bool,
    engine: Engine = Engine.PROCESS,
) -> list[Path]:
    """Run a plan and return the folders of runs that diverged; those are told, and the others go on."""
    from fedmrn.cli.progress import Bars
    from fedmrn.experiments.run.runner import run as run_experiment

    say(out, title, style="dim")
    lost = []
    with Bars(out, len(plan)) as bars:
        for experiment, folder in plan:
            try:
                run_experiment(experiment, folder, data_dir=data_dir, resume=resume, progress=bars, engine=engine)
            except KeyboardInterrupt:
                kept = f"every whole round is in {folder}" if (folder / "config.toml").exists() else "before round 1"
                say(err, f"stopped, {kept}; the same command with --resume goes on from there")
                raise typer.Exit(130) from None
            except (EncodeError, BoundError) as error:  # what a client or the server makes of a diverged model
                say(err, f"{folder}: {error}", style="red")
                lost.append(folder)
    return lost


def _report(folder: Path, runs: list[Path], targets: Sequence[float] = (), formats: Sequence[str] = ("png",)) -> None:
    from fedmrn.cli.progress import Bars
    from fedmrn.cli.show import show_comparison, show_table
    from fedmrn.experiments.many.tune import tuning_cells, tuning_title
    from fedmrn.report import write_report
    from fedmrn.report.tables import convergence_table

    with Bars(out, 0) as bars, bars.wait("drawing figures"):
        reports = write_report(folder, runs, targets=targets, formats=formats)
    for report in reports:
        show_comparison(out, report.rows, report.title)
        if targets:
            show_table(out, *convergence_table(report.rows, report.reached), title="first reached", figures=True)
        for tuning in report.tuning:
            header, rows = tuning_cells(tuning)
            show_table(out, header, rows, title=tuning_title(tuning), figures=True)
        for note in report.notes:
            say(out, note, style="yellow")
    files = "report.html, summary.md (bytes by section), plots (accuracy-rounds.png, accuracy-bytes.png, ...)"
    say(out, f"{folder}/: {files}")


def main() -> None:
    """Run the command line; a mistake of the caller's ends in one line and exit code 2."""
    try:
        app()
    except (UsageError, FrameError) as error:
        kind = f"{type(error).__name__}: " if isinstance(error, FrameError) else ""
        say(err, f"error: {kind}{error}", style="red")
        sys.exit(2)
    except OSError as error:
        say(err, f"error: {error.filename or 'output'}: {error.strerror or error}", style="red")
        sys.exit(2)
    except FedmrnError as error:
        say(err, f"error: {error}", style="red")
        sys.exit(1)
