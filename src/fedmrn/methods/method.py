"""What a row of the table of methods is, and how its options resolve."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from types import MappingProxyType
from typing import Any

from fedmrn.codecs import Codec, Float16, Levels, MaskedNoise, OwnScale, Raw, Rotated, ShorterMask
from fedmrn.errors import ConfigError
from fedmrn.server.optimizer import Scaled, ServerOptimizer
from fedmrn.server.rules import ServerRule
from fedmrn.server.scheme import Scheme
from fedmrn.text import nearest
from fedmrn.wire.layout import Group

SIDE: Mapping[str, Codec] = MappingProxyType({"float32": Raw(), "float16": Float16(), "levels": Levels(127, 64)})
"""What is not the method's own business travels as one of these: 32, 16, or 8.5 bits a value."""
DOWN: Mapping[str, tuple[Codec, Codec]] = MappingProxyType(
    {
        "float32": (Raw(), Raw()),
        "float16": (Float16(), Float16()),
        "eden4": (Rotated(4), Float16()),
        "eden3": (Rotated(3), Float16()),
        "eden2": (Rotated(2), Float16()),
    }
)
"""How the state is broadcast: the coded group, and the others."""
NOISE_KEY: Mapping[str, bool] = MappingProxyType({"client": False, "round": True})
"""Whose a noise key is: one client's in one round, or that of all clients of a round."""
AUTO = "auto"
"""What a person types in place of a noise scale, for those that clients choose."""
Value = float | int | str
Options = Mapping[str, Any]
"""Name -> value, of the type that the row gives as default."""


@dataclass(frozen=True, slots=True)
class Method:
    """A row of the comparison.

    Attributes:
        id: its code on the wire, 0..65535.
        name: what a person types.
        summary: one line.
        local: the name of its local rule (`fedmrn.torch.RULES`): what local training optimises.
        codec: makes the codec of the CODED group from the options.
        options: what can be set, and the defaults, published ones where there are any; codec, server rule and local
            rule each take theirs. `rounds` and `seed` follow the experiment unless they are set. `noise_key`
            (a key of `NOISE_KEY`) is the scheme's own.
        rule: makes the server rule from the options.
        weighted: whether clients count by their weight, or alike.
        optimizer: of local training, sgd or adam.
        fixed: what the row sets of its local rule.
        like: the method of which it is a variant; what a preset sets for that one holds for it too.
    """

    id: int
    name: str
    summary: str
    local: str
    codec: Callable[[Options], Codec]
    options: Mapping[str, Value] = field(default_factory=dict)
    rule: Callable[[Options], ServerRule] = lambda _: ServerRule()
    weighted: bool = True
    optimizer: str = "sgd"
    fixed: Mapping[str, bool] = field(default_factory=dict)
    like: str = ""

    def resolve(self, options: Options | None = None) -> dict[str, Value]:
        """Return all options: those given, and the defaults of the others.

        Raises:
            ConfigError: the method has no such option, or the value is of another type.
        """
        found = dict(self.options)
        for name, value in (options or {}).items():
            if name not in found:
                hint = nearest(name, found) if found else ": it has none"
                raise ConfigError(f"method {self.name} has no option {name!r}{hint}")
            where = f"method {self.name}: {name} = {value!r}"
            if name == "scale" and isinstance(value, str):
                if value != AUTO:
                    raise ConfigError(f'{where} must be a number or the word "{AUTO}"')
                found[name] = AUTO
            else:
                found[name] = _as(type(self.options[name]), value, where)
        return found

    def scheme(
        self,
        options: Options | None = None,
        side: str = "float32",
        down: str = "float32",
        optimizer: ServerOptimizer | None = None,
    ) -> Scheme:
        """Return the scheme.

        Args:
            options: of the method.
            side: a key of `SIDE`: how the dense group and the statistics travel up.
            down: a key of `DOWN`: how the state travels down.
            optimizer: of the server; by default the state moves by the mean.

        Raises:
            ConfigError: an option does not exist or is unusable.
        """
        values = self.resolve(options)
        try:
            return self._scheme(values, side, down, optimizer or Scaled(1.0))
        except ConfigError as error:
            raise ConfigError(f"method {self.name}: {error}") from error

    def _scheme(self, values: dict[str, Value], side: str, down: str, optimizer: ServerOptimizer) -> Scheme:
        auto = values.get("scale") == AUTO
        if auto:
            values["scale"] = 1.0
        if side not in SIDE:
            raise ConfigError(f"side data {side!r} does not exist{nearest(side, SIDE)}")
        codec = self.codec(values)
        if auto:
            if not isinstance(codec, MaskedNoise | ShorterMask):
                raise ConfigError(f"codec {codec.name} has no noise whose scale a client could choose")
            codec = OwnScale(codec)
        codecs = {Group.CODED: codec, Group.DENSE: SIDE[side], Group.STATS: SIDE[side]}
        if down not in DOWN:
            raise ConfigError(f"broadcast {down!r} does not exist{nearest(down, DOWN)}")
        coded, others = DOWN[down]
        broadcast = {Group.CODED: coded, Group.DENSE: others, Group.STATS: others}
        whose = str(values.get("noise_key", "client"))
        if whose not in NOISE_KEY:
            raise ConfigError(f"noise_key {whose!r} does not exist{nearest(whose, NOISE_KEY)}")
        shared = NOISE_KEY[whose]
        if auto and shared:
            raise ConfigError(
                'scale = "auto" gives each client noise of its own scale, and noise_key = "round" one noise to all: '
                'set scale to a number, or noise_key to "client"'
            )
        return Scheme(self.id, codecs, self.rule(values), self.weighted, broadcast, shared, optimizer)


def _as(kind: type, value: object, where: str) -> Value:
    """Return a value of the option's type; a whole number will do for a float."""
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # a whole number of hundreds of digits
            number = inf
        if not isfinite(number):
            raise ConfigError(f"{where} is not finite")
        return number
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str):
        return value
    names = {float: "a number", int: "a whole number", str: "a word"}
    raise ConfigError(f"{where} must be {names[kind]}")
