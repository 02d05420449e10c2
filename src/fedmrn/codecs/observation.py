"""Observations: what an update shows of its tensors beside its values, summed over clients."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Observable:
    """Something that can be said of each tensor of an update, as a whole number that adds up over clients.

    Sums of whole numbers do not depend on the order of the clients. Each observable is one object, equal to no other.

    Attributes:
        name: what the record of a round calls it; not that of another observable or of another key of the record.
        mean: (sum over clients, elements of the tensor, clients) -> the mean that is recorded.
        span: elements of the tensor -> the least and the largest number of one client.
    """

    name: str
    mean: Callable[[int, int, int], float]
    span: Callable[[int], tuple[int, int]] = lambda _: (-(1 << 31), 1 << 31)


Observed = Mapping[Observable, Sequence[int]]
"""For each observable a whole number a tensor."""

DENSITY = Observable(
    "density", lambda ones, elements, clients: ones / (elements * clients), lambda elements: (0, elements)
)
"""The share of ones in the masks; the number of one client is that of its ones."""
NOISE_SCALE = Observable(
    "noise_scale", lambda exponents, _, clients: 2.0 ** (exponents / clients), lambda _: (-149, 128)
)
"""The geometric mean of the noise scales that clients chose, all powers of two; a client's number is its exponent."""
