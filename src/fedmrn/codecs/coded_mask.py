"""CodedMask: the bits of a masked-noise section, entropy-coded without loss; less than one bit an element.

The server knows the noise, and how often a binary mask takes it depends on its magnitude and on the layer: a bit is
coded with the frequency of ones in its *context*, the tensor and the bucket of |n|. The frequencies travel, a byte
each, and every context is coded at its own rate by an asymmetric numeral system (ANS; Duda 2013). A mask that does not
shrink travels as it is, after one byte.

The coder is that of the library constriction (Bamler 2022); the wire format says what it does, bit for bit.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numba as nb
import numpy as np
from constriction import stream
from numpy.typing import NDArray

from fedmrn.bits import packed_size, unpack_bits
from fedmrn.codecs.base import CHUNK, Codec, EncodeKeys, Reader
from fedmrn.codecs.contexts import LARGEST_BUCKETS, Contexts
from fedmrn.codecs.masked_noise import MaskedNoise
from fedmrn.errors import ConfigError, MalformedFrameError

AnsCoder, Bernoulli = stream.stack.AnsCoder, stream.model.Bernoulli
SEGMENT = 64 * CHUNK
"""Elements that are sorted by context at a time: what bounds the memory of both sides."""
RAW, CODED = 0, 1
_ONE = 256
_ELEMENTS_A_BIT = 177  # the cheapest symbol costs log2(256 / 255) = 1 / 177.1 bits
_HEAD = struct.Struct("<BI")


def _most(length: int) -> int:
    """The elements that a coded body of this length may hold; zeros that are coded first can cost nothing at all."""
    return _ELEMENTS_A_BIT * (8 * length + 64)


@nb.njit(cache=True, nogil=True)
def _count(contexts, bits, totals, ones):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    for i in range(contexts.size):
        totals[contexts[i]] += 1
        ones[contexts[i]] += bits[i]


@nb.njit(cache=True, nogil=True)
def _group(bits, contexts, offsets, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    for i in range(bits.size):
        k = contexts[i]
        out[offsets[k]] = bits[i]
        offsets[k] += 1


@nb.njit(cache=True, nogil=True)
def _ungroup(grouped, contexts, offsets, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    for i in range(out.size):
        k = contexts[i]
        out[i] = grouped[offsets[k]] != 0
        offsets[k] += 1


def _segment(contexts: Contexts, start: int) -> NDArray[np.uint32]:
    return contexts.part(start, min(contexts.size, start + SEGMENT))


def _runs(sizes: NDArray[np.int64]) -> Iterator[tuple[int, slice]]:
    """(context, where its bits lie when sorted) of the contexts that occur."""
    ends = np.cumsum(sizes)
    for k in np.flatnonzero(sizes):
        yield int(k), slice(int(ends[k] - sizes[k]), int(ends[k]))


@dataclass(frozen=True)
class CodedMask(Codec):
    """A mask in fewer bits.

    Attributes:
        inner: the codec whose bits are coded.
        buckets: of |n| for a large tensor, 1 to 64.

    Raises:
        ConfigError: buckets is out of its range.
    """

    id: ClassVar[int] = 9
    name: ClassVar[str] = "coded-mask"
    inner: MaskedNoise
    buckets: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.buckets <= LARGEST_BUCKETS:
            raise ConfigError(f"buckets are 1 to {LARGEST_BUCKETS}, got {self.buckets}")

    def params(self) -> bytes:
        """Return 7 bytes: those of masked-noise, and the number of buckets."""
        return self.inner.params() + bytes([self.buckets])

    @classmethod
    def from_params(cls, params: bytes) -> Self:
        """Return the codec with these 7 bytes of parameters."""
        try:
            return cls(MaskedNoise.from_params(params[:-1]), params[-1])
        except (IndexError, ConfigError, MalformedFrameError) as error:
            raise MalformedFrameError(f"codec coded-mask cannot have parameters {params.hex()}") from error

    def bound(self, max_value: float) -> float:
        """Return the largest magnitude of the noise."""
        return self.inner.bound(max_value)

    def encode(self, vector: NDArray[np.float32], keys: EncodeKeys) -> bytes:
        """Sample a fresh mask of the update u and code it."""
        raw = self.inner.encode(vector, keys)
        sizes = np.array([size for size in keys.segments(vector.size) if size], np.int64)
        coded = self._code(unpack_bits(raw, vector.size), self._contexts(keys.noise, sizes))
        worth_it = len(coded) < 1 + len(raw) and vector.size <= _most(len(coded))
        return coded if worth_it else bytes([RAW]) + raw

    def _contexts(self, key: int, sizes: NDArray[np.int64]) -> Contexts:
        return Contexts.of(self.inner.noise, key, sizes, self.buckets)

    def _code(self, bits: NDArray[np.bool_], contexts: Contexts) -> bytes:
        totals, ones = np.zeros(contexts.count, np.int64), np.zeros(contexts.count, np.int64)
        at, mine = -1, np.zeros(0, np.uint32)
        for at in range(0, contexts.size, SEGMENT):
            mine = _segment(contexts, at)
            _count(mine, bits[at : at + mine.size], totals, ones)
        # A frequency is k / 256, never 0 or 1; a context that does not occur has 0.
        share = np.rint(ones / np.maximum(totals, 1) * _ONE).clip(1, _ONE - 1)
        table = np.where(totals > 0, share, 0).astype(np.uint8)
        coder = AnsCoder()
        for start in reversed(range(0, contexts.size, SEGMENT)):  # a stack: what is coded last is decoded first
            mine = mine if start == at else _segment(contexts, start)  # the last one is still at hand
            sizes = np.bincount(mine, minlength=totals.size)
            grouped = np.empty(mine.size, np.int32)
            _group(bits[start : start + mine.size], mine, np.cumsum(sizes) - sizes, grouped)
            for k, where in reversed(list(_runs(sizes))):
                coder.encode_reverse(grouped[where], Bernoulli(table[k] / _ONE, perfect=True))
        words = np.asarray(coder.get_compressed(), "<u4")
        head = _HEAD.pack(CODED, contexts.ends.size)
        return b"".join((head, contexts.sizes.tobytes(), table.tobytes(), words.tobytes()))

    def open(self, body: bytes | memoryview, count: int, noise_key: int, max_value: float) -> Reader:
        """Decode the bits and open them as masked noise; memory is bounded by a multiple of the body's length.

        Raises:
            MalformedFrameError: the sizes do not fit, the bits end early, or some are left over.
            PaddingError: an unused bit of a mask that is not coded is set.
        """
        return self.inner.open(self.uncode(body, count, noise_key), count, noise_key, max_value)

    @property
    def uncoded(self) -> MaskedNoise:
        """The codec whose bits are coded."""
        return self.inner

    def uncode(self, body: bytes | memoryview, count: int, noise_key: int) -> bytes | memoryview:
        """Return the packed bits; those of a mask that was not coded are not looked at.

        Raises:
            MalformedFrameError: as `open`.
        """
        view = memoryview(body)
        return view[1:] if view and view[0] == RAW else self._decode(view, count, noise_key)

    def _decode(self, view: memoryview, count: int, noise_key: int) -> bytes:
        if len(view) < _HEAD.size or view[0] != CODED:
            raise MalformedFrameError("a coded mask starts with 0, or with 1 and the number of its tensors")
        _, tensors = _HEAD.unpack_from(view)
        if count > _most(len(view)):
            raise MalformedFrameError(f"{count} elements are too many for the {len(view)} bytes of a coded mask")
        contexts = Contexts.read(view, _HEAD.size, tensors, count, self.inner.noise, noise_key, self.buckets)
        at = _HEAD.size + 8 * tensors
        rest = len(view) - at - contexts.count
        if rest < 0 or rest % 4:
            raise MalformedFrameError(f"{contexts.count} contexts and whole words do not fit {len(view)} bytes")
        table = np.frombuffer(view, np.uint8, contexts.count, at)
        words = np.frombuffer(view, "<u4", rest // 4, at + contexts.count).astype(np.uint32)
        if words.size and not words[-1]:
            raise MalformedFrameError("the last word of a coded mask is zero")
        coder, packed = AnsCoder(words), np.zeros(packed_size(count), np.uint8)
        used = np.zeros(contexts.count, np.bool_)
        for start in range(0, count, SEGMENT):
            mine = _segment(contexts, start)
            sizes = np.bincount(mine, minlength=table.size)
            used |= sizes > 0
            if (table[sizes > 0] == 0).any():
                raise MalformedFrameError("a context of a coded mask that occurs has no frequency")
            grouped = np.empty(mine.size, np.int32)
            for k, where in _runs(sizes):
                grouped[where] = coder.decode(Bernoulli(table[k] / _ONE, perfect=True), where.stop - where.start)
            bits = np.empty(mine.size, np.bool_)
            _ungroup(grouped, mine, np.cumsum(sizes) - sizes, bits)
            packed[start >> 3 : (start + mine.size + 7) >> 3] = np.packbits(bits, bitorder="little")
        if not coder.is_empty() or table[~used].any():
            raise MalformedFrameError("something is left over after the last bit of a coded mask")
        return packed.tobytes()
