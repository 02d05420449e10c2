"""The one abstraction: a codec turns a float32 vector into bytes, and bytes into values that add up."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.limit import clipped
from fedmrn.codecs.observation import Observable, Observed
from fedmrn.errors import ConfigError, EncodeError
from fedmrn.numerics import kernels

if TYPE_CHECKING:
    from fedmrn.codecs.scales import TensorScales


class Plane(Enum):
    """A quantity of an update that the fold can sum over clients, for server rules that need more than the values."""

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
    """What an encoder gets beside the vector: the shared key, the client's own key, and the sizes of the tensors.

    Attributes:
        noise: the key that the server sent; the server makes the same randomness from it.
        sampling: the client's own key; it never leaves the client.
        sizes: elements of each tensor in the vector, in order, for codecs with a scale a tensor; empty for one tensor.
        caps: exponents of the largest scale 2^e that each tensor that is not empty may have; empty where none is told.
        scales: exponents of the scale that each of them has to have; empty where none is told.
    """

    noise: int
    sampling: int
    sizes: tuple[int, ...] = ()
    caps: tuple[int, ...] = ()
    scales: tuple[int, ...] = ()

    def segments(self, count: int) -> tuple[int, ...]:
        """Return `sizes` for a vector of `count` elements; one segment where none are given.

        Raises:
            EncodeError: if the sizes do not add up to `count`.
        """
        sizes = self.sizes or (count,)
        if sum(sizes) != count or min(sizes) < 0:
            raise EncodeError(f"tensors of {sum(sizes)} elements in a vector of {count}")
        return sizes


CHUNK = 1 << 14
"""Elements decoded at a time: a multiple of every codec's block, and small enough for a core's own cache."""


class Opened(ABC):
    """A section that has passed every check: reading it cannot fail."""

    __slots__ = ()
    direct_fold: ClassVar[bool] = False
    """Whether `fold` makes no vector of values, and the section holds little memory: frames of a large model may then
    wait for others and be folded together."""
    folds_anywhere: ClassVar[bool] = False
    """Whether `fold` takes any start, and not multiples of `CHUNK` alone."""

    @abstractmethod
    def read(self, start: int, out: NDArray[np.float32]) -> None:
        """Write decoded elements start, start+1, ... into `out` (float32); start is a multiple of `CHUNK`."""

    def fold(self, start: int, factor: float, near: bool, total: NDArray[np.int64]) -> None:
        """Add the elements start, start+1, ... times a factor to `total`, as `fedmrn.numerics.kernels.fold` does.

        Args:
            start: a multiple of `CHUNK`, unless `folds_anywhere`.
            factor: every magnitude times it is below 2^62.
            near: whether every one is below `fedmrn.numerics.kernels.NEAR`.
            total: int64, a sum for each element.
        """
        values = np.empty(CHUNK, np.float32)
        for at in range(0, total.size, CHUNK):
            part = values[: min(CHUNK, total.size - at)]
            self.read(start + at, part)
            kernels.fold(part, factor, near, total[at : at + part.size])

    def tensor_scales(self) -> "TensorScales | None":
        """Return the scale that the sender gave each tensor; None where the codec sends none."""
        return None

    def wanted_scales(self) -> NDArray[np.int16] | None:
        """Return the exponents of the scales that fit the sender's update, one a tensor; by default those it sent."""
        scales = self.tensor_scales()
        return None if scales is None else scales.exponents

    def capped(self, caps: Sequence[int]) -> "Opened":
        """Return the section with no scale above 2^cap of its tensor; itself where the codec sends none."""
        return self

    def plane(self, plane: Plane) -> "Opened":
        """Return one plane of the section; that of values is the section itself.

        Raises:
            ConfigError: the section's codec has no such plane.
        """
        if plane is Plane.VALUE:
            return self
        raise ConfigError(f"an update of this codec has no plane {plane.value}")

    def observed(self, tensors: Sequence[slice]) -> Observed:
        """Return, for each of the codec's `observables`, one whole number a tensor; most codecs have none.

        Args:
            tensors: where they lie in the section, none empty.
        """
        return {}

    def describe(self, count: int) -> str:
        """Return a short text for a person on the section's `count` elements."""
        total, largest, part = 0.0, 0.0, np.empty(CHUNK, np.float32)
        for start in range(0, count, CHUNK):
            values = part[: min(CHUNK, count - start)]
            self.read(start, values)
            total += float(values.sum(dtype=np.float64))
            largest = max(largest, float(np.abs(values).max()))
        return f"mean {total / max(1, count):.3g}, largest magnitude {largest:.3g}"


