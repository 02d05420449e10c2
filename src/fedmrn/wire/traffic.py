"""What came in at each floor of a tree of servers, counted where it came in: bytes by kind, and what was refused."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise, zip_longest
from typing import Self

from fedmrn import errors
from fedmrn.errors import FrameError, LimitError, MalformedFrameError
from fedmrn.wire.frame import Role, Section
from fedmrn.wire.layout import Group
from fedmrn.wire.reader import ByteReader

UNKNOWN = (1 << 32) - 1
"""In the place of a client's index: it is none of the round's."""
Refusals = Mapping[tuple[int, str], int]
"""(index of the client in the round, name of the error) -> how many frames."""
MOST_FLOORS = 254
"""Below a node; the one above it adds its own to them, and a byte counts all."""
_FLOOR = struct.Struct("<9Q")
_REFUSAL = struct.Struct("<IIB")
_LARGEST, _MOST_TIMES = (1 << 64) - 1, (1 << 32) - 1
_NAMES = {name for name, thing in vars(errors).items() if isinstance(thing, type) and issubclass(thing, FrameError)}


@dataclass(frozen=True, slots=True)
class FloorTraffic:
    """What came in at the nodes of one floor.

    Attributes:
        frames: that were taken.
        coded, dense, stats, variance, header, checksum: their bytes, by part (`Frame.account`).
        refused: frames that were not taken.
        refused_bytes: of these.
    """

    frames: int = 0
    coded: int = 0
    dense: int = 0
    stats: int = 0
    variance: int = 0
    header: int = 0
    checksum: int = 0
    refused: int = 0
    refused_bytes: int = 0

    @property
    def bytes(self) -> int:
        """Of the frames that were taken."""
        return self.coded + self.dense + self.stats + self.variance + self.header + self.checksum

    @classmethod
    def of(cls, account: Mapping[str, int]) -> Self:
        """Return the traffic of one frame that was taken, by its account."""
        return cls(frames=1, **account)

    def __add__(self, other: "FloorTraffic") -> "FloorTraffic":
        return FloorTraffic(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


Floors = tuple[FloorTraffic, ...]
"""Of each floor below a node: clients' frames first, then the partial sums of edges, and so on up."""


def joined_floors(a: Floors, b: Floors) -> Floors:
    """Return the traffic of two parts of a tree, floor by floor."""
    return tuple(x + y for x, y in zip_longest(a, b, fillvalue=FloorTraffic()))


def report_section(floors: Floors, refusals: Refusals) -> Section:
    """Return the section that says what came in below a node; a count beyond its field is written as the largest.

    Args:
        floors: at most 255.
        refusals: of what was refused there; written in order.
    """
    parts = [_FLOOR.pack(*(min(count, _LARGEST) for count in astuple(floor))) for floor in floors]
    for (client, name), times in sorted(refusals.items()):
        parts += [_REFUSAL.pack(client, min(times, _MOST_TIMES), len(name)), name.encode()]
    return Section(0, Role.REPORT, Group.CODED, len(refusals), bytes([len(floors)]), b"".join(parts))


def read_report(section: Section) -> tuple[Floors, dict[tuple[int, str], int]]:
    """Return what `report_section` wrote.

    Raises:
        LimitError: it has so many floors that the node above cannot add its own.
        MalformedFrameError: it is cut or too long, refusals are not in order, or one is of an error that is none.
    """
    if len(section.params) != 1 or section.codec or section.count > len(section.body) // _REFUSAL.size:
        raise MalformedFrameError("a report has codec 0, a byte of parameters, and as many refusals as it says")
    if section.params[0] > MOST_FLOORS:
        raise LimitError(f"a report of {section.params[0]} floors: {MOST_FLOORS} are the most below a node")
    reader = ByteReader(section.body, "the bytes of a report")
    floors = tuple(FloorTraffic(*reader.numbers(_FLOOR)) for _ in range(section.params[0]))
    found: dict[tuple[int, str], int] = {}
    for _ in range(section.count):
        client, times, length = reader.numbers(_REFUSAL)
        name = bytes(reader.take(length)).decode("ascii", "replace")
        if name not in _NAMES or not times:
            raise MalformedFrameError(f"a report has {times} refusals for {name[:40]!r}")
        found[client, name] = times
    reader.end()
    _check_order([*found], section.count)
    return floors, found


def _check_order(keys: Sequence[tuple[int, str]], count: int) -> None:
    if len(keys) != count or any(a >= b for a, b in pairwise(keys)):
        raise MalformedFrameError("the refusals of a report are not in increasing order")
