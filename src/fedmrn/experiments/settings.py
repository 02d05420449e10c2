"""Settings: presets, and TOML files of one's own, with changes of single keys.

A setting describes data, model and training, and the options of each method in it. Choosing one method and a seed makes
an `Experiment`, which is what runs.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from fedmrn.data import DATASETS
from fedmrn.errors import ConfigError
from fedmrn.experiments.config import COMMON, DataConfig, Experiment, MethodConfig, ModelConfig, TrainConfig
from fedmrn.experiments.parsing import fields_of, parse_toml, parse_value, validate
from fedmrn.files import read_file
from fedmrn.methods import METHODS, method
from fedmrn.server.optimizer import SERVER, SERVER_LR, server_options
from fedmrn.text import nearest, printable

MOST_OF_A_SETTING = 1 << 20
"""Bytes of a TOML file that are read at most."""


def _fit_for_a_folder(name: str) -> str:
    if not name or name.startswith(".") or any(c in "/\\" or not c.isprintable() for c in name):
        raise ValueError(r"a folder has this name: at least one character, no / or \, no dot at first")
    return name


Name = Annotated[str, AfterValidator(_fit_for_a_folder)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Setting:
    """A preset: a setting, and under `method` the options for all methods and, by name, for each."""

    name: Name
    description: Annotated[str, AfterValidator(printable)] = ""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    method: dict[str, Any] = Field(default_factory=dict)
    folder: str = ""  # that things of one's own are beside; not of the file

    def experiment(self, name: str, seed: int) -> Experiment:
        """Return the experiment of one method.

        Raises:
            ConfigError: for an unknown method or a wrong option of it.
        """
        row = method(name)
        alike = {k: v for k, v in self.method.get(row.like, {}).items() if k in COMMON or k in row.options}
        said = self.method.get(name, {})
        common = {k: v for k, v in self.method.items() if not isinstance(v, dict) and (k in COMMON or k in row.options)}
        run = {"rounds": self.train.rounds, "seed": seed}
        follow = {option.name: run[option.follows] for option in row.options.values() if option.follows}
        values = {"optimizer": row.optimizer, **follow, **common, **alike, **said}
        split = {
            **{k: v for k, v in values.items() if k in COMMON},
            "specific": row.resolve({k: v for k, v in values.items() if k not in COMMON}),
        }
        where = f"{printable(self.name)}: method.{name}"
        options = validate(MethodConfig, split, where)
        _check_server(options.server, (said, alike, common), where)
        if "server_lr" not in values:
            options = replace(options, server_lr=SERVER_LR[options.server])
        parts = {"data": self.data, "model": self.model, "train": self.train, "options": options}
        own = self.data.source or ":" in self.model.name
        parts["folder"] = self.folder if own else ""
        return validate(Experiment, {"preset": self.name, "method": name, "seed": seed, **parts}, self.name)


def _check_server(server: str, tables: Sequence[Mapping[str, Any]], where: str) -> None:
    """Refuse an option of another server optimizer, unless it is set more generally than `server` itself."""
    for table in tables:
        for key in table:
            users = [kind for kind in SERVER if key in server_options(kind)]
            if users and server not in users and table[key] != getattr(MethodConfig, key):
                raise ConfigError(
                    f"{where}: server is {server!r}, and {key} is an option of {' and '.join(users)} only"
                )
        if "server" in table:
            return


def presets() -> dict[str, str]:
    """Return the names of the presets that ship with the package, and what each is."""
    folder = files("fedmrn.experiments") / "presets"
    found = {}
    for entry in folder.iterdir():
        if entry.name.endswith(".toml"):
            found[entry.name.removesuffix(".toml")] = tomllib.loads(entry.read_text("utf-8"))["description"]
    return dict(sorted(found.items()))


def load_setting(
    source: str, changes: Iterable[str] = (), flag: str = "--set", *, folder: Path | None = None
) -> Setting:
    """Read a preset by name, or a TOML file by path, and apply `key=value` changes.

    Args:
        source: a preset's name, or a path that ends in .toml.
        changes: such as "train.rounds=5", "data.partition=dirichlet", "method.fedmrn.lr=0.05" or, for all methods,
            "method.lr=0.05". Values are TOML; a bare word is a string.
        flag: where the changes come from, for messages.
        folder: that data and code of one's own are beside, where the source is a preset; by default the current one.

    Raises:
        ConfigError: says which key or value is wrong and what would be right.
    """
    beside = folder or Path()
    known, shown = presets(), printable(source, 500)
    if source.endswith(".toml"):
        path = Path(source)
        beside = path.parent
        data = read_file(path, MOST_OF_A_SETTING, "; give a TOML file", error=ConfigError, links=True)
        if data is None:
            raise ConfigError(f"there is no configuration file {shown}")
        try:
            text, name = data.decode("utf-8"), path.stem
        except UnicodeDecodeError as error:
            raise ConfigError(f"{shown} is not a text file in UTF-8") from error
    elif source in known:
        text = (files("fedmrn.experiments") / "presets" / f"{source}.toml").read_text("utf-8")
        name = source
    else:
        raise ConfigError(
            f"preset {source!r} does not exist{nearest(source, known)} (a file of your own must end in .toml)"
        )
    values = parse_toml(text, shown)
    for change in changes:
        _apply(values, change, flag)
    if isinstance(values.get("method"), dict):
        _check_options(values["method"], name)
    if isinstance(values.get("data"), dict):
        values["data"] = _with_source(values["data"], name)
    if "folder" in values:
        raise ConfigError(f"{name}: unknown key folder; data.source and modules are looked for beside this file")
    setting = validate(Setting, {"name": name, **values}, name)
    return replace(setting, folder=str(beside.absolute()))


def _with_source(data: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the table of the data with a name: that of a known data set, or one for data of a person's own.

    Raises:
        ConfigError: these have the name of a known data set.
    """
    source, name = data.get("source"), data.get("name")
    if not isinstance(source, str) or not source:
        return data
    if source in DATASETS:
        if name not in (None, source):
            raise ConfigError(f"{where}: data.source is {source!r}, a data set that is known, so leave data.name out")
        return {**{k: v for k, v in data.items() if k != "source"}, "name": source}
    if name in DATASETS:
        raise ConfigError(f"{where}: data.name = {name!r} is another data set than data.source: leave it out")
    return data if name else {**data, "name": source if ":" in source else Path(source).name or source}


