"""ShorterMask: what the codecs share that send the mask of masked noise in fewer bytes.

A body starts with its mode. 0: the mask as it is follows, because nothing shorter was found. 1: the number of tensors,
their sizes, and what the codec makes of them.
"""

import struct
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import EncodeKeys
from fedmrn.codecs.mask.base import MaskCodec
from fedmrn.codecs.mask.contexts import Contexts
from fedmrn.codecs.mask.masked_noise import MaskedNoise, OpenedMask
from fedmrn.errors import ConfigError, EncodeError, MalformedFrameError
from fedmrn.numerics.bits import packed_size
from fedmrn.whole import shown

_LARGEST_BUCKETS = 64
_PLAIN, _CODED = 0, 1
_HEAD = struct.Struct("<BI")
MOST_CONTEXTS = (1 << 31) - 1
"""A context and a bit make a number of 32 bits; so many take tables of 2 GiB."""


@dataclass(frozen=True)
class ShorterMask(MaskCodec):
    """A mask in fewer bytes.

    Attributes:
        inner: the codec of the mask.
        buckets: of |n| for a large tensor, 1 to 64.

    Raises:
        ConfigError: buckets is out of its range.
    """

    inner: MaskedNoise
    buckets: int = 16
    elements_a_byte: ClassVar[int]
    """The most that a byte of a coded body may stand for: what bounds a reader's memory."""

    def __post_init__(self) -> None:
        if not 1 <= self.buckets <= _LARGEST_BUCKETS:
            raise ConfigError(f"buckets are 1 to {_LARGEST_BUCKETS}, got {shown(self.buckets)}")

    @classmethod
    def from_params(cls, params: bytes) -> Self:
        """Return the codec with these 7 bytes of parameters."""
        try:
            return cls(MaskedNoise.from_params(params[:-1]), params[-1])
        except (IndexError, ConfigError, MalformedFrameError) as error:
            raise MalformedFrameError(f"codec {cls.name} cannot have parameters {params.hex()}") from error

    @abstractmethod
    def _code(self, mask: bytes, vector: NDArray[np.float32], contexts: Contexts) -> bytes:
        """Return what follows the sizes, for an update of at least one element and its mask as `inner` drew it."""

    @abstractmethod
    def _decode(self, rest: memoryview, contexts: Contexts) -> bytes:
        """Return the packed mask from what follows the sizes; memory is O(elements)."""

    def params(self) -> bytes:
        """Return the parameters of masked-noise, and a byte for the number of buckets."""
        return self.inner.params() + bytes([self.buckets])

    def bound(self, max_value: float) -> float:
        """Return the largest magnitude of the noise."""
        return self.inner.bound(max_value)

    def encode(self, vector: NDArray[np.float32], keys: EncodeKeys) -> bytes:
        """Mask the update u and send what is shorter, the mask or its code."""
        mask = self.inner.encode(vector, keys)
        if not vector.size:
            return self.plain(mask)
        coded = self.coded(mask, vector, keys)
        return coded if self.is_shorter(coded, vector.size) else self.plain(mask)

    @staticmethod
    def plain(mask: bytes) -> bytes:
        """Return the body of a mask that is sent as it is."""
        return bytes([_PLAIN]) + mask

    def is_shorter(self, coded: bytes, count: int) -> bool:
        """Whether a coded body of `count` elements is shorter than a plain one, and a reader takes it."""
        return len(coded) < 1 + packed_size(count) and count <= self.elements_a_byte * len(coded)

    def coded(self, mask: bytes, vector: NDArray[np.float32], keys: EncodeKeys) -> bytes:
        """Return the coded body, whether it is the shorter one or not."""
        head, contexts = self.head(vector.size, keys)
        return head + self._code(mask, vector, contexts)

    def head(self, count: int, keys: EncodeKeys) -> tuple[bytes, Contexts]:
        """Return what comes before the code of so many elements, and their contexts.

        Raises:
            EncodeError: there are more contexts than 32 bits tell apart.
        """
        sizes = np.array([size for size in keys.segments(count) if size], np.int64)
        contexts = Contexts.of(self.inner.noise, keys.noise, sizes, self.buckets)
        if contexts.count > MOST_CONTEXTS:
            raise EncodeError(f"{sizes.size} tensors have {contexts.count} contexts, at most {MOST_CONTEXTS} can be")
        return _HEAD.pack(_CODED, sizes.size) + sizes.astype("<u8").tobytes(), contexts

    def open(self, body: bytes | memoryview, count: int, noise_key: int, max_value: float) -> OpenedMask:
        """Decode the mask and open it as masked noise; memory is bounded by a multiple of the body's length.

        Raises:
            MalformedFrameError: the sizes do not fit or have too many contexts, the body ends early, or something is
                left over.
            PaddingError: an unused bit is set.
        """
        return self.inner.open(self.uncode(body, count, noise_key), count, noise_key, max_value)

    @property
    def family(self) -> tuple[object, ...]:
        """The class, and what the inner codec says."""
        return (type(self), *self.inner.family)

    @property
    def typical_std(self) -> float:
        """The standard deviation that the mask as plain bits is made for."""
        return self.inner.typical_std

    @property
    def masked(self) -> MaskedNoise:
        """The codec that sends the same mask as plain bits."""
        return self.inner

    def over(self, masked: MaskedNoise) -> Self:
        """Return a copy of this codec around `masked`."""
        return replace(self, inner=masked)

    @property
    def uncoded(self) -> MaskedNoise:
        """The codec that sends the same mask as plain bits."""
        return self.inner

    def uncode(self, body: bytes | memoryview, count: int, noise_key: int) -> bytes | memoryview:
        """Return the packed mask; one that was not coded is not looked at.

        Raises:
            MalformedFrameError, PaddingError: as `open`.
        """
        view = memoryview(body)
        if view and view[0] == _PLAIN:
            return view[1:]
        if len(view) < _HEAD.size or view[0] != _CODED:
            raise MalformedFrameError(f"a {self.name} starts with 0, or with 1 and the number of its tensors")
        _, tensors = _HEAD.unpack_from(view)
        at = _HEAD.size + 8 * tensors
        if len(view) < at:
            raise MalformedFrameError(f"{tensors} sizes take more than the section's {len(view)} bytes")
        sizes = np.frombuffer(view, "<u8", tensors, _HEAD.size)
        # As a double the sum is exact as far as it matters, and cannot wrap.
        most = self.elements_a_byte * len(view)
        if count > most or not sizes.all() or sizes.sum(dtype=np.float64) != count:
            raise MalformedFrameError(f"{tensors} tensors do not make up {count} elements, or those are too many here")
        contexts = Contexts.of(self.inner.noise, noise_key, sizes.astype(np.int64), self.buckets)
        if contexts.count > MOST_CONTEXTS:
            raise MalformedFrameError(f"{tensors} tensors have {contexts.count} contexts, more than {MOST_CONTEXTS}")
        return self._decode(view[at:], contexts)
