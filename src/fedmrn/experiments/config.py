"""Configuration: TOML -> frozen dataclasses, with every mistake named.

A *preset* (or a file of your own) describes a setting and the options of each method in it. Choosing one method and a
seed makes an `Experiment`, which is what runs, and what a run folder keeps as `config.toml`.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass

from fedmrn.errors import ConfigError
from fedmrn.methods import METHODS, method
from fedmrn.server.optimizer import SERVER, SERVER_LR, ServerOptimizer, server_options
from fedmrn.server.scheme import Scheme
from fedmrn.text import nearest, printable

T = TypeVar("T")
_STRICT = ConfigDict(extra="forbid")
Count = Annotated[int, Field(ge=1, le=1_000_000_000, strict=True)]
Most = Annotated[int, Field(ge=0, le=1_000_000_000, strict=True)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, strict=True)]


def _fit_for_a_folder(name: str) -> str:
    if not name or name.startswith(".") or any(c in "/\\" or not c.isprintable() for c in name):
        raise ValueError(r"a folder has this name: at least one character, no / or \, no dot at first")
    return name


Name = Annotated[str, AfterValidator(_fit_for_a_folder)]
# What every method takes beside its own options.
COMMON = ("lr", "optimizer", "side", "down", "server", "server_lr", "server_beta", "server_beta2", "server_tau")


@dataclass(frozen=True, config=_STRICT)
class DataConfig:
    """The data set and who holds what of it."""

    name: str = "digits"
    partition: Literal["iid", "dirichlet", "labels", "roles"] = "iid"
    clients: Count = 10
    alpha: Positive = 0.3
    min_size: Count = 10
    share: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.3
    max_samples: Most = 0  # of a client, drawn by the seed; 0: all
    max_test: Most = 0  # test samples, the same for every seed; 0: all


@dataclass(frozen=True, config=_STRICT)
class ModelConfig:
    """The model; init_std 0 means the framework's default initial weights."""

    name: str = "cnn-digits"
    init_std: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)] = 0.0


@dataclass(frozen=True, config=_STRICT)
class TrainConfig:
    """Rounds and local training."""

    rounds: Count = 20
    clients_per_round: Count = 10
    local_epochs: Count = 1
    batch_size: Count = 32
    weight_by: Literal["samples", "batches"] = "samples"
    # Of the framework, in each process that trains; 0: its own default, shared out among the workers.
    threads: Annotated[int, Field(ge=0, le=1024, strict=True)] = 0
    workers: Annotated[int, Field(ge=1, le=1024, strict=True)] = 1  # processes that train clients
    autocast: Literal["off", "bfloat16"] = "off"
    device: Literal["cpu", "cuda", "auto"] = "cpu"  # auto: CUDA where it is
    graphs: StrictBool = True  # on CUDA, a step captured once and replayed


@dataclass(frozen=True, config=_STRICT)
class MethodConfig:
    """How one method trains, and its own options (`fedmrn methods` lists them)."""

    lr: Positive = 0.1
    optimizer: Literal["sgd", "adam"] = "sgd"
    side: Literal["float32", "float16", "levels"] = "float32"
    down: Literal["float32", "float16", "eden4", "eden3", "eden2"] = "float32"
    server: Literal["mean", "momentum", "adam"] = "mean"
    server_lr: Positive = 1.0
    server_beta: Share = 0.9
    server_beta2: Share = 0.99
    server_tau: Positive = 0.001
    options: dict[str, StrictInt | StrictFloat | StrictStr] = Field(default_factory=dict)

    @property
    def server_optimizer(self) -> ServerOptimizer:
        """The optimizer of the server (`fedmrn.server.optimizer`)."""
        return SERVER[self.server](*(getattr(self, key) for key in server_options(self.server)))


