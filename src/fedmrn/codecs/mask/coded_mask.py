"""CodedMask: the bits of a masked-noise section, entropy-coded without loss; less than one bit an element.

The server knows the noise, and how often a binary mask takes it depends on its magnitude and on the layer: a bit is
coded with the frequency of ones in its *context*, the tensor and the bucket of |n|. The frequencies travel, a byte
each, and every context is coded at its own rate by an asymmetric numeral system (ANS; Duda 2013). A mask that does not
shrink travels as it is, after one byte.

The coder is that of the library constriction (Bamler 2022); the wire format says what it does, bit for bit.
"""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from constriction import stream
from numpy.typing import NDArray

from fedmrn.codecs.base import CHUNK
from fedmrn.codecs.mask.contexts import Contexts, frequencies
from fedmrn.codecs.mask.shorter_mask import ShorterMask
from fedmrn.errors import MalformedFrameError
from fedmrn.numerics.bits import packed_size, unpack_bits
from fedmrn.numerics.compiled import compiled

_AnsCoder, _BitModel = stream.stack.AnsCoder, stream.model.Bernoulli
SEGMENT = 64 * CHUNK
"""Elements that are sorted by context at a time: what bounds the memory of both sides."""
_ONE = 256


@compiled()
def _count(contexts, bits, totals, ones):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    for i in range(contexts.size):
        totals[contexts[i]] += 1
        ones[contexts[i]] += bits[i]


@compiled()
def _group(bits, contexts, offsets, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    for i in range(bits.size):
        k = contexts[i]
        out[offsets[k]] = bits[i]
        offsets[k] += 1


@compiled()
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


class CodedMask(ShorterMask):
    """A mask whose bits are coded without loss: what is decoded is the mask of `inner`."""

    id: ClassVar[int] = 9
    name: ClassVar[str] = "coded-mask"
    elements_a_byte: ClassVar[int] = 8 * 177  # a symbol costs at least 1 / 177.1 bits, but zeros coded first

    def _code(self, mask: bytes, vector: NDArray[np.float32], contexts: Contexts) -> bytes:
        bits = unpack_bits(mask, vector.size)
        totals, ones = np.zeros(contexts.count, np.int64), np.zeros(contexts.count, np.int64)
        at, context = -1, np.zeros(0, np.uint32)
        for at in range(0, contexts.size, SEGMENT):
            context = _segment(contexts, at)
            _count(context, bits[at : at + context.size], totals, ones)
        table = frequencies(ones, totals)
        coder = _AnsCoder()
        for start in reversed(range(0, contexts.size, SEGMENT)):  # a stack: what is coded last is decoded first
            context = context if start == at else _segment(contexts, start)  # the last one is still at hand
            sizes = np.bincount(context, minlength=totals.size)
            grouped = np.empty(context.size, np.int32)
            _group(bits[start : start + context.size], context, np.cumsum(sizes) - sizes, grouped)
            for k, where in reversed(list(_runs(sizes))):
                coder.encode_reverse(grouped[where], _BitModel(table[k] / _ONE, perfect=True))
        return table.tobytes() + np.asarray(coder.get_compressed(), "<u4").tobytes()

    def _decode(self, rest: memoryview, contexts: Contexts) -> bytes:
        length, count = len(rest) - contexts.count, contexts.size
        if length < 0 or length % 4:
            raise MalformedFrameError(f"{contexts.count} contexts and whole words do not fit {len(rest)} bytes")
        table = np.frombuffer(rest, np.uint8, contexts.count)
        words = np.frombuffer(rest, "<u4", length // 4, contexts.count).astype(np.uint32)
        if words.size and not words[-1]:
            raise MalformedFrameError("the last word of a coded mask is zero")
        coder, packed = _AnsCoder(words), np.zeros(packed_size(count), np.uint8)
        used = np.zeros(contexts.count, np.bool_)
        for start in range(0, count, SEGMENT):
            context = _segment(contexts, start)
            sizes = np.bincount(context, minlength=table.size)
            used |= sizes > 0
            if (table[sizes > 0] == 0).any():
                raise MalformedFrameError("a context of a coded mask that occurs has no frequency")
            grouped = np.empty(context.size, np.int32)
            for k, where in _runs(sizes):
                grouped[where] = coder.decode(_BitModel(table[k] / _ONE, perfect=True), where.stop - where.start)
            bits = np.empty(context.size, np.bool_)
            _ungroup(grouped, context, np.cumsum(sizes) - sizes, bits)
            packed[start >> 3 : (start + context.size + 7) >> 3] = np.packbits(bits, bitorder="little")
        if not coder.is_empty() or table[~used].any():
            raise MalformedFrameError("something is left over after the last bit of a coded mask")
        return packed.tobytes()
