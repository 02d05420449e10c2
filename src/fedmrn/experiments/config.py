"""An experiment: one method, one seed, one setting, as frozen dataclasses; a run folder keeps it as `config.toml`."""

from collections.abc import Mapping
from dataclasses import asdict, field, replace
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, PlainValidator, StrictBool, StrictFloat, StrictInt, StrictStr
from pydantic.dataclasses import dataclass

from fedmrn.data import PARTITIONS
from fedmrn.errors import ConfigError
from fedmrn.experiments.parsing import fields_of, validate, word_of
from fedmrn.methods import method
from fedmrn.methods.method import DOWN, GRID, SIDE
from fedmrn.methods.optimizers import LOCAL_OPTIMIZERS
from fedmrn.server.grid import PublicGrid
from fedmrn.server.optimizer import SERVER, ServerOptimizer, server_options
from fedmrn.server.scheme import Scheme

_STRICT = ConfigDict(extra="forbid")
Count = Annotated[int, Field(ge=1, le=1_000_000_000, strict=True)]
Most = Annotated[int, Field(ge=0, le=1_000_000_000, strict=True)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, strict=True)]


@dataclass(frozen=True, config=_STRICT)
class DataConfig:
    """The data set and who holds what of it; with a `source` it is a person's own, and the name is for people."""

    name: str = "digits"
    source: str = ""  # of one's own: what names it (`fedmrn.data.own`)
    partition: Annotated[str, PlainValidator(word_of(PARTITIONS))] = "iid"
    clients: Count = 10
    alpha: Positive = 0.3
    min_size: Count = 10
    share: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.3
    max_samples: Most = 0  # of a client, drawn by the seed; 0: all
    max_test: Most = 0  # test samples, the same for every seed; 0: all
    # Of one's own: the side that pictures are scaled to (0: they have one size); and of data that come in one piece
    # the share for testing, and the seed of its draw, which is not the run's.
    image_size: Annotated[int, Field(ge=0, le=4096, strict=True)] = 0
    test_share: Annotated[float, Field(gt=0, lt=1, strict=True)] = 0.2
    split_seed: Annotated[int, Field(ge=0, lt=1 << 63, strict=True)] = 0


@dataclass(frozen=True, config=_STRICT)
class ModelConfig:
    """The model: one of ours, module:Class or timm:NAME; init_std 0 means the model's own initial weights."""

    name: str = "cnn-digits"
    init_std: NotNegative = 0.0


@dataclass(frozen=True, config=_STRICT)
class TrainConfig:
    """Rounds and local training."""

    rounds: Count = 20
    clients_per_round: Count = 10
    local_epochs: Count = 1
    batch_size: Count = 32
    weight_by: Literal["samples", "batches", "equal"] = "samples"
    # Of the framework, in each process that trains; 0: its own default, shared out among the workers.
    threads: Annotated[int, Field(ge=0, le=1024, strict=True)] = 0
    workers: Annotated[int, Field(ge=1, le=1024, strict=True)] = 1  # processes that train clients
    autocast: Literal["off", "bfloat16"] = "off"
    device: Literal["cpu", "cuda", "auto"] = "cpu"  # auto: CUDA where it is
    graphs: StrictBool = True  # on CUDA, a step captured once and replayed
    # Samples that a client forwards once more after training, at most, for the statistics of batch norm that it sends.
    statistics: Most = 256
    # After which rounds their clients find the statistics of the new model, before it is evaluated.
    calibrate: Literal["never", "last", "every"] = "never"
    test_every: Count = 1  # rounds from one evaluation to the next; the last round is always tested

    # Sums updates so that the server sees no single one (`fedmrn.secure`), and the share of a round's clients, above
    # 1/2, that must stay to the end. Each client shares secrets with all others, or with as few as withstand a tenth of
    # all helping the server.
    protect: Literal["none", "secure-sum"] = "none"
    threshold: Annotated[float, Field(gt=0.5, le=1, strict=True)] = 2 / 3
    neighbours: Literal["all", "few"] = "all"

    def tests(self, round: int) -> bool:
        """Whether the model after this round is evaluated."""
        return round % self.test_every == 0 or round == self.rounds