@dataclass(frozen=True, config=_STRICT)
class Experiment:
    """One method, one seed, one setting: what a run folder holds the results of."""

    preset: str
    method: str
    seed: Annotated[int, Field(ge=0, lt=1 << 63, strict=True)]
    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    options: MethodConfig

    def __post_init__(self) -> None:
        self.scheme()
        if self.train.clients_per_round > self.data.clients:
            raise ConfigError(
                f"train.clients_per_round is {self.train.clients_per_round}, but data.clients is {self.data.clients}: "
                "lower the first or raise the second"
            )

    def scheme(self) -> Scheme:
        """Return what server and clients agree on."""
        own = self.options
        return method(self.method).scheme(own.options, own.side, own.down, own.server_optimizer)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as written to `config.toml`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> Self:
        """Return the experiment that `as_dict` wrote; an option that its method did not have then has its default.

        Raises:
            ConfigError: naming the key and the place.
        """
        found = validate(cls, values, where)
        options = method(found.method).resolve(found.options.options)
        return replace(found, options=replace(found.options, options=options))


@dataclass(frozen=True, config=_STRICT)
class Setting:
    """A preset: a setting, and under `method` the options for all methods and, by name, for each."""

    name: Name
    description: Annotated[str, AfterValidator(printable)] = ""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    method: dict[str, Any] = Field(default_factory=dict)

    def experiment(self, name: str, seed: int) -> Experiment:
        """Return the experiment of one method.

        Raises:
            ConfigError: for an unknown method or a wrong option of it.
        """
        row = method(name)
        alike = {k: v for k, v in self.method.get(row.like, {}).items() if k in COMMON or k in row.options}
        own = self.method.get(name, {})
        common = {k: v for k, v in self.method.items() if not isinstance(v, dict) and (k in COMMON or k in row.options)}
        run = {"rounds": self.train.rounds, "seed": seed}
        follow = {option.name: run[option.follows] for option in row.options.values() if option.follows}
        values = {"optimizer": row.optimizer, **follow, **common, **alike, **own}
        split = {
            **{k: v for k, v in values.items() if k in COMMON},
            "options": row.resolve({k: v for k, v in values.items() if k not in COMMON}),
        }
        where = f"{printable(self.name)}: method.{name}"
        options = validate(MethodConfig, split, where)
        _check_server(options.server, (own, alike, common), where)
        if "server_lr" not in values:
            options = replace(options, server_lr=SERVER_LR[options.server])
        parts = {"data": self.data, "model": self.model, "train": self.train, "options": options}
        return validate(Experiment, {"preset": self.name, "method": name, "seed": seed, **parts}, self.name)


def _check_server(server: str, tables: Sequence[Mapping[str, Any]], where: str) -> None:
    """Refuse an option that another server has, but for one said more generally than `server`: it is for the others."""
    for table in tables:
        for key in table:
            users = [kind for kind in SERVER if key in server_options(kind)]
            if users and server not in users and table[key] != getattr(MethodConfig, key):
                raise ConfigError(
                    f"{where}: server is {server!r}, and {key} is an option of {' and '.join(users)} only"
                )
        if "server" in table:
            return


def run_name(experiment: Experiment) -> str:
    """Return the folder's name: method and seed."""
    return f"{experiment.method}-seed{experiment.seed}"


def difference(
    old: dict[str, Any], new: dict[str, Any], places: tuple[str, str] = ("there", "here"), prefix: str = ""
) -> str:
    """Return in words where two experiments, as dictionaries, differ."""
    parts = []
    for key in {**old, **new}:
        a, b = old.get(key, "absent"), new.get(key, "absent")
        if isinstance(a, dict) and isinstance(b, dict):
            parts.append(difference(a, b, places, f"{prefix}{key}."))
        elif a != b:
            parts.append(f"{prefix}{key} is {a!r} {places[0]} and {b!r} {places[1]}")
    return ", ".join(p for p in parts if p)


