"""Options of a method: each has a name, a type, a default, a line of explanation, and somebody who reads it.

A *value* is what a person types and a file holds: a number, a whole number or a word. `check` refuses values of another
type; `parse` makes of a value what its reader takes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import inf, isfinite
from types import MappingProxyType
from typing import Any

from fedmrn.codecs import FitsUpdate, Fixed, NoiseScale
from fedmrn.errors import ConfigError
from fedmrn.text import nearest
from fedmrn.whole import shown

Value = float | int | str
_LARGEST = (1 << 64) - 1
AUTO = "auto"
"""What a person types in place of a noise scale, for scales that clients choose."""


class ReadBy(Enum):
    """Who uses an option."""

    CODEC = "codec"
    RULE = "server rule"
    CLIENT = "local rule"
    """It travels in the broadcast's terms where it differs from its default."""
    SCHEME = "scheme"


@dataclass(frozen=True, kw_only=True)
class Option(ABC):
    """A setting of a method.

    Attributes:
        name: what a person types, as in `method.NAME=value`.
        default: the published value, where there is one.
        words: what it means, in a line.
        read_by: who uses it.
        follows: the value of a run that it takes unless it is set (`rounds` or `seed`); empty for none.
    """

    name: str
    default: Value
    words: str
    read_by: ReadBy = ReadBy.CODEC
    follows: str = ""

    @abstractmethod
    def check(self, value: object, where: str) -> Value:
        """Return a value of this option's type.

        Args:
            value: as typed, or as read from a file.
            where: the start of an error message.

        Raises:
            ConfigError: it is of another type.
        """

    def parse(self, value: Value) -> Any:
        """Return what the option's reader takes; the value itself, unless a subclass says otherwise."""
        return value

    @property
    def kinds(self) -> tuple[Value, ...]:
        """One value of each kind that the option has, the default first: numbers are of one kind, each word is one."""
        return (self.default,)


@dataclass(frozen=True, kw_only=True)
class NumberOption(Option):
    """A finite number; a whole number will do."""

    def check(self, value: object, where: str) -> Value:
        """Return the value as a float."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ConfigError(f"{where} must be a number")
        try:
            number = float(value)
        except OverflowError:  # a whole number of hundreds of digits
            number = inf
        if not isfinite(number):
            raise ConfigError(f"{where} is not finite")
        return number


@dataclass(frozen=True, kw_only=True)
class WholeOption(Option):
    """A whole number."""

    def check(self, value: object, where: str) -> Value:
        """Return the value."""
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"{where} must be a whole number")
        if abs(value) > _LARGEST:
            raise ConfigError(f"{where} is too large: at most {_LARGEST}")
        return value


@dataclass(frozen=True, kw_only=True)
class WordOption(Option):
    """One of several words.

    Attributes:
        choices: each word, and what its reader takes for it.
        what: what such a word names, for messages.
    """

    choices: Mapping[str, Any]
    what: str

    def check(self, value: object, where: str) -> Value:
        """Return the word."""
        if not isinstance(value, str):
            raise ConfigError(f"{where} must be a word")
        return value

    def parse(self, value: Value) -> Any:
        """Return what the word stands for.

        Raises:
            ConfigError: there is no such word; the message suggests the nearest.
        """
        if value not in self.choices:
            raise ConfigError(f"{self.what} {shown(value)} does not exist{nearest(str(value), self.choices)}")
        return self.choices[str(value)]

    @property
    def kinds(self) -> tuple[Value, ...]:
        """Every word, the default first."""
        return (self.default, *(word for word in self.choices if word != self.default))


@dataclass(frozen=True, kw_only=True)
class ScaleOption(NumberOption):
    """The scale of noise: a number, or the word "auto" for scales that clients choose."""

    def check(self, value: object, where: str) -> Value:
        """Return the number, or the word."""
        if isinstance(value, str):
            if value != AUTO:
                raise ConfigError(f'{where} must be a number or the word "{AUTO}"')
            return AUTO
        return super().check(value, where)

    def parse(self, value: Value) -> NoiseScale:
        """Return where the scale comes from."""
        return FitsUpdate() if value == AUTO else Fixed(float(value))

    @property
    def kinds(self) -> tuple[Value, ...]:
        """The default, and the word or a number, whichever it is not."""
        return (self.default, 1.0 if self.default == AUTO else AUTO)


def words_of(kind: type[Enum]) -> Mapping[str, Enum]:
    """Return the members of an enumeration by their names in small letters, for `WordOption.choices`."""
    return MappingProxyType({member.name.lower(): member for member in kind})


def by_name(*options: Option) -> Mapping[str, Option]:
    """Return options by name, in the order given."""
    return MappingProxyType({option.name: option for option in options})
