"""InterleavedMask: the bits of a masked-noise section, entropy-coded without loss at the speed of memory.

As in `CodedMask`, a bit is coded with the frequency of ones in its context, the tensor and the bucket of |n|, and the
frequencies travel, a byte each. Here a bit is coded where it stands, without sorting by context: `fedmrn.numerics.ans`.
Blocks of elements stand for themselves and are found by an index, so that threads can share a mask.
"""

from threading import Lock
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import CHUNK, EncodeKeys, check_finite
from fedmrn.codecs.mask.contexts import Contexts, fill_contexts, frequencies
from fedmrn.codecs.mask.shorter_mask import ShorterMask
from fedmrn.errors import MalformedFrameError
from fedmrn.numerics.ans import LaneReader, Symbols, SymbolSteps
from fedmrn.numerics.bits import pack_bits, packed_size, unpack_bits
from fedmrn.numerics.blocks import BLOCK, count_blocks, edges_of, encode_blocks, read_blocks
from fedmrn.numerics.compiled import compiled
from fedmrn.numerics.masking import MaskType, fill_mask
from fedmrn.numerics.noise import fill_noise, gaussian_table
from fedmrn.numerics.rng import Purpose, domain
from fedmrn.numerics.threads import cores, in_parallel

_BITS = 8
_ONE = 1 << _BITS
_TWO = np.uint32(2)
_PIECE = 1 << 12  # elements whose noise stays in the first cache while they are drawn and counted
_MASK = np.uint64(domain(Purpose.FINAL_MASK))
_NONE = np.empty(0, np.bool_)


@compiled()
def _walk(law, scale, table, key, bound, ends, first, buckets, u, given, sampling, dom, signed, stochastic, start, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write the symbols of elements start, start + 1, ..., twice the context and the bit, and count each of them.

    A piece at a time in the first cache: the noise is made once for the bits and their contexts. Bits are those given,
    or drawn for the update u if none are.
    """
    size = min(_PIECE, out.size)
    noise, where, drawn = np.empty(size, np.float32), np.empty(size, np.uint32), np.empty(size, np.bool_)
    counts = np.zeros((4, 2 * (first[-1] + buckets[-1])), np.int64)
    for at in range(0, out.size, _PIECE):
        o = out[at : min(at + _PIECE, out.size)]
        n, c, bits = noise[: o.size], where[: o.size], drawn[: o.size]
        fill_noise(law, scale, table, key, start + at, n)
        if given.size:
            bits = given[start + at : start + at + o.size]
        else:
            fill_mask(u[start + at : start + at + o.size], n, sampling, dom, start + at, signed, stochastic, bits)
        fill_contexts(n, bound, start + at, ends, first, buckets, c)
        for i in range(o.size):
            o[i] = _TWO * c[i] + bits[i]
        # In turns: a count that was just written is slow to read again.
        whole = o.size & ~3
        for i in range(0, whole, 4):
            for k in range(4):
                counts[k, o[i + k]] += 1
        for i in range(whole, o.size):
            counts[0, o[i]] += 1
    return counts.sum(axis=0)


class InterleavedMask(ShorterMask):
    """A mask whose bits are coded without loss, in blocks: what is decoded is the mask of `inner`."""

    id: ClassVar[int] = 14
    name: ClassVar[str] = "interleaved-mask"
    # A bit takes a state x to x + x // 255 at least, by more than 1 / 178 bit; a lane holds what its 4 bytes say.
    elements_a_byte: ClassVar[int] = 8 * 178

    def encode(self, vector: NDArray[np.float32], keys: EncodeKeys) -> bytes:
        """Mask the update u and send what is shorter, the mask or its code; the noise is made once for both."""
        if not vector.size:
            return super().encode(vector, keys)
        check_finite(vector)
        head, contexts = self.head(vector.size, keys)
        symbols, counts = self._symbols(contexts, np.ascontiguousarray(vector), keys.sampling, _NONE)
        coded = head + self._blocks(symbols, counts)
        return coded if self.is_shorter(coded, vector.size) else self.plain(pack_bits((symbols & 1).astype(np.bool_)))

    def _code(self, mask: bytes, vector: NDArray[np.float32], contexts: Contexts) -> bytes:
        return self._blocks(*self._symbols(contexts, vector, 0, unpack_bits(mask, vector.size)))

    def _symbols(
        self, contexts: Contexts, vector: NDArray[np.float32], sampling: int, given: NDArray[np.bool_]
    ) -> tuple[Symbols, NDArray[np.int64]]:
        """Return the symbols of an update whose bits are given, or drawn if none are, and how often each occurs."""
        few, counts = contexts.count <= 1 << 15, np.zeros(2 * contexts.count, np.int64)
        symbols: Symbols = np.empty(vector.size, np.uint16) if few else np.empty(vector.size, np.uint32)
        spec, inner, lock = contexts.spec, self.inner, Lock()
        noise = (int(spec.law), np.float32(spec.scale), gaussian_table(), np.uint64(contexts.key))
        tensors = (np.float32(spec.bound), contexts.ends, contexts.first, contexts.buckets)
        drawing = (np.uint64(sampling), _MASK, inner.mask is MaskType.SIGNED, inner.stochastic)

        def work(first: int, last: int) -> None:
            found = _walk(*noise, *tensors, vector, given, *drawing, first, symbols[first:last])
            with lock:
                np.add(counts, found, out=counts)

        in_parallel(work, vector.size, cores(), BLOCK)
        return symbols, counts

    def _blocks(self, symbols: Symbols, counts: NDArray[np.int64]) -> bytes:
        """Return the table and the blocks of symbols that occur so often."""
        zeros, ones = counts.reshape(-1, 2).T
        table = frequencies(ones, zeros + ones)
        blocks = encode_blocks(symbols, _steps(table))
        index = np.array([len(block) for block in blocks[:-1]], "<u4")
        return b"".join([table.tobytes(), index.tobytes(), *blocks])

    def _decode(self, rest: memoryview, contexts: Contexts) -> bytes:
        count = contexts.size
        if not count:
            raise MalformedFrameError("a coded mask of no element is not coded")
        more = count_blocks(count) - 1
        at = contexts.count + 4 * more
        if len(rest) < at:
            raise MalformedFrameError(f"{contexts.count} contexts and an index of {more} do not fit {len(rest)} bytes")
        table = np.frombuffer(rest, np.uint8, contexts.count)
        edges = edges_of(at, np.frombuffer(rest, "<u4", more, contexts.count))
        if edges[-1] > len(rest):
            raise MalformedFrameError("the blocks of a coded mask are longer than the section")
        packed, used = np.zeros(packed_size(count), np.uint8), np.zeros(contexts.count, np.bool_)

        def read(reader: LaneReader, start: int, stop: int) -> None:
            for here in range(start, stop, CHUNK):
                end = min(stop, here + CHUNK)
                bits = reader.bits(contexts.part(here, end), table, used)  # threads set the same ones
                packed[here >> 3 : (end + 7) >> 3] = np.packbits(bits, bitorder="little")

        read_blocks(rest, [*edges, len(rest)], count, read)
        if ((table > 0) != used).any():
            raise MalformedFrameError("the contexts of a coded mask that occur are not those that have a frequency")
        return packed.tobytes()


def _steps(table: NDArray[np.uint8]) -> SymbolSteps:
    """The steps of symbols 2 c and 2 c + 1, bits 0 and 1 of context c."""
    ones = table.astype(np.uint32)
    zeros = np.uint32(_ONE) - ones
    return SymbolSteps.of(np.stack([zeros, ones], 1).ravel(), np.stack([0 * zeros, zeros], 1).ravel(), _BITS)
