"""ScaledMask: masked noise of scale 1, times a power of two for each tensor that travels with the mask.

Since the scales are powers of two, no product with one is rounded: training, mask and server see the same noise.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import frexp, ldexp
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import CHUNK, Codec, EncodeKeys, Opened, check_finite
from fedmrn.codecs.mask.base import MaskCodec
from fedmrn.codecs.mask.masked_noise import MaskedNoise, OpenedMask
from fedmrn.codecs.mask.scale import FitsUpdate
from fedmrn.codecs.mask.shorter_mask import ShorterMask
from fedmrn.codecs.observation import DENSITY, NOISE_SCALE, Observable, Observed
from fedmrn.codecs.scales import TensorScales, mean_magnitude
from fedmrn.errors import BoundError, ConfigError, MalformedFrameError
from fedmrn.numerics import kernels
from fedmrn.numerics.noise import LARGEST_SCALE, SMALLEST_SCALE

F32 = NDArray[np.float32]
_NORMAL = 2.0**-100
"""Values of noise of this scale are normal float32. Senders choose larger scales; caps may lie below."""
_LARGEST = np.finfo(np.float32).max


@dataclass(frozen=True, slots=True)
class OpenedScaledMask(Opened):
    """A mask over noise of scale 1, times scales that are powers of two.

    Attributes:
        inner: the mask over noise of scale 1.
        scales: of the tensors.
        wanted: exponents of the scales that fit the sender's update, int16, one a tensor.
    """

    folds_anywhere: ClassVar[bool] = True
    inner: OpenedMask
    scales: TensorScales
    wanted: NDArray[np.int16]

    def read(self, start: int, out: F32) -> None:
        """Write the elements of a chunk."""
        scales = np.empty_like(out)
        self.scales.spread(start, scales)
        self.inner.read(start, out)
        out *= scales

    def fold(self, start: int, factor: float, near: bool, total: NDArray[np.int64]) -> None:
        """Add a factor times the elements start, start+1, ... to `total`: the scale of a run goes into the factor."""
        stop, done = start + total.size, start
        run = int(np.searchsorted(self.scales.ends, start, side="right"))
        while done < stop:
            end, scale = min(stop, int(self.scales.ends[run])), float(self.scales.values[run])
            sums = total[done - start : end - start]
            if 0 < scale < _NORMAL:
                kernels.fold(self._values(done, end), factor, near, sums)
            else:  # a power of two, and values that it does not round: both products are exact
                self.inner.fold(done, factor * scale, near, sums)
            done, run = end, run + 1

    def _values(self, start: int, stop: int) -> F32:
        first = start - start % CHUNK
        values = np.empty(stop - first, np.float32)
        for at in range(0, values.size, CHUNK):
            self.read(first + at, values[at : at + CHUNK])
        return values[start - first :]

    def tensor_scales(self) -> TensorScales:
        """Return the scales of the tensors."""
        return self.scales

    def wanted_scales(self) -> NDArray[np.int16]:
        """Return the exponents of the scales that fit the sender's update."""
        return self.wanted

    def capped(self, caps: Sequence[int]) -> Self:
        """Return the section with no scale above 2^cap of its tensor."""
        return replace(self, scales=self.scales.capped(caps))

    def observed(self, tensors: Sequence[slice]) -> Observed:
        """Return the number of ones of each tensor, and the exponent of the scale of its first element."""
        exponents = [frexp(self.scales.at(where.start))[1] - 1 for where in tensors]
        return {**self.inner.observed(tensors), NOISE_SCALE: exponents}

    def describe(self, count: int) -> str:
        """Return the kind of the mask, the law of the noise and the range of its scales, and the share of ones."""
        return self.inner.describe_with(self.scales.values.tolist(), count)