@dataclass(frozen=True)
class Codec(ABC):
    """A way to write a vector. Instances are immutable; their parameters travel in each section.

    A subclass sets `id` (its code on the wire, 0..255) and `name`, and is listed in `fedmrn.codecs`.
    """

    id: ClassVar[int]
    name: ClassVar[str]
    planes: ClassVar[frozenset[Plane]] = frozenset({Plane.VALUE})
    """What can be read of it; `Opened.plane` gives each."""
    needs_state: ClassVar[bool] = False
    """Whether it reads and writes only after `bind`."""
    observables: ClassVar[tuple[Observable, ...]] = ()
    """What its opened sections have in `observed`, in the order of a round's record."""

    @classmethod
    def of(cls, codec: "Codec | None") -> Self | None:
        """Return the codec if it is one of this class, else None; local rules look for the kind that they train."""
        return codec if isinstance(codec, cls) else None

    @property
    def any_vector(self) -> bool:
        """Whether the codec is made for vectors of any values, so that its error on one can be measured."""
        return True

    @property
    def family(self) -> tuple[object, ...]:
        """What a method decides of its codec, equal for all values of the method's numbers; here the class."""
        return (type(self),)

    @property
    def own_scales(self) -> bool:
        """Whether each client chooses the scale of its noise."""
        return False

    @property
    def sends_scales(self) -> bool:
        """Whether an update carries a scale for each tensor, which clients can be told to keep under a cap."""
        return False

    @property
    def told_multiple(self) -> float | None:
        """What a scale to be told is over the mean magnitude of the update that it fits; None where none is told."""
        return None

    @property
    def known_magnitude(self) -> bool:
        """Whether how large values are is known before any is sent: they are codewords of the codec's parameters."""
        return False

    @property
    def unbiased(self) -> bool:
        """Whether the mean of what is decoded, over keys, is the vector, whatever it is."""
        return False

    @property
    def typical_std(self) -> float | None:
        """The standard deviation of the vectors that the codec is made for; None where any will do."""
        return None

    @property
    def elementwise(self) -> bool:
        """Whether every element is written by itself, to five significant bits or so: neighbours do not ruin it."""
        return False

    def holds(self, vector: NDArray[np.float32]) -> bool:
        """Whether a finite vector is within what the codec can write; most codecs can write any."""
        return True

    def fitted(self, vector: NDArray[np.float32], max_value: float) -> NDArray[np.float32]:
        """Return the vector with its values clipped to what the codec can write and a receiver's limit allows.

        Args:
            vector: finite, float32, shape (d,); it is returned itself where nothing is clipped.
            max_value: the receiver's limit on floats.
        """
        return clipped(vector, self.bound(max_value))

    def bind(self, state: NDArray[np.float32]) -> "Codec":
        """Return the codec for updates of this state (float32, shape (d,)), which both sides know; most need none."""
        return self

    @property
    def uncoded(self) -> "Codec":
        """The codec of the same values without entropy coding, such as a mask as its bits; by default this codec."""
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

    def bound_of_scale(self, scale: float) -> float:
        """Return the largest magnitude of a value of a tensor whose scale is at most this, for codecs that send one."""
        return scale

    @abstractmethod
    def encode(self, vector: NDArray[np.float32], keys: EncodeKeys) -> bytes:
        """Encode a finite float32 vector of shape (d,).

        Raises:
            EncodeError: if the vector is not finite.
        """

    @abstractmethod
    def open(self, body: bytes | memoryview, count: int, noise_key: int, max_value: float) -> Opened:
        """Check a body of `count` elements completely, in bounded memory, and return it opened.

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
        opened = self.open(body, count, noise_key, max_value)
        out = np.empty(count, np.float32)
        for start in range(0, count, CHUNK):
            opened.read(start, out[start : start + CHUNK])
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
