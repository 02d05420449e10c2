"""MaskedNoise: one bit an element over noise that the server makes anew (FedMRN; Li et al. 2024, section 3).

A one-bit quantiser with codebook {0, n_i} (binary) or {-n_i, +n_i} (signed), where n is the noise of the frame's key.
Encoding is stochastic masking: unbiased wherever u lies between the two codewords.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import frexp, ldexp
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import CHUNK, EncodeKeys, Opened, check_finite
from fedmrn.codecs.mask.base import MaskCodec
from fedmrn.codecs.observation import DENSITY, Observed
from fedmrn.errors import ConfigError, MalformedFrameError
from fedmrn.numerics.bits import check_mask, count_ones, pack_bits
from fedmrn.numerics.compiled import compiled
from fedmrn.numerics.fused import FACTOR_BITS, fold_all_masked, fold_masked
from fedmrn.numerics.kernels import PART, apply_mask, fold
from fedmrn.numerics.masking import MaskType, draw_mask
from fedmrn.numerics.noise import Law, NoiseSpec, fill_noise, gaussian_table
from fedmrn.numerics.philox import check_vector
from fedmrn.numerics.rng import Purpose, Stream, domain

_PARAMS = struct.Struct("<BBf")
_PIECE = 1 << 12  # elements whose noise stays in the first cache while it is chosen and folded


@compiled()
def _read_masks(law, scale, table, key, start, bits, signed, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    noise = np.empty(min(_PIECE, out.size), np.float32)
    for at in range(0, out.size, _PIECE):
        part = out[at : min(at + _PIECE, out.size)]
        fill_noise(law, scale, table, key, start + at, noise[: part.size])
        apply_mask(noise[: part.size], bits[(start + at) >> 3 :], signed, part)


@compiled()
def _fold_masks(law, scale, table, key, start, bits, signed, factor, near, total):  # type: ignore[no-untyped-def]  # pragma: no cover
    lead = start & 7  # from where a byte of the mask begins
    first, whole = start - lead, total.size + lead
    size = min(_PIECE, whole)
    noise, values = np.empty(size, np.float32), np.empty(size, np.float32)
    for at in range(0, whole, _PIECE):
        stop = min(at + _PIECE, whole)
        n, v = noise[: stop - at], values[: stop - at]
        fill_noise(law, scale, table, key, first + at, n)
        apply_mask(n, bits[(first + at) >> 3 :], signed, v)
        skip = max(lead - at, 0)
        fold(v[skip:], factor, near, total[at + skip - lead : stop - lead])


@dataclass(frozen=True, slots=True)
class OpenedMask(Opened):
    """A mask over the noise of a key.

    Attributes:
        codec: what the mask and the noise are.
        key: of the noise.
        bits: the mask, packed, the first least significant; uint8, shape (ceil(d / 8),).
    """

    direct_fold: ClassVar[bool] = True
    folds_anywhere: ClassVar[bool] = True
    codec: "MaskedNoise"
    key: int
    bits: NDArray[np.uint8]

    def read(self, start: int, out: NDArray[np.float32]) -> None:
        """Write the elements of a chunk."""
        check_vector(out, np.float32)
        spec, signed = self.codec.noise, self.codec.mask is MaskType.SIGNED
        law, scale, key = int(spec.law), np.float32(spec.scale), np.uint64(self.key)
        _read_masks(law, scale, gaussian_table(), key, start, self.bits, signed, out)

    def fold(self, start: int, factor: float, near: bool, total: NDArray[np.int64]) -> None:
        """Add a factor times the elements start, start+1, ... to `total`, a piece at a time in the first cache."""
        check_vector(total, np.int64)
        spec, signed = self.codec.noise, self.codec.mask is MaskType.SIGNED
        law, scale, key = int(spec.law), np.float32(spec.scale), np.uint64(self.key)
        if self._is_exact(factor, near):
            fold_masked(law, scale, key, start, self.bits, signed, factor, total)
        else:
            _fold_masks(law, scale, gaussian_table(), key, start, self.bits, signed, factor, near, total)

    def fold_together(
        self, others: Sequence[Self], start: int, factors: Sequence[tuple[float, bool]], total: NDArray[np.int64]
    ) -> None:
        """Add this section and others of its codec, each times a factor, a block of sums in the first cache at a time.

        Args:
            others: as many as there are factors, but one.
            start, total: as for `fold`.
            factors: of each, as `factor` and `near` of `fold`; this section's first.
        """
        masks = (self, *others)
        if not others or not all(self._is_exact(*factor) for factor in factors):
            for at in range(0, total.size, PART):
                for mask, factor in zip(masks, factors, strict=True):
                    mask.fold(start + at, *factor, total[at : at + PART])
            return
        check_vector(total, np.int64)
        spec = self.codec.noise
        keys = np.array([mask.key for mask in masks], np.uint64)
        places = np.array([mask.bits.ctypes.data for mask in masks], np.uint64)
        numbers = np.array([factor for factor, _ in factors])
        size, signed = self.bits.size, self.codec.mask is MaskType.SIGNED
        fold_all_masked(int(spec.law), np.float32(spec.scale), keys, start, places, size, signed, numbers, total)

    def _is_exact(self, factor: float, near: bool) -> bool:
        """Whether the noise needs no table and its products with a factor are not rounded."""
        few = ldexp(frexp(factor)[0], FACTOR_BITS).is_integer()
        return near and few and self.codec.noise.law is not Law.GAUSSIAN

    def observed(self, tensors: Sequence[slice]) -> Observed:
        """Return the number of ones of each tensor."""
        return {DENSITY: [count_ones(self.bits, where.start, where.stop) for where in tensors]}

    def describe(self, count: int) -> str:
        """Return the kind of the mask, the law and scale of the noise, and the share of ones."""
        return self.describe_with([self.codec.noise.scale], count)

    def describe_with(self, scales: Sequence[float], count: int) -> str:
        """Describe a mask over noise of these scales, of which the least and the largest are named."""
        found = " to ".join(f"{scale:.6g}" for scale in sorted({min(scales), max(scales)})) if scales else "no scale"
        mask, law = self.codec.mask.name.lower(), self.codec.noise.law.name.lower()
        return f"{mask}, {law} {found}; {count_ones(self.bits, 0, count) / max(1, count):.1%} ones"


@dataclass(frozen=True)
class MaskedNoise(MaskCodec):
    """Masked noise: noise that both sides make from a key, times a mask of one bit an element.

    Attributes:
        noise: law and scale.
        mask: binary or signed.
        stochastic: whether encoding samples (True) or takes the nearer codeword (an ablation). It does not travel:
            the server cannot tell, and need not.
    """

    id: ClassVar[int] = 1
    name: ClassVar[str] = "masked-noise"
    noise: NoiseSpec
    mask: MaskType
    stochastic: bool = True

    def params(self) -> bytes:
        """Return 6 bytes: law, mask type, scale as float32."""
        return _PARAMS.pack(self.noise.law, self.mask, self.noise.scale)

    @classmethod
    def from_params(cls, params: bytes) -> Self:
        """Return the codec with these 6 bytes of parameters."""
        try:
            law, mask, scale = _PARAMS.unpack(params)
            return cls(NoiseSpec(Law(law), scale), MaskType(mask))
        except (struct.error, ValueError, ConfigError) as error:
            raise MalformedFrameError(f"codec masked-noise cannot have parameters {params.hex()}") from error

    @property
    def family(self) -> tuple[object, ...]:
        """The class, and the type of the mask."""
        return (type(self), self.mask)

    @property
    def typical_std(self) -> float:
        """Half of the noise's scale: its error depends on how large a vector is against the noise."""
        return self.noise.scale / 2

    @property
    def masked(self) -> "MaskedNoise":
        """This codec: its mask is sent as plain bits."""
        return self

    def over(self, masked: "MaskedNoise") -> "MaskedNoise":
        """Return `masked`. Codecs that wrap a mask return a copy of themselves around it."""
        return masked

    def bound(self, max_value: float) -> float:
        """Return the largest magnitude of the noise."""
        return self.noise.bound

    def encode(self, vector: NDArray[np.float32], keys: EncodeKeys) -> bytes:
        """Sample a fresh mask of the update u and pack it."""
        check_finite(vector)
        stream = Stream(keys.sampling, domain(Purpose.FINAL_MASK))
        mask = np.empty(vector.size, np.bool_)
        for start in range(0, vector.size, CHUNK):
            u = vector[start : start + CHUNK]
            noise = self.noise.chunk(keys.noise, start, start + u.size)
            mask[start : start + u.size] = draw_mask(u, noise, stream, start, self.mask, stochastic=self.stochastic)
        return pack_bits(mask)

    def open(self, body: bytes | memoryview, count: int, noise_key: int, max_value: float) -> OpenedMask:
        """Check the length and the padding.

        Raises:
            MalformedFrameError: the body is not ceil(count / 8) bytes.
            PaddingError: an unused bit is set.
        """
        check_mask(body, count)
        # A copy: a frame may wait for others, and the caller use his buffer again, or wish the rest of the frame gone.
        return OpenedMask(self, noise_key, np.frombuffer(body, np.uint8).copy())
