"""The one abstraction: a codec turns a float32 vector into bytes, and bytes into values that add up."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import ConfigError, EncodeError


class Plane(Enum):
    """Something about an update that adds up over clients; what a server rule asks the fold for."""

    VALUE = "value"
    """The decoded values: every codec has this plane."""
    SIGN = "sign"
    """+1 or -1."""
    SCALE = "scale"
    """The scale of the element's tensor."""
    KEPT = "kept"
    """1 where the element was sent, else 0."""


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


Fold = Callable[[int, float, bool, NDArray[np.int64]], None]
"""(start, factor, near, total) adds the elements start, start+1, ... times the factor to `total`, as
`fedmrn.numerics.kernels.fold` does; start is a multiple of `CHUNK`."""


def own_fold(reader: Reader) -> Fold | None:
    """Return the reader's method `fold`, if it can fold without writing the values down."""
    found: Fold | None = getattr(reader, "fold", None)
    return found


def mask_of(reader: Reader) -> NDArray[np.uint8] | None:
    """Return the packed bits of an opened section, if it is a mask: uint8, shape (ceil(d / 8),)."""
    found: NDArray[np.uint8] | None = getattr(reader, "mask", None)
    return found


class NoiseScales(Protocol):
    """The scales of masked noise, all powers of two, float32 values."""

    @property
    def values(self) -> NDArray[np.float32]:
        """The scales, a run of elements each."""

    def at(self, index: int) -> float:
        """Return the scale of an element."""


def noise_scales_of(reader: Reader) -> NoiseScales | None:
    """Return the scales that the sender of an opened section chose for its noise, if it chose any."""
    found: NoiseScales | None = getattr(reader, "noise_scales", None)
    return found


def read_plane(reader: Reader, plane: Plane) -> Reader:
    """Return the reader of one plane of an opened section.

    Raises:
        ConfigError: the section's codec has no such plane.
    """
    if plane is Plane.VALUE:
        return reader
    other: Reader | None = getattr(reader, plane.value, None)
    if other is None:
        raise ConfigError(f"an update of this codec has no plane {plane.value}")
    return other


CHUNK = 1 << 14
"""Elements decoded at a time: a multiple of every codec's block, and small enough for a core's own cache."""


@dataclass(frozen=True)
class Codec(ABC):
    """A way to write a vector. Instances are immutable; their parameters travel in each section.

    A subclass sets `id` (its code on the wire, 0..255) and `name`, and is listed in `fedmrn.codecs`.
    """

    id: ClassVar[int]
    name: ClassVar[str]
    planes: ClassVar[frozenset[Plane]] = frozenset({Plane.VALUE})
    """What can be read of it; a reader has the planes beyond values as attributes of their names."""
    needs_state: ClassVar[bool] = False
    """Whether it reads and writes only after `bind`."""

    @classmethod
    def of(cls, codec: "Codec | None") -> Self | None:
        """Return the codec if it is one of this class, else None: how local rules ask for theirs."""
        return codec if isinstance(codec, cls) else None

    @property
    def any_vector(self) -> bool:
        """Whether it is made for updates of any values, so that its error on a vector means something."""
        return True

    @property
    def unbiased(self) -> bool:
        """Whether the mean of what is decoded, over keys, is the vector, whatever it is."""
        return False

    def bind(self, state: NDArray[np.float32]) -> "Codec":
        """Return the codec for updates of this state (float32, shape (d,)), which both sides know; most need none."""
        return self

    @property
    def uncoded(self) -> "Codec":
        """The codec that says the same in plain, a mask as its bits; most are it themselves."""
        return self

    def uncode(self, body: bytes | memoryview, count: int, noise_key: int) -> bytes | memoryview:
        """Return the body that `uncoded` would have written for the same values.

        Raises:
            FrameError: as `open`; a codec that codes nothing does not look at the body.
        """
        return body

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
