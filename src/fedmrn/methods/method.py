"""What a row of the table of methods is, and how its options become a scheme."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType
from typing import Any

from fedmrn.codecs import Codec, Float8, Float16, Levels, MaskCodec, Raw, Rotated
from fedmrn.errors import ConfigError, MalformedFrameError
from fedmrn.methods.option import Option, ReadBy, Value
from fedmrn.server.grid import PublicGrid
from fedmrn.server.optimizer import Scaled, ServerOptimizer
from fedmrn.server.rules import ServerRule
from fedmrn.server.scheme import Scheme
from fedmrn.text import nearest
from fedmrn.whole import shown
from fedmrn.wire.layout import Group

GRID = "grid"
"""The word for public models in the place of an encoding of the state."""
SIDE: Mapping[str, Codec] = MappingProxyType(
    {"float32": Raw(), "float16": Float16(), "levels": Levels(127, 64), "float8": Float8()}
)
"""Encodings of side data (normalisation layers and their statistics), by name: 32, 16, 8.5 or 8 bits a value.

Values beyond what an encoding and the server's limit hold are clipped by the client: beyond 65,504 in 16 bits, beyond
`Limits.max_value` (65,536) in 32; with `levels` that is the limit of a block's norm.
"""
VARIANCE: Mapping[str, Codec] = MappingProxyType({**SIDE, "levels": Float16()})
"""Encodings of running variances for each of `SIDE`: a level could be any factor, so floats take its place."""
DOWN: Mapping[str, tuple[Codec, Codec]] = MappingProxyType(
    {
        "float32": (Raw(), Raw()),
        "float16": (Float16(), Float16()),
        "eden4": (Rotated(4), Float16()),
        "eden3": (Rotated(3), Float16()),
        "eden2": (Rotated(2), Float16()),
        GRID: (Raw(), Raw()),
    }
)
"""Encodings of the broadcast's state, by name: of the coded group, and of the others.

