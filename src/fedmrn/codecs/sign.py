"""Sign: one bit an element and one scale a tensor.

Three rules make the bits; a reader need not know which. Deterministic: the sign of x times the mean magnitude of its
tensor, the least-squares scale of SignSGD (Bernstein et al., ICML 2018; scaled as in Karimireddy et al., ICML 2019).
Stochastic: +b with probability (b + x) / 2b, b the largest magnitude of its tensor: unbiased (Jin et al.,
arXiv 2002.10940). Learned: the same draw with a scale a that training chose, +a with probability
clip((a + x) / 2a, 0, 1) (FedBAT; Li et al., ICML 2024).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import CHUNK, Codec, EncodeKeys, Opened, Plane, check_finite
from fedmrn.codecs.scales import F32, TensorScales, draws, largest_magnitude, mean_magnitude
from fedmrn.errors import ConfigError, MalformedFrameError
from fedmrn.numerics.bits import check_padding, pack_bits, packed_size

_SIGNS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little") * np.float32(2) - np.float32(
    1
)


class SignRule(IntEnum):
    """How an encoder makes bits and scales; the numbers are part of the wire format."""

    DETERMINISTIC = 0
    STOCHASTIC = 1
    LEARNED = 2


@dataclass(frozen=True, slots=True)
class SignPlane(Opened):
    """The signs, +1 or -1."""

    bits: NDArray[np.uint8]

    def read(self, start: int, out: F32) -> None:
        """Write the signs of a chunk."""
        signs = np.take(_SIGNS, self.bits[start >> 3 : (start + out.size + 7) >> 3], axis=0)
        out[:] = signs.reshape(-1)[: out.size]


@dataclass(frozen=True, slots=True)
class ScalePlane(Opened):
    """For each element the scale of its tensor."""

    scales: TensorScales

    def read(self, start: int, out: F32) -> None:
        """Write the scales of a chunk."""
        self.scales.spread(start, out)


@dataclass(frozen=True)
class OpenedSigns(Opened):
    """Signs times the scales of their tensors."""

    scales: ScalePlane
    signs: SignPlane

    def read(self, start: int, out: F32) -> None:
        """Write the elements of a chunk."""
        self.signs.read(start, out)
        scales = np.empty_like(out)
        self.scales.read(start, scales)
        out *= scales

    def tensor_scales(self) -> TensorScales:
        """Return the scales of the tensors."""
        return self.scales.scales

    def capped(self, caps: Sequence[int]) -> Self:
        """Return the section with no scale above 2^cap of its tensor."""
        return replace(self, scales=ScalePlane(self.scales.scales.capped(caps)))

    def plane(self, plane: Plane) -> Opened:
        """Return the values, the signs or the scales."""
        match plane:
            case Plane.SIGN:
                return self.signs
            case Plane.SCALE:
                return self.scales
            case _:
                return super().plane(plane)


@dataclass(frozen=True)
class Sign(Codec):
    """One bit an element and one scale a tensor.

    Attributes:
        rule: how the bits and the scales are made.
        learned: for the rule LEARNED, a scale for each tensor that is not empty; the mean magnitudes where none are
            given. They travel in the body, not among the parameters.
    """

    id: ClassVar[int] = 2
    name: ClassVar[str] = "sign"
    planes: ClassVar[frozenset[Plane]] = frozenset({Plane.VALUE, Plane.SIGN, Plane.SCALE})
    rule: SignRule = SignRule.DETERMINISTIC
    learned: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.learned and self.rule is not SignRule.LEARNED:
            raise ConfigError("only the rule LEARNED takes learned scales")

    @property
    def family(self) -> tuple[object, ...]:
        """The class, and the rule."""
        return (type(self), self.rule)

    @property
    def any_vector(self) -> bool:
        """A learned scale needs training."""
        return self.rule is not SignRule.LEARNED

    @property
    def sends_scales(self) -> bool:
        """Yes."""
        return True

    @property
    def unbiased(self) -> bool:
        """Only with random signs of the largest magnitude."""
        return self.rule is SignRule.STOCHASTIC

    def params(self) -> bytes:
        """Return 1 byte: the rule."""
        return bytes([self.rule])

    @classmethod
    def from_params(cls, params: bytes) -> Self:
        """Return the codec with this byte of parameters."""
        if len(params) != 1 or params[0] not in list(SignRule):
            raise MalformedFrameError(f"codec sign cannot have parameters {params.hex()}")
        return cls(SignRule(params[0]))

    def bound(self, max_value: float) -> float:
        """Return the receiver's limit: `open` checks every scale against it."""
        return max_value

    def encode(self, vector: F32, keys: EncodeKeys) -> bytes:
        """Measure each tensor's scale and write a bit an element: 1 for +. Zeros get a random sign.

        Were a zero always +, weights that no client trained would drift together.
        """
        check_finite(vector)
        deterministic = self.rule is SignRule.DETERMINISTIC
        if self.learned:
            scales = TensorScales.given(self.learned, vector, keys)
        else:
            largest = self.rule is SignRule.STOCHASTIC
            scales = TensorScales.measure(vector, keys, largest_magnitude if largest else mean_magnitude)
        plus = np.empty(vector.size, np.bool_)
        scale = np.empty(min(CHUNK, vector.size), np.float32)
        for start in range(0, vector.size, CHUNK):
            x = vector[start : start + CHUNK]
            s = scale[: x.size]
            scales.spread(start, s)
            zero = (x == 0) if deterministic else (s == 0)
            bits = x > 0
            if not deterministic or zero.any():
                r = draws(keys, start, start + x.size)
                bits = np.where(zero, r < 0.5, bits if deterministic else (2 * r - 1) * s < x)
            plus[start : start + x.size] = bits
        return scales.to_bytes() + pack_bits(plus)

    def open(self, body: bytes | memoryview, count: int, noise_key: int, max_value: float) -> OpenedSigns:
        """Check the table of scales, the length and the padding.

        Raises:
            MalformedFrameError, NonFiniteError, BoundError: as `TensorScales.split`.
            PaddingError: an unused bit is set.
        """
        scales, bits = TensorScales.split(body, count, packed_size(count), max_value)
        check_padding(bits, count)
        return OpenedSigns(ScalePlane(scales), SignPlane(np.frombuffer(bits, np.uint8)))