def check_used(changes: Iterable[str], names: Sequence[str], flag: str = "--set") -> None:
    """Refuse a change for all methods that has no effect, since none of these methods has the option.

    Args:
        changes: as `load_setting` takes them, and has accepted.
        names: of the methods that are to be run.
        flag: where the changes come from, for messages.

    Raises:
        ConfigError: naming the change, and a method that has the option.
    """
    for change in changes:
        path = change.partition("=")[0].strip().split(".")
        if len(path) != 2 or path[0] != "method" or path[1] in COMMON:
            continue
        users = [name for name, row in METHODS.items() if path[1] in row.options]
        if not set(users) & set(names):
            lack = "has" if len(names) == 1 else "have"
            raise ConfigError(
                f"{flag} {change!r} would change nothing: {', '.join(names)} {lack} no option {path[1]}; "
                f"it is one of {', '.join(users[:3])}{' and others' if len(users) > 3 else ''}"
            )


def _check_options(table: Mapping[str, Any], where: str) -> None:
    """Refuse options that no method has, and options set for a method that lacks them."""
    known = {*COMMON, *(option for row in METHODS.values() for option in row.options)}
    for key, value in table.items():
        choices = METHODS if isinstance(value, dict) else sorted(known)
        if key not in choices:
            raise ConfigError(f"{where}: method.{printable(key, 60)} does not exist{nearest(key, choices)}")
        for option in value if isinstance(value, dict) else ():
            options = [*COMMON, *METHODS[key].options]
            if option not in options:
                shown = printable(option, 60)
                raise ConfigError(f"{where}: method.{key}.{shown} does not exist{nearest(option, options)}")


def _apply(values: dict[str, Any], change: str, flag: str) -> None:
    key, equals, text = change.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path) or len(path) > 3 or "\n" in change:
        raise ConfigError(f"{flag} {change!r} is not of the form key=value, such as train.rounds=5")
    value = parse_value(text)
    if len(path) == 1:
        sections = [s for s in ("data", "model", "train") if path[0] in fields_of(Setting.__annotations__[s])]
        hint = f"; did you mean {sections[0]}.{path[0]}?" if sections else ""
        if path[0] == "seed":
            hint = "; it is an option of its own: --seed, or --seeds of compare"
        elif not sections and (path[0] in COMMON or any(path[0] in row.options for row in METHODS.values())):
            hint = f"; did you mean method.{path[0]}?"
        raise ConfigError(f"{flag} {change!r}: the key needs its section{hint or ', such as train.rounds=5'}")
    table = values
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{flag} {change!r}: {part} is a value, not a section")
    if path == ["data", "source"] or (path == ["data", "name"] and value in DATASETS):
        table.pop("name" if path[-1] == "source" else "source", None)
    if path[:-1] == ["method"]:  # for all methods: what the preset says for single ones gives way
        for single in table.values():
            if isinstance(single, dict):
                single.pop(path[-1], None)
    table[path[-1]] = value