@dataclass(frozen=True)
class ScaledMask(MaskCodec):
    """Masked noise with a scale for each tensor that is not empty; a subclass says whose choice that is.

    Attributes:
        inner: what becomes of u over its scale; its noise has scale 1.

    Raises:
        ConfigError: the inner noise has another scale.
    """

    observables: ClassVar[tuple[Observable, ...]] = (DENSITY, NOISE_SCALE)
    inner: MaskedNoise | ShorterMask
    inners: ClassVar[dict[int, type[MaskedNoise] | type[ShorterMask]]]
    """What `inner` may be, by id."""

    def __post_init__(self) -> None:
        if self.masked.noise.scale != 1:
            raise ConfigError(
                f"noise with a scale for each tensor has scale 1 otherwise, got {self.masked.noise.scale}"
            )

    @property
    def family(self) -> tuple[object, ...]:
        """The class, and what the inner codec says."""
        return (type(self), *self.inner.family)

    @property
    def masked(self) -> MaskedNoise:
        """The codec that sends the same mask as plain bits."""
        return self.inner.masked

    def over(self, masked: MaskedNoise) -> Self:
        """Return a copy of this codec around `masked`."""
        return replace(self, inner=self.inner.over(masked))

    @property
    def sends_scales(self) -> bool:
        """Yes."""
        return True

    @property
    def multiple(self) -> float:
        """What the scale that fits a tensor is over its mean |u|, but for rounding to a power of two."""
        return FitsUpdate.multiple(self.masked.mask, self.masked.noise.law)

    def scale(self, u: F32) -> float:
        """Return the scale that fits a tensor's update u, float32, shape (k,), k > 0."""
        return ldexp(1.0, int(FitsUpdate.exponents(np.float64(mean_magnitude(u)), self.multiple)))

    def params(self) -> bytes:
        """Return the id of the inner codec in a byte, and its parameters."""
        return bytes([self.inner.id]) + self.inner.params()

    @classmethod
    def from_params(cls, params: bytes) -> Self:
        """Return the codec with these parameters."""
        if not params or params[0] not in cls.inners:
            raise MalformedFrameError(f"codec {cls.name} cannot have parameters {params.hex()}")
        try:
            return cls(cls.inners[params[0]].from_params(params[1:]))
        except ConfigError as error:
            raise MalformedFrameError(f"codec {cls.name} cannot have parameters {params.hex()}") from error

    def bound(self, max_value: float) -> float:
        """Return `max_value`: scales that go beyond it are refused."""
        return max_value

    def bound_of_scale(self, scale: float) -> float:
        """Return the largest magnitude of noise of this scale."""
        return scale * self.inner.bound(float("inf"))

    @abstractmethod
    def head(self, vector: F32, keys: EncodeKeys) -> tuple[TensorScales, bytes]:
        """Return the scales of a finite update's noise, and what the body has before its mask."""

    def encode(self, vector: F32, keys: EncodeKeys) -> bytes:
        """Encode the update u in units of the scales."""
        check_finite(vector)
        scales, head = self.head(vector, keys)
        unit = np.empty_like(vector)
        scales.spread(0, unit)
        with np.errstate(over="ignore", under="ignore"):  # u far beyond its noise is clipped, and far below rounds to 0
            np.divide(vector, unit, out=unit)
        np.clip(unit, -_LARGEST, _LARGEST, out=unit)
        return head + self.inner.encode(unit, keys)

    @abstractmethod
    def split(
        self, body: bytes | memoryview, count: int, max_value: float
    ) -> tuple[TensorScales, NDArray[np.int16], memoryview]:
        """Check what a body has before its mask; return the scales, the exponents of those that fit, and the rest.

        Raises:
            FrameError: as `open`.
        """

    def split_scales(self, body: bytes | memoryview, count: int, max_value: float) -> tuple[TensorScales, memoryview]:
        """Check the table of scales at the start of a body; return it, and the rest.

        Raises:
            FrameError: as `open`.
        """
        scales, rest = TensorScales.split(body, count, None, max_value)
        values = scales.values
        if (np.frexp(values)[0] != 0.5).any() or (values < SMALLEST_SCALE).any() or (values > LARGEST_SCALE).any():
            raise MalformedFrameError(f"a scale of {self.name} is not a power of two from 2^-80 to 2^80")
        if values.size and float(values.max()) * self.inner.bound(max_value) > max_value:
            raise BoundError(f"noise of scale {values.max():g} goes beyond {max_value:.12g}")
        return scales, rest

    def open(self, body: bytes | memoryview, count: int, noise_key: int, max_value: float) -> OpenedScaledMask:
        """Check what comes before the mask, and open the mask.

        Raises:
            NonFiniteError: a scale is NaN or infinite.
            BoundError: a scale is negative, or would give values above max_value.
            FrameError: as the inner codec's `open`; MalformedFrameError also for a table that does not fit, or a scale
                that is not a power of two from 2^-80 to 2^80.
        """
        scales, wanted, rest = self.split(body, count, max_value)
        return OpenedScaledMask(self.inner.open(rest, count, noise_key, max_value), scales, wanted)

    @property
    def uncoded(self) -> Codec:
        """This codec around the mask as plain bits."""
        return self if self.inner.uncoded is self.inner else replace(self, inner=self.masked)

    def uncode(self, body: bytes | memoryview, count: int, noise_key: int) -> bytes | memoryview:
        """Return the same head before the packed mask.

        Raises:
            FrameError: as `open`.
        """
        if self.inner.uncoded is self.inner:
            return body
        *_, rest = self.split(body, count, float("inf"))
        head = memoryview(body)[: len(body) - len(rest)]
        return bytes(head) + bytes(self.inner.uncode(rest, count, noise_key))
