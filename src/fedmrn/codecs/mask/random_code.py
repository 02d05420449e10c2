"""RandomCode: masks by minimal random coding; the client sends which of many shared random masks it takes.

Entropy coding pays for a mask's bits, and most of what these say is the client's own randomness. Here it is shared:
client and server make the same candidates from the noise key, drawn from a prior that the server is told (the mean
mask of each context), and the client names a candidate that looks drawn with its own probabilities. That costs the
*information* of a mask about the update, I(u; m | n), and not its entropy. With a trellis of candidates (`trellis`) the
search is linear in elements, and the cost of naming does not grow by a few bits for each small block.

What is decoded has nearly the law of stochastic masking, not exactly: docs/methods.md gives the measured bias.

Sources: minimal random coding, Havasi et al., ICLR 2019; for federated learning, Isik et al. (KLMS), AISTATS 2024;
ordered random coding, Theis and Yosri, ICML 2022; a trellis as code book, Marcellin and Fischer (TCQ), 1990.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import CHUNK, EncodeKeys, check_finite
from fedmrn.codecs.mask.contexts import Contexts
from fedmrn.codecs.mask.masked_noise import MaskedNoise
from fedmrn.codecs.mask.priors import Means, Priors, mark, scores
from fedmrn.codecs.mask.shorter_mask import ShorterMask
from fedmrn.codecs.mask.trellis import LARGEST_LOG2_STATES, ONE, follow, search
from fedmrn.errors import ConfigError, MalformedFrameError
from fedmrn.numerics.bits import check_padding, pack_bits, packed_size
from fedmrn.numerics.masking import probability
from fedmrn.numerics.rng import Purpose, Stream, domain
from fedmrn.whole import shown

_RATE = 64


@dataclass(frozen=True)
class RandomCode(ShorterMask):
    """Masks by minimal random coding: a client names one of many shared random masks; a plain mask if that is shorter.

    Attributes:
        inner: the codec of the mask; it also draws a mask that does not shrink.
        buckets: of |n| for a large tensor, 1 to 64.
        log2_states: of the trellis, 1 to 10: each more doubles the work of the search and brings the law nearer.
        rate: path bits for a bit of information, a multiple of 1/64 from 1 to 2; the decoder does not use it.

    Raises:
        ConfigError: one of them is out of its range.
    """

    id: ClassVar[int] = 11
    name: ClassVar[str] = "random-code"
    elements_a_byte: ClassVar[int] = 8 * ONE  # a path bit for at most 256 elements
    log2_states: int = 8
    rate: float = 1.125

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.log2_states <= LARGEST_LOG2_STATES:
            raise ConfigError(f"log2_states are 1 to {LARGEST_LOG2_STATES}, got {shown(self.log2_states)}")
        if not 1 <= self.rate <= 2 or self.rate * _RATE % 1:
            raise ConfigError(f"rate is a multiple of 1/{_RATE} from 1 to 2, got {shown(self.rate)}")

    def params(self) -> bytes:
        """Return 9 bytes: those of masked-noise, buckets, log2_states, 64 * rate."""
        return super().params() + bytes([self.log2_states, int(self.rate * _RATE)])

    @classmethod
    def from_params(cls, params: bytes) -> Self:
        """Return the codec with these 9 bytes of parameters."""
        try:
            *_, buckets, states, rate = params
            return cls(MaskedNoise.from_params(params[:-3]), buckets, states, rate / _RATE)
        except (ValueError, ConfigError, MalformedFrameError) as error:
            raise MalformedFrameError(f"codec random-code cannot have parameters {params.hex()}") from error

    def overhead(self, sizes: NDArray[np.int64]) -> int:
        """Return how many bytes of a coded body of tensors of these sizes, none empty, are no path."""
        head, contexts = self.head(int(sizes.sum()), EncodeKeys(0, 0, tuple(sizes.tolist())))
        return len(head) + 2 * contexts.count

    def encode(self, vector: NDArray[np.float32], keys: EncodeKeys) -> bytes:
        """Name a mask of the update u; only where that is not shorter, one is drawn and sent."""
        check_finite(vector)
        if vector.size:
            coded = self.coded(b"", vector, keys)
            if self.is_shorter(coded, vector.size):
                return coded
        return self.plain(self.inner.encode(vector, keys))

    def _code(self, mask: bytes, vector: NDArray[np.float32], contexts: Contexts) -> bytes:
        context, levels = np.empty(vector.size, np.uint32), np.empty(vector.size, np.uint16)
        means = Means(contexts.count)
        for start in range(0, vector.size, CHUNK):
            u, here = vector[start : start + CHUNK], slice(start, start + CHUNK)
            noise = self.inner.noise.chunk(contexts.key, start, start + u.size)
            contexts.write(noise, start, context[here])
            p = probability(u, noise, self.inner.mask)
            if not self.inner.stochastic:
                p = (p >= np.float32(0.5)).astype(np.float32)
            means.look(p, context[here], levels[here])
        prior, information = means.tables(self.rate)
        priors = Priors(prior, information)
        path, used = np.empty(vector.size, np.bool_), 0
        draws = Stream(contexts.key, domain(Purpose.CODEBOOK))
        for start in range(0, vector.size, CHUNK):
            here = slice(start, min(vector.size, start + CHUNK))
            k, d = priors.of(context[here])
            words = draws.words(here.start, here.stop)
            used += search(scores(levels[here], k), k, d, words, self.log2_states, path[used:])
        return prior.tobytes() + information.tobytes() + pack_bits(path[:used])

    def _decode(self, rest: memoryview, contexts: Contexts) -> bytes:
        if len(rest) < 2 * contexts.count:
            raise MalformedFrameError(f"two tables of {contexts.count} contexts do not fit {len(rest)} bytes")
        tables = np.frombuffer(rest, np.uint8, 2 * contexts.count)
        prior, information = np.split(tables, 2)
        priors, seen = Priors(prior, information), np.zeros(contexts.count, np.bool_)
        packed = np.frombuffer(rest, np.uint8, offset=tables.size)
        path, used = np.unpackbits(packed, bitorder="little").view(np.bool_), 0
        draws = Stream(contexts.key, domain(Purpose.CODEBOOK))
        mask = np.zeros(packed_size(contexts.size), np.uint8)
        for start in range(0, contexts.size, CHUNK):
            here = np.empty(min(CHUNK, contexts.size - start), np.bool_)
            context = contexts.part(start, start + here.size)
            mark(context, seen)
            k, d = priors.of(context)
            if not (k.all() and d.all()):
                raise MalformedFrameError("a context of a random-code mask that occurs has no prior or no information")
            bits = follow(path[used:], k, d, draws.words(start, start + here.size), self.log2_states, here)
            if bits < 0:
                raise MalformedFrameError("the path of a random-code mask ends early")
            used += bits
            mask[start >> 3 : (start + here.size + 7) >> 3] = np.packbits(here, bitorder="little")
        if packed.size != packed_size(used) or prior[~seen].any() or information[~seen].any():
            raise MalformedFrameError("something is left over after the path of a random-code mask")
        check_padding(packed.tobytes(), used)
        return mask.tobytes()
