"""Run folders: which experiment one holds, and whether a run may use it. Needs no framework."""

from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from fedmrn.errors import ConfigError, RunError
from fedmrn.experiments.config import Experiment, difference
from fedmrn.experiments.parsing import parse_toml
from fedmrn.experiments.run.record import read_records
from fedmrn.files import read_file
from fedmrn.methods import method
from fedmrn.server.saved import saved_round

_MOST = 1 << 20  # bytes of config.toml that are read at most


def read_experiment(folder: Path) -> Experiment:
    """Return the experiment of a run folder.

    Raises:
        RunError: the folder holds no run, or its configuration cannot be read.
    """
    path = folder / "config.toml"
    data = read_file(path, _MOST, "; mend it, or --out FOLDER for a new run")
    if data is None:
        raise RunError(f"{path} does not exist, so {folder} holds no run")
    try:
        return Experiment.from_dict(parse_toml(data.decode("utf-8"), "it"), str(path))
    except (UnicodeDecodeError, ConfigError) as error:
        raise RunError(f"{path} cannot be read ({error}); mend it, or --out FOLDER for a new run") from error


def check_folder(folder: Path, experiment: Experiment, resume: bool) -> None:
    """Refuse a folder that this run cannot use.

    A run can go on to another number of rounds where nothing else differs: its rounds are the first of the other's.

    Raises:
        RunError: it is in use by another configuration, holds more rounds than are asked for, or holds a run and
            `resume` is not set.
    """
    if not (folder / "config.toml").exists():
        return
    found = read_experiment(folder)
    if found != _with_rounds(found, experiment, follow=False):
        _refuse_other(folder, found, experiment)
    if found != experiment and experiment.train.calibrate == "last":
        raise RunError(
            f"{folder} holds a run of {found.train.rounds} rounds that calibrates its last model: they are not the "
            f"first of {experiment.train.rounds}; --out FOLDER for a new run"
        )
    if not resume:
        refuse_any(folder)
    records = read_records(folder) if found != experiment else []
    done = len(records)
    if done == experiment.train.rounds and records[-1].accuracy is None:
        raise RunError(
            f"{folder} holds {done} rounds, and the last of them was not tested (train.test_every is "
            f"{experiment.train.test_every}), as a run's last round is: ask for more than {done}, or --out FOLDER for "
            "a new run"
        )
    if experiment.train.rounds < done:
        raise RunError(
            f"{folder} holds {done} rounds, more than the train.rounds = {experiment.train.rounds} that are asked for; "
            f"ask for {done} or more, or --out FOLDER for a new run"
        )


def _with_rounds(found: Experiment, asked: Experiment, *, follow: bool) -> Experiment:
    """Return the experiment `asked` with the rounds of `found`; with `follow`, also options that follow them."""
    names = _that_follow(asked) if follow and found.method == asked.method else []
    there = {name: found.options.specific[name] for name in names}
    options = replace(asked.options, specific={**asked.options.specific, **there})
    return replace(asked, train=replace(asked.train, rounds=found.train.rounds), options=options)


def _that_follow(experiment: Experiment) -> list[str]:
    """Return the options that take the number of rounds unless they are set."""
    return [option.name for option in method(experiment.method).options.values() if option.follows == "rounds"]


def _refuse_other(folder: Path, found: Experiment, asked: Experiment) -> NoReturn:
    """Say in words why a run cannot go on as another experiment.

    Raises:
        RunError: always.
    """
    if found == _with_rounds(found, asked, follow=True) and found.train.rounds != asked.train.rounds:
        kept = " ".join(
            f"--set method.{found.method}.{name}={found.options.specific[name]}" for name in _that_follow(found)
        )
        raise RunError(
            f"{folder} holds a run of {found.train.rounds} rounds, and the schedule of {found.method} depends on how "
            f"many there are: they are not the first of {asked.train.rounds}; --out FOLDER for a new run, or {kept} to "
            "keep the schedule and go on after its end"
        )
    found = replace(found, folder=asked.folder)  # where it lay makes no difference
    raise RunError(
        f"{folder} holds another configuration: {difference(found.as_dict(), asked.as_dict())}; "
        "use the same, or --out FOLDER for a new run"
    )


def refuse_any(folder: Path) -> None:
    """Refuse a folder that holds a run, of whatever configuration.

    Raises:
        RunError: it does.
    """
    if (folder / "config.toml").exists():
        rounds = read_experiment(folder).train.rounds
        raise RunError(
            f"{folder} holds a run already ({len(read_records(folder))} of {rounds} rounds): "
            "add --resume to go on with it, or --out FOLDER to start another"
        )


def finished(folder: Path, experiment: Experiment) -> bool:
    """Whether a folder holds all rounds of an experiment, and says so: not those of a run that is to be extended.

    Raises:
        RunError: the checkpoint or the configuration is damaged.
    """
    if not (folder / "config.toml").exists() or read_experiment(folder) != experiment:
        return False
    return min(saved_round(folder), len(read_records(folder))) >= experiment.train.rounds