def presets() -> dict[str, str]:
    """Return the names of the presets that ship with the package, and what each is."""
    folder = files("fedmrn.experiments") / "presets"
    found = {}
    for entry in folder.iterdir():
        if entry.name.endswith(".toml"):
            found[entry.name.removesuffix(".toml")] = tomllib.loads(entry.read_text("utf-8"))["description"]
    return dict(sorted(found.items()))


def load_setting(source: str, changes: Iterable[str] = (), flag: str = "--set") -> Setting:
    """Read a preset by name, or a TOML file by path, and apply `key=value` changes.

    Args:
        source: a preset's name, or a path that ends in .toml.
        changes: such as "train.rounds=5", "data.partition=dirichlet", "method.fedmrn.lr=0.05" or, for all methods,
            "method.lr=0.05". Values are TOML; a bare word is a string.
        flag: where the changes come from, for messages.

    Raises:
        ConfigError: says which key or value is wrong and what would be right.
    """
    known, shown = presets(), printable(source, 500)
    if source.endswith(".toml"):
        path = Path(source)
        if not path.is_file():
            raise ConfigError(f"there is no configuration file {shown}")
        try:
            text, name = path.read_text("utf-8"), path.stem
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
    return validate(Setting, {"name": name, **values}, name)


def _check_options(table: Mapping[str, Any], where: str) -> None:
    """Refuse options that no method has, and those of one method that it has not."""
    known = {*COMMON, *(option for row in METHODS.values() for option in row.options)}
    for key, value in table.items():
        choices = METHODS if isinstance(value, dict) else sorted(known)
        if key not in choices:
            raise ConfigError(f"{where}: method.{printable(key, 60)} does not exist{nearest(key, choices)}")
        for option in value if isinstance(value, dict) else ():
            mine = [*COMMON, *METHODS[key].options]
            if option not in mine:
                shown = printable(option, 60)
                raise ConfigError(f"{where}: method.{key}.{shown} does not exist{nearest(option, mine)}")


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Return what a text from outside says as TOML.

    Raises:
        ConfigError: it is not TOML, or nests too deep, or has a whole number too long to be shown.
    """
    try:
        values = tomllib.loads(text)
        repr(values)  # raises for what is read but cannot be shown: dotted keys nest, and 0xff... goes on, without end
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not valid TOML: {printable(str(error))}") from error
    return values


def parse_value(text: str) -> Any:
    """Return what a text says as TOML; a bare word is a string."""
    try:
        return parse_toml(f"v = {text}", "the value")["v"]
    except ConfigError:
        return text.strip()


def _apply(values: dict[str, Any], change: str, flag: str) -> None:
    key, equals, text = change.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path) or len(path) > 3 or "\n" in change:
        raise ConfigError(f"{flag} {change!r} is not of the form key=value, such as train.rounds=5")
    value = parse_value(text)
    if len(path) == 1:
        sections = [s for s in ("data", "model", "train") if path[0] in _fields(Setting.__annotations__[s])]
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
    if path[:-1] == ["method"]:  # for all methods: what the preset says for single ones gives way
        for own in table.values():
            if isinstance(own, dict):
                own.pop(path[-1], None)
    table[path[-1]] = value


def _fields(kind: Any) -> list[str]:
    return list(kind.__dataclass_fields__)


def validate(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Return values as a frozen dataclass.

    Raises:
        ConfigError: names the place and the key that is wrong, unknown or missing.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{printable(where, 500)}: {_explain(kind, first)}") from error


def _explain(kind: Any, error: Any) -> str:
    path = [printable(str(p), 60) for p in error["loc"]]
    key = ".".join(path)
    if error["type"] == "unexpected_keyword_argument":
        for part in path[:-1]:
            kind = kind.__dataclass_fields__[part].type
        return f"unknown key {key}{nearest(path[-1], _fields(kind), ''.join(f'{p}.' for p in path[:-1]))}"
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return (
        f"{key} is missing" if error["type"] == "missing" else f"{key} = {printable(repr(error['input']))}: {message}"
    )
