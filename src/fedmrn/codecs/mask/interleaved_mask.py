"""InterleavedMask: the bits of a masked-noise section, entropy-coded without loss at the speed of memory.

As in `CodedMask`, a bit is coded with the frequency of ones in its context, the tensor and the bucket of |n|, and the
frequencies travel, a byte each. Here a bit is coded where it stands, without sorting by context: `fedmrn.numerics.ans`.
Blocks of elements stand for themselves and are found by an index, so that threads can share a mask.
"""

from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import CHUNK
from fedmrn.codecs.mask.contexts import Contexts
from fedmrn.codecs.mask.masked_noise import MaskedNoise
from fedmrn.codecs.mask.shorter_mask import ShorterMask
from fedmrn.errors import ConfigError, MalformedFrameError
from fedmrn.numerics.ans import LaneReader, SymbolSteps, encode_lanes
from fedmrn.numerics.bits import packed_size, unpack_bits
from fedmrn.numerics.compiled import compiled
from fedmrn.numerics.threads import cores, in_parallel

BLOCK = 1 << 19
"""Elements that are coded by themselves."""
Symbols = NDArray[np.uint16] | NDArray[np.uint32]
_BITS = 8
_ONE = 1 << _BITS
_TWO = np.uint32(2)


@compiled()
def _count(contexts, bits, symbols, counts):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write the symbol of each bit, twice its context and the bit, and count them."""
    for i in range(contexts.size):
        symbols[i] = _TWO * contexts[i] + bits[i]
    # In turns: a count that was just written is slow to read again.
    whole = contexts.size & ~3
    for i in range(0, whole, 4):
        for k in range(4):
            counts[k, symbols[i + k]] += 1
    for i in range(whole, contexts.size):
        counts[0, symbols[i]] += 1


class InterleavedMask(ShorterMask):
    """A mask whose bits are coded without loss, in blocks: what is decoded is the mask of `inner`."""

    id: ClassVar[int] = 14
    name: ClassVar[str] = "interleaved-mask"
    # A bit takes a state x to x + x // 255 at least, by more than 1 / 178 bit; a lane holds what its 4 bytes say.
    elements_a_byte: ClassVar[int] = 8 * 178

    @classmethod
    def from_params(cls, params: bytes) -> Self:
        """Return the codec with these 7 bytes of parameters."""
        try:
            return cls(MaskedNoise.from_params(params[:-1]), params[-1])
        except (IndexError, ConfigError, MalformedFrameError) as error:
            raise MalformedFrameError(f"codec interleaved-mask cannot have parameters {params.hex()}") from error

    def _code(self, mask: bytes, vector: NDArray[np.float32], contexts: Contexts) -> bytes:
        bits, counts = unpack_bits(mask, vector.size), np.zeros((4, 2 * contexts.count), np.int64)
        few = contexts.count < 1 << 15
        symbols: Symbols = np.empty(vector.size, np.uint16) if few else np.empty(vector.size, np.uint32)
        for at in range(0, vector.size, CHUNK):
            here = slice(at, min(vector.size, at + CHUNK))
            _count(contexts.part(here.start, here.stop), bits[here], symbols[here], counts)
        zeros, ones = counts.sum(axis=0).reshape(-1, 2).T
        totals = zeros + ones
        # A frequency is k / 256, never 0 or 1; a context that does not occur has 0.
        share = np.rint(ones / np.maximum(totals, 1) * _ONE).clip(1, _ONE - 1)
        table = np.where(totals > 0, share, 0).astype(np.uint8)
        steps, blocks = _steps(table), [b""] * -(-vector.size // BLOCK)

        def work(first: int, last: int) -> None:
            for at in range(first, last, BLOCK):
                blocks[at // BLOCK] = encode_lanes(symbols[at : min(last, at + BLOCK)], steps)

        in_parallel(work, vector.size, cores(), BLOCK)
        index = np.array([len(block) for block in blocks[:-1]], "<u4")
        return b"".join([table.tobytes(), index.tobytes(), *blocks])

    def _decode(self, rest: memoryview, contexts: Contexts) -> bytes:
        count = contexts.size
        if not count:
            raise MalformedFrameError("a coded mask of no element is not coded")
        more = -(-count // BLOCK) - 1
        at = contexts.count + 4 * more
        if len(rest) < at:
            raise MalformedFrameError(f"{contexts.count} contexts and an index of {more} do not fit {len(rest)} bytes")
        table = np.frombuffer(rest, np.uint8, contexts.count)
        ends = at + np.cumsum(np.frombuffer(rest, "<u4", more, contexts.count).astype(np.int64))
        if more and ends[-1] > len(rest):
            raise MalformedFrameError("the blocks of a coded mask are longer than the section")
        starts, stops = [at, *ends.tolist()], [*ends.tolist(), len(rest)]
        packed, used = np.zeros(packed_size(count), np.uint8), np.zeros(contexts.count, np.bool_)

        def work(first: int, last: int) -> None:
            for start in range(first, last, BLOCK):
                block, stop = start // BLOCK, min(last, start + BLOCK)
                reader = LaneReader(rest[starts[block] : stops[block]], stop - start)
                for here in range(start, stop, CHUNK):
                    end = min(stop, here + CHUNK)
                    bits = reader.bits(contexts.part(here, end), table, used)  # threads set the same ones
                    packed[here >> 3 : (end + 7) >> 3] = np.packbits(bits, bitorder="little")
                reader.close()

        in_parallel(work, count, cores(), BLOCK)
        if ((table > 0) != used).any():
            raise MalformedFrameError("the contexts of a coded mask that occur are not those that have a frequency")
        return packed.tobytes()


def _steps(table: NDArray[np.uint8]) -> SymbolSteps:
    """The steps of symbols 2 c and 2 c + 1, bits 0 and 1 of context c."""
    ones = table.astype(np.uint32)
    zeros = np.uint32(_ONE) - ones
    return SymbolSteps.of(np.stack([zeros, ones], 1).ravel(), np.stack([0 * zeros, zeros], 1).ravel(), _BITS)
