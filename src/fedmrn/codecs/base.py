"""The one abstraction: a codec turns a float32 vector into bytes, and bytes into values that add up."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import EncodeError


@dataclass(frozen=True, slots=True)
class EncodeKeys:
    """The two kinds of randomness, kept apart, and where the tensors lie.

    Attributes:
        noise: the key that the server sent; the server makes the same randomness from it.
        sampling: the client's own key; it never leaves the client.
        sizes: elements of each tensor in the vector, in order, for codecs with a scale a tensor; empty for one tensor.
    """

    noise: int
    sampling: int
    sizes: tuple[int, ...] = ()

    def segments(self, count: int) -> tuple[int, ...]:
        """Return `sizes` for a vector of `count` elements; one segment where none are given.

        Raises:
            EncodeError: if the sizes do not add up to `count`.
        """
        sizes = self.sizes or (count,)
        if sum(sizes) != count or min(sizes) < 0:
            raise EncodeError(f"tensors of {sum(sizes)} elements in a vector of {count}")
        return sizes


class Reader(Protocol):
    """An opened section: every check has passed, reading cannot fail."""

    def read(self, start: int, out: NDArray[np.float32]) -> None:
        """Write decoded elements start, start+1, ... into `out` (float32); start is a multiple of `CHUNK`."""


CHUNK = 1 << 14
"""Elements decoded at a time: a multiple of every codec's block, and small enough for a core's own cache."""


@dataclass(frozen=True)
class Codec(ABC):
    """A way to write a vector. Instances are immutable; their parameters travel in each section.

    A subclass sets `id` (its code on the wire, 0..255) and `name`, and is listed in `fedmrn.codecs`.
    """

    id: ClassVar[int]
    name: ClassVar[str]

    @abstractmethod
    def params(self) -> bytes:
        """Return the parameters as at most 255 bytes, the same for equal codecs."""

    @classmethod
    @abstractmethod
    def from_params(cls, params: bytes) -> Self:
        """Return the codec with these parameters.

        Raises:
            MalformedFrameError: if they are not what `params` of some instance returns.
        """

    @abstractmethod
    def bound(self, max_value: float) -> float:
        """Return the largest magnitude that a decoded value can have, given the receiver's limit on floats."""

    @abstractmethod
    def encode(self, vector: NDArray[np.float32], keys: EncodeKeys) -> bytes:
        """Encode a finite float32 vector of shape (d,).

        Raises:
            EncodeError: if the vector is not finite.
        """

    @abstractmethod
    def open(self, body: bytes | memoryview, count: int, noise_key: int, max_value: float) -> Reader:
        """Check a body of `count` elements completely, in bounded memory, and return its reader.

        Raises:
            FrameError: a subclass for each cause.
        """

    def decode(
        self, body: bytes | memoryview, count: int, noise_key: int, max_value: float = float("inf")
    ) -> NDArray[np.float32]:
        """Return all decoded elements, float32, shape (count,).

        Raises:
            FrameError: as `open`.
        """
        reader = self.open(body, count, noise_key, max_value)
        out = np.empty(count, np.float32)
        for start in range(0, count, CHUNK):
            reader.read(start, out[start : start + CHUNK])
        return out


def check_finite(vector: NDArray[np.float32]) -> None:
    """Refuse a vector to be encoded that holds NaN or infinity, or is not float32 of one dimension.

    Raises:
        EncodeError: says how many elements are not finite and where the first is.
    """
    if vector.dtype != np.float32 or vector.ndim != 1:
        raise EncodeError(f"a vector to encode is float32 of one dimension, got {vector.dtype} {vector.shape}")
    bad = np.flatnonzero(~np.isfinite(vector))
    if bad.size:
        raise EncodeError(
            f"{bad.size} of {vector.size} values to encode are NaN or infinite, the first at {bad[0]}: "
            "training diverged; lower the learning rate"
        )
