"""Arguments and options that several commands have, and how lists in them are read."""

from pathlib import Path
from typing import Annotated

import typer

from fedmrn.errors import ConfigError
from fedmrn.tracking import TRACKERS

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
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar=f"[{'|'.join(TRACKERS)}]",
        help="Tell rounds to a tracker too, and with `--resume` also those of before.",
    ),
]
DATA = Path("data")


def parse_names(text: str) -> list[str]:
    """Return the methods of a text such as fedavg,fedmrn.

    Raises:
        ConfigError: it names none, or one twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"--methods {text!r}: give each method once, with commas between, such as fedavg,fedmrn")
    return names


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of a text such as 1 or 1,2,5 or 1-3.

    Raises:
        ConfigError: it is not of that form, names a seed twice, or more than 1000.
    """
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