With grid clients get public models instead (`fedmrn.server.grid`).
Running variances, and a group with a value that its encoding cannot hold, are sent as float32.
"""
Options = Mapping[str, Any]
"""Options by name: values as typed, or what `Option.parse` makes of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method of the table: what clients train, what they send, and how the server's state moves.

    Attributes:
        id: its code on the wire, 0..65535.
        name: what a person types.
        summary: one line.
        local: its local rule, what local training optimises: MODULE:CLASS in `fedmrn.torch.rules`. A word, so that the
            table needs no torch; `fedmrn.torch.local_rule` finds the class.
        codec: makes the codec of the CODED group from the parsed options.
        options: what can be set, by name (`by_name`).
        rule: makes the server rule from the parsed options.
        weighted: whether clients count by their weight, or alike.
        optimizer: of local training, sgd or adam.
        fixed: settings of its local rule that tell it from the method that it is an ablation of.
        like: the method of which it is a variant; what a preset sets for that one holds for it too.
    """

    id: int
    name: str
    summary: str
    local: str
    codec: Callable[[Options], Codec]
    options: Mapping[str, Option] = field(default_factory=dict)
    rule: Callable[[Options], ServerRule] = lambda _: ServerRule()
    weighted: bool = True
    optimizer: str = "sgd"
    fixed: Mapping[str, bool] = field(default_factory=dict)
    like: str = ""

    @property
    def defaults(self) -> dict[str, Value]:
        """The default of each option."""
        return {name: option.default for name, option in self.options.items()}

    @property
    def masked(self) -> bool:
        """Whether clients send nothing of a coded parameter but masked noise, whatever the options."""
        return all(MaskCodec.of(codec) is not None for codec in self.codecs())

    def codecs(self) -> Iterator[Codec]:
        """Yield a codec of the coded group for each kind of option values, that of the defaults first."""
        read = {name: option.kinds for name, option in self.options.items()}
        for values in product(*read.values()):
            chosen = dict(zip(read, values, strict=True))
            yield self.codec({name: self.options[name].parse(value) for name, value in chosen.items()})

    def resolve(self, options: Options | None = None) -> dict[str, Value]:
        """Return the value of every option: those given, and the defaults of the others.

        Raises:
            ConfigError: the method has no such option, or the value is of another type.
        """
        found = self.defaults
        for name, value in (options or {}).items():
            if not isinstance(name, str):
                raise ConfigError(f"method {self.name}: options are named by words, got {shown(name)}")
            if name not in found:
                hint = nearest(name, found) if found else ": it has none"
                raise ConfigError(f"method {self.name} has no option {name!r}{hint}")
            found[name] = self.options[name].check(value, f"method {self.name}: {name} = {shown(value)}")
        return found

    def scheme(
        self,
        options: Options | None = None,
        side: str = "float32",
        down: str | PublicGrid = "float32",
        optimizer: ServerOptimizer | None = None,
        *,
        equal: bool = False,
    ) -> Scheme:
        """Return what server and clients agree on for these options.

        Args:
            options: values by name; the others have their defaults.
            side: a key of `SIDE`: how the dense group and the statistics travel up; variances by `VARIANCE`.
            down: a key of `DOWN`: how the state travels down; or the law of its public models, for which "grid" stands
                with its defaults.
            optimizer: of the server; by default the state moves by the mean.
            equal: count all clients alike, whatever weights they claim.

        Raises:
            ConfigError: an option does not exist or is unusable.
        """
        values = self.resolve(options)
        try:
            return self._scheme(values, side, down, optimizer or Scaled(1.0), self.weighted and not equal)
        except ConfigError as error:
            raise ConfigError(f"method {self.name}: {error}") from error

    def _scheme(
        self,
        values: Mapping[str, Value],
        side: str,
        down: str | PublicGrid,
        optimizer: ServerOptimizer,
        weighted: bool,
    ) -> Scheme:
        grid = down if isinstance(down, PublicGrid) else PublicGrid() if down == GRID else None
        down = GRID if isinstance(down, PublicGrid) else down
        for what, word, choices in (("side data", side, SIDE), ("broadcast", down, DOWN)):
            if not isinstance(word, str) or word not in choices:
                raise ConfigError(f"{what} {shown(word)} does not exist{nearest(str(word)[:60], choices)}")
        parsed = {name: self.options[name].parse(value) for name, value in values.items()}
        codec, (coded, others) = self.codec(parsed), DOWN[down]
        sides = {Group.DENSE: SIDE[side], Group.STATS: SIDE[side], Group.VARIANCE: VARIANCE[side]}
        return Scheme(
            method=self.id,
            codecs={Group.CODED: codec, **sides},
            rule=self.rule(parsed),
            weighted=weighted,
            down={Group.CODED: coded, Group.DENSE: others, Group.STATS: others, Group.VARIANCE: Raw()},
            grid=grid,
            shared_key=parsed.get("noise_key", False),
            optimizer=optimizer,
            terms=self._terms(values),
        )

    def _terms(self, values: Mapping[str, Value]) -> dict[str, float]:
        """Return what clients must be told of the options: those of the local rule that are not at their default."""
        options = (option for option in self.options.values() if option.read_by is ReadBy.CLIENT)
        return {o.name: float(o.parse(values[o.name])) for o in options if values[o.name] != o.default}

    def local_options(self, told: Mapping[str, float]) -> dict[str, Any]:
        """Return the settings of the local rule, given the terms of a broadcast.

        Raises:
            MalformedFrameError: a term is what the row fixes.
        """
        for name in self.fixed:
            if name in told:
                raise MalformedFrameError(f"the broadcast sets {name}, which method {self.name} fixes")
        defaults = {o.name: o.parse(o.default) for o in self.options.values() if o.read_by is ReadBy.CLIENT}
        return {**defaults, **self.fixed, **told}