@dataclass(frozen=True, config=_STRICT)
class MethodConfig:
    """How one method trains: options that every method has, and under `specific` those of this one."""

    lr: Positive = 0.1
    optimizer: Annotated[str, PlainValidator(word_of(LOCAL_OPTIMIZERS))] = "sgd"
    weight_decay: NotNegative = 0.0
    side: Annotated[str, PlainValidator(word_of(SIDE))] = "float32"
    down: Annotated[str, PlainValidator(word_of(DOWN))] = "float32"
    grid_step: Positive = 0.5  # of public models, over what a tensor moved; where down is grid
    # Of public models, in steps: how far beyond half of one a number stays.
    grid_hysteresis: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.25
    server: Annotated[str, PlainValidator(word_of(SERVER))] = "mean"
    server_lr: Positive = 1.0
    server_beta: Share = 0.9
    server_beta2: Share = 0.99
    server_tau: Positive = 0.001
    specific: dict[str, StrictInt | StrictFloat | StrictStr] = Field(default_factory=dict)

    @property
    def server_optimizer(self) -> ServerOptimizer:
        """The optimizer of the server (`fedmrn.server.optimizer`)."""
        return SERVER[self.server](*(getattr(self, key) for key in server_options(self.server)))


OWN_DATA = ("source", "image_size", "test_share", "split_seed")
"""The keys of `data` that only data of a person's own have."""
_TIMM = "timm:"  # what the name of a model of timm's starts with
COMMON = tuple(name for name in fields_of(MethodConfig) if name != "specific")
"""The options that every method has."""


@dataclass(frozen=True, config=_STRICT)
class Experiment:
    """One method, one seed, one setting: what a run folder holds the results of.

    `folder` is that of the setting's file, beside which data and code of a person's own are; empty without such. A run
    that has been moved with them is the same run.
    """

    preset: str
    method: str
    seed: Annotated[int, Field(ge=0, lt=1 << 63, strict=True)]
    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    options: MethodConfig
    folder: str = field(default="", compare=False)

    @property
    def own(self) -> bool:
        """Whether data or model are a person's own."""
        return bool(self.data.source) or ":" in self.model.name

    @property
    def code(self) -> list[str]:
        """What a run executes that is named by the setting: module:function and module:Class."""
        return [name for name in (self.data.source, self.model.name) if ":" in name and not name.startswith(_TIMM)]

    def __post_init__(self) -> None:
        self.scheme()
        if self.train.clients_per_round > self.data.clients:
            raise ConfigError(
                f"train.clients_per_round is {self.train.clients_per_round}, but data.clients is {self.data.clients}: "
                "lower the first or raise the second"
            )

    def scheme(self) -> Scheme:
        """Return what server and clients agree on."""
        options = self.options
        return method(self.method).scheme(
            options.specific,
            options.side,
            # All clients build the model from the run's seed, so that numbers may count from its start.
            PublicGrid(step=options.grid_step, hysteresis=options.grid_hysteresis, from_start=True)
            if options.down == GRID
            else options.down,
            options.server_optimizer,
            equal=self.train.weight_by == "equal",
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as written to `config.toml`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> Self:
        """Return the experiment that `as_dict` wrote; an option that its method did not have then has its default.

        A method's options stood in a table `options.options` before they did in `options.specific`.

        Raises:
            ConfigError: naming the key and the place.
        """
        options = values.get("options")
        if isinstance(options, dict) and "options" in options and "specific" not in options:
            values = {**values, "options": {"specific" if k == "options" else k: v for k, v in options.items()}}
        found = validate(cls, values, where)
        specific = method(found.method).resolve(found.options.specific)
        return replace(found, options=replace(found.options, specific=specific))


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
