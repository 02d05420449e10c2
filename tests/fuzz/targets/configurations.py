"""Configuration: a TOML file, `--set` changes, and the `config.toml` of a run's folder.

An input is UTF-8 text, mostly: the file, and after a line of `---` a change a line.
"""

import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path

import tomli_w

from fedmrn import text
from fedmrn.errors import ConfigError
from fedmrn.experiments import config
from fedmrn.experiments.config import Experiment
from fedmrn.experiments.parsing import parse_toml
from fedmrn.experiments.settings import load_setting
from fedmrn.methods import METHODS
from fedmrn.methods import method as methods

from .base import Target, own_folder, require

_BETWEEN = b"\n---\n"


@cache
def _file() -> Path:
    return own_folder() / "fuzzed.toml"


def _message(error: ConfigError) -> None:
    require("\n" not in str(error), "a message of several lines")


def _check(data: bytes) -> None:
    file, _, changes = data.partition(_BETWEEN)
    _file().write_bytes(file)
    try:
        setting = load_setting(str(_file()), changes.decode("utf-8", "replace").splitlines())
    except ConfigError as error:
        _message(error)
        setting = None
    for name in ("fedavg", "fedmrn", "fedpm", "fedsparsify-local") if setting else ():
        try:
            experiment = setting.experiment(name, 1)
        except ConfigError as error:
            _message(error)
            continue
        written = tomli_w.dumps(experiment.as_dict())
        again = Experiment.from_dict(tomllib.loads(written), "again")
        require(again == experiment, "an experiment is not what its config.toml says")
    try:
        Experiment.from_dict(parse_toml(file.decode("utf-8"), "config.toml"), "config.toml")
    except ConfigError as error:
        _message(error)
    except UnicodeDecodeError:  # the runner reads it, and says so
        pass


def _seeds() -> list[bytes]:
    folder = files("fedmrn.experiments") / "presets"
    presets = [e.read_bytes() for e in sorted(folder.iterdir(), key=lambda e: e.name) if e.name.endswith(".toml")]
    changes = (
        b"train.rounds=5\nmethod.lr=0.5\nmethod.fedmrn.scale=0.25\ndata.partition=dirichlet",
        b"rounds=5\nseed=1",
        b"method.server=adam\nmethod.server_lr=0.1\nmethod.fedavg.server=[1]",
        b"method.fedmrn.side=float16\nmethod.down=eden4\nmodel.init_std=1e-3",
    )
    runs = [tomli_w.dumps(load_setting("digits").experiment(name, 1).as_dict()).encode() for name in METHODS]
    return [*presets, *runs, *(presets[0] + _BETWEEN + change for change in changes)]


CONFIGURATION = Target("configuration", _check, _seeds, (config, methods, text), memory=4 << 20)
