"""Commands that run experiments: run, compare, sweep."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmrn.cli.commands.arguments import DATA, Changes, DataDir, Preset, Resume, Track, parse_names, parse_seeds
from fedmrn.cli.commands.reporting import print_report
from fedmrn.cli.importing import importing
from fedmrn.cli.say import ERR, OUT, say
from fedmrn.errors import BoundError, ConfigError, EncodeError, UnusableModelError
from fedmrn.experiments.run.transports import TRANSPORTS

if TYPE_CHECKING:
    from fedmrn.experiments.config import Experiment


def _one_of_the_engines(name: str) -> str:
    if name not in TRANSPORTS:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, TRANSPORTS))}.")
    return name


def run_command(
    preset: Preset,
    method: Annotated[str, typer.Option(help="Which method; see `fedmrn methods`.")] = "fedmrn",
    seed: Annotated[int, typer.Option(min=0, max=(1 << 63) - 1, help="Of everything random.")] = 1,
    set_: Changes = None,
    data_dir: DataDir = DATA,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the run. [default: runs/PRESET/METHOD-seedN]", show_default=False),
    ] = None,
    resume: Resume = False,
    engine: Annotated[
        str,
        typer.Option(
            callback=_one_of_the_engines,
            metavar=f"[{'|'.join(TRANSPORTS)}]",
            help="Who runs the clients: this process, or Flower's simulation engine (Ray). Same results.",
        ),
    ] = "process",
    track: Track = None,
) -> None:
    """Run one method with one seed.

    Example: `fedmrn run fmnist-iid --method fedmrn --seed 1 --set train.rounds=20 --data-dir data`
    """
    from fedmrn.experiments.config import run_name
    from fedmrn.experiments.settings import check_used, load_setting

    setting = load_setting(preset, set_ or [])
    experiment = setting.experiment(method, seed)
    check_used(set_ or [], [method])
    folder = out_dir or Path("runs") / setting.name / run_name(experiment)
    if _run_plan(f"{setting.name}: {setting.description}", [(experiment, folder)], data_dir, resume, track, engine):
        raise typer.Exit(1)
    print_report(folder, [folder])


def compare_command(
    preset: Preset = "digits",
    methods: Annotated[str, typer.Option(help="Names with commas between, or `all`.")] = "fedavg,fedmrn,fedmrn-s",
    seeds: Annotated[str, typer.Option(help="Seeds, such as 1 or 1,2,5 or 1-3.")] = "1",
    set_: Changes = None,
    data_dir: DataDir = DATA,
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
    track: Track = None,
) -> None:
    """Run several methods on one setting; end in a table and plots.

    Examples: `fedmrn compare digits --seeds 1-3`

    `fedmrn compare fmnist-short --methods all --seeds 1-2 --tune lr=0.01,0.03,0.1,0.3`
    """
    from fedmrn.experiments.config import run_name
    from fedmrn.experiments.settings import check_used, load_setting
    from fedmrn.methods import METHODS

    if tune is None and (tune_rounds, tune_seed, tune_set, tune_dir) != (None,) * 4:
        raise ConfigError("--tune-rounds, --tune-seed, --tune-set and --tune-dir mean something with --tune only")
    setting = load_setting(preset, set_ or [])
    names = list(METHODS) if methods == "all" else parse_names(methods)
    chosen = parse_seeds(seeds)
    plan = [setting.experiment(name, seed) for name in names for seed in chosen]
    check_used(set_ or [], names)
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
        tries = [cell for values in cells.values() for cell in values.values()]
        _run_plan(f"tuning {tune}", tries, data_dir, resume, track, root=tune_dir or folder)
        tuning = choose(grid, cells, tune_set or [])
        write_tuning(folder, tuning)
        plan, dropped = tuned(setting, plan, tuning)
        for name in dropped:
            say(ERR, f"{name}: training diverged with every value of {grid.option}; left out", style="red")
            lost.append(folder / name)
    runs = [(e, folder / run_name(e)) for e in plan]
    lost += _run_plan(f"{setting.name}: {setting.description}", runs, data_dir, resume, track, root=folder)
    print_report(folder, [path for _, path in runs if path not in lost])
    if lost:
        raise typer.Exit(1)


def sweep_command(
    source: Annotated[
        str | None, typer.Argument(metavar="[SWEEP]", help="One of those listed without it, or a TOML file.")
    ] = None,
    set_: Changes = None,
    data_dir: DataDir = DATA,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the runs. [default: runs/SWEEP]", show_default=False),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Runs at a time. [default: what the cores can take; 1 on a GPU]"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and how far they are; run none.")] = False,
    track: Track = None,
) -> None:
    """Run methods x seeds x settings from one file, several at a time; finished runs are not run again.

    The same command goes on with a sweep that was stopped or killed. Without a name: list the ready ones.

    Example: `fedmrn sweep digits-ablation --jobs 2`
    """
    from fedmrn.cli.show import show_table
    from fedmrn.experiments.many.blocks import sweeps
    from fedmrn.experiments.many.sweep import load_sweep

    if source is None:
        show_table(OUT, ("sweep", "what it is"), list(sweeps().items()))
        return
    found = load_sweep(source, set_ or [])
    OUT.works = not dry_run
    from fedmrn.cli import sweep as work  # a wrong setting is told before the heavy imports

    code = work.carry_out(
        OUT, ERR, found, out_dir or Path("runs") / found.name, data_dir, jobs, track or (), dry_run=dry_run
    )
    if code:
        raise typer.Exit(code)


def _run_plan(
    title: str,
    plan: "list[tuple[Experiment, Path]]",
    data_dir: Path,
    resume: bool,
    track: list[str] | None,
    engine: str = "process",
    root: Path | None = None,
) -> list[Path]:
    """Run a plan and return the folders of runs that diverged; those are told, and the others go on.

    Folders below `root`, the one that the user named, may not be links.
    """
    from fedmrn.cli.progress import Bars
    from fedmrn.files import refuse_links
    from fedmrn.tracking import check_trackers

    check_trackers(track or ())
    with importing():
        from fedmrn.experiments.run.runner import run

    OUT.works = True
    for _, folder in plan if root else ():
        refuse_links(root or folder, folder)
    say(OUT, title, style="dim")
    lost = []
    with Bars(OUT, len(plan)) as bars:
        for experiment, folder in plan:
            try:
                run(
                    experiment,
                    folder,
                    data_dir=data_dir,
                    resume=resume,
                    progress=bars,
                    engine=engine,
                    track=track or (),
                )
            except KeyboardInterrupt:
                kept = f"every whole round is in {folder}" if (folder / "config.toml").exists() else "before round 1"
                say(ERR, f"stopped, {kept}; the same command with --resume goes on from there")
                raise typer.Exit(130) from None
            except (
                EncodeError,
                BoundError,
                UnusableModelError,
            ) as error:  # what a client or the server makes of a diverged model
                say(ERR, f"{folder}: {error}", style="red")
                lost.append(folder)
    return lost
