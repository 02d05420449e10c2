"""Run folders: which experiment one holds, and whether a run may use it. Needs no framework."""

from pathlib import Path

from fedmrn.errors import ConfigError, RunError
from fedmrn.experiments.config import Experiment, difference
from fedmrn.experiments.parsing import parse_toml
from fedmrn.experiments.run.record import read_records
from fedmrn.server.saved import saved_round


def read_experiment(folder: Path) -> Experiment:
    """Return the experiment of a run folder.

    Raises:
        RunError: the folder holds no run, or its configuration cannot be read.
    """
    path = folder / "config.toml"
    try:
        return Experiment.from_dict(parse_toml(path.read_text("utf-8"), "it"), str(path))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise RunError(f"{path} cannot be read ({error}); mend it, or --out FOLDER for a new run") from error


def check_file(path: Path, most: int, cure: str = "") -> None:
    """Refuse a file of a run folder that cannot be one, before it is read; one that is missing passes.

    Args:
        path: of the file.
        most: bytes that it has at most.
        cure: what to do about it, for the message.

    Raises:
        RunError: it is no regular file, or too large.
    """
    if path.exists() and not path.is_file():
        raise RunError(f"{path} is not a regular file, so no run of fedmrn wrote it{cure}")
    if path.exists() and path.stat().st_size > most:
        raise RunError(f"{path} is larger than {most:,} bytes, so no run of fedmrn wrote it{cure}")


def check_folder(folder: Path, experiment: Experiment, resume: bool) -> None:
    """Refuse a folder that this run cannot use.

    Raises:
        RunError: it is in use by another configuration, or holds a run and `resume` is not set.
    """
    if not (folder / "config.toml").exists():
        return
    found = read_experiment(folder)
    if found != experiment:
        raise RunError(
            f"{folder} holds another configuration: {difference(found.as_dict(), experiment.as_dict())}; "
            "use the same, or --out FOLDER for a new run"
        )
    if not resume:
        refuse_any(folder)


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
    """Whether a folder holds all rounds of its experiment.

    Raises:
        RunError: the checkpoint is damaged.
    """
    return min(saved_round(folder), len(read_records(folder))) >= experiment.train.rounds
