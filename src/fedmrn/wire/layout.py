"""Named tensors as slices of one flat float32 vector.

The vector holds four groups, one after the other: CODED (what the method compresses), DENSE (trained, travels as
floats: the affine parameters of normalisation layers by default), STATS (running statistics: averaged, not trained) and
VARIANCE (running variances: never negative, averaged by their logarithms; `fedmrn.wire.variance`).
Each tensor lies there in its logical C order, whatever memory format training uses. Counters such as
`num_batches_tracked` are not part of it: nobody needs their mean.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from hashlib import blake2b
from math import prod

from fedmrn.errors import ConfigError
from fedmrn.whole import shown, whole
from fedmrn.wire.layout_json import GROUPS, read_rows, write_rows

_MOST_DIMENSIONS, _LARGEST = 255, (1 << 63) - 1


class Group(IntEnum):
    """Which part of the flat vector a tensor lies in; the number is its code on the wire."""

    CODED = 0
    DENSE = 1
    STATS = 2
    VARIANCE = 3

    @property
    def trained(self) -> bool:
        """Whether its tensors are trained; the others are statistics of what was seen."""
        return self in (Group.CODED, Group.DENSE)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: its name, logical shape and group."""

    name: str
    shape: tuple[int, ...]
    group: Group

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The tensors of a model in flat order.

    Raises:
        ConfigError: if two tensors have one name, a size is no whole number of at least 0, or the groups are not in
            order (`Layout.of` sorts them).
    """

    tensors: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, tensors: Iterable[TensorSpec]) -> "Layout":
        """Return the layout of these tensors: by group, and within a group in the order given."""
        return cls(tuple(sorted(tensors, key=lambda t: t.group)))

    @classmethod
    def from_json(cls, data: str | bytes) -> "Layout":
        """Return the layout that a file says, from anybody (docs/wire-format.md, section 6.2).

        Args:
            data: the whole file; bytes are UTF-8.

        Raises:
            ConfigError: it is no layout: names the place and what is wrong.
        """
        return cls(tuple(TensorSpec(name, shape, Group(GROUPS.index(word))) for name, shape, word in read_rows(data)))

    def to_json(self) -> str:
        """Return the layout as a file's text: for a client in another language, or a server without the framework."""
        return write_rows((t.name, t.shape, GROUPS[t.group]) for t in self.tensors)

    def __post_init__(self) -> None:
        for t in self.tensors:
            if len(t.shape) > _MOST_DIMENSIONS:
                raise ConfigError(f"tensor {t.name} has {len(t.shape)} dimensions, at most {_MOST_DIMENSIONS} can be")
            for n in t.shape:
                whole(n, f"a size of tensor {t.name}", least=0, most=_LARGEST)
        if self.size > _LARGEST:
            raise ConfigError(f"the tensors of a layout have {shown(self.size)} elements, at most 2^63 - 1 can be")
        names = [t.name for t in self.tensors]
        if len(set(names)) != len(names):
            raise ConfigError("two tensors of a layout have the same name")
        groups = [t.group for t in self.tensors]
        if groups != sorted(groups):
            raise ConfigError("the tensors of a layout must be in the order coded, dense, statistics, variances")

    @cached_property
    def size(self) -> int:
        """The length of the flat vector."""
        return sum(t.size for t in self.tensors)

    @cached_property
    def trainable(self) -> int:
        """The number of trained elements (CODED and DENSE): what bits per parameter are counted against."""
        return sum(t.size for t in self.tensors if t.group.trained)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each tensor lies in the flat vector, by name."""
        found, at = {}, 0
        for tensor in self.tensors:
            found[tensor.name] = slice(at, at + tensor.size)
            at += tensor.size
        return found

    def span(self, group: Group) -> slice:
        """Where a group lies in the flat vector; empty if it has no tensor."""
        start = sum(t.size for t in self.tensors if t.group < group)
        return slice(start, start + sum(t.size for t in self.tensors if t.group == group))

    def sizes(self, group: Group) -> tuple[int, ...]:
        """The elements of each tensor of a group, in flat order; tensors without elements are left out."""
        return tuple(t.size for t in self.tensors if t.group is group and t.size)

    @cached_property
    def digest(self) -> bytes:
        """16 bytes of BLAKE2b over every name, group and shape: equal only for equal layouts."""
        digest = blake2b(digest_size=16, person=b"fedmrn-layout")
        for t in self.tensors:
            name = t.name.encode()
            sizes = b"".join(n.to_bytes(8, "little") for n in t.shape)
            digest.update(len(name).to_bytes(4, "little") + name + bytes((t.group, len(t.shape))) + sizes)
        return digest.digest()
