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
from math import log
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import CHUNK
from fedmrn.codecs.mask.contexts import Contexts
from fedmrn.codecs.mask.masked_noise import MaskedNoise
from fedmrn.codecs.mask.shorter_mask import ShorterMask
from fedmrn.codecs.mask.trellis import LARGEST_LOG2_STATES, ONE, follow, search
from fedmrn.errors import ConfigError, MalformedFrameError
from fedmrn.numerics.bits import check_padding, pack_bits, packed_size
from fedmrn.numerics.masking import probability
from fedmrn.numerics.rng import Purpose, Stream, domain
from fedmrn.whole import shown

_RATE = 64
_LEVELS = 1024
_CLEAR = 1 / 2048  # below the least prior, so that an element that is certain never scores as one that is not


def _logits() -> NDArray[np.int32]:
    """1,024 times the logit of j / 1024, in whole numbers."""
    p = np.clip(np.arange(_LEVELS + 1) / _LEVELS, _CLEAR, 1 - _CLEAR)
    return np.array([round(_LEVELS * log(x / (1 - x))) for x in p.tolist()], np.int32)


_LOGITS = _logits()


def _entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    q = 1 - p
    tiny = np.finfo(np.float64).tiny
    return -(p * np.log2(np.maximum(p, tiny)) + q * np.log2(np.maximum(q, tiny)))


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

    def _code(self, mask: bytes, vector: NDArray[np.float32], contexts: Contexts) -> bytes:
        p, context = np.empty(vector.size, np.float32), contexts.part(0, vector.size)
        for start in range(0, vector.size, CHUNK):
            u = vector[start : start + CHUNK]
            noise = self.inner.noise.chunk(contexts.key, start, start + u.size)
            p[start : start + u.size] = probability(u, noise, self.inner.mask)
        if not self.inner.stochastic:
            p = (p >= np.float32(0.5)).astype(np.float32)
        prior, information = self._tables(p, context, contexts.count)
        path, used = np.empty(vector.size, np.bool_), 0
        draws = Stream(contexts.key, domain(Purpose.CODEBOOK))
        for start in range(0, vector.size, CHUNK):
            here = slice(start, min(vector.size, start + CHUNK))
            k, i = prior[context[here]].astype(np.int32), information[context[here]].astype(np.int32)
            scores = _LOGITS[np.rint(p[here] * np.float32(_LEVELS)).astype(np.int32)] - _LOGITS[k * (_LEVELS // ONE)]
            words = draws.words(here.start, here.stop)
            used += search(scores, k, i, words, self.log2_states, path[used:])
        return prior.tobytes() + information.tobytes() + pack_bits(path[:used])

    def _tables(
        self, p: NDArray[np.float32], context: NDArray[np.uint32], count: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The prior of each context in 1/256, and its information in 1/256 bits times the rate; 0 where it is empty."""
        totals, ones, entropy = np.zeros(count, np.int64), np.zeros(count), np.zeros(count)
        for start in range(0, p.size, CHUNK):
            k, x = context[start : start + CHUNK], p[start : start + CHUNK].astype(np.float64)
            totals += np.bincount(k, minlength=count)
            ones += np.bincount(k, x, count)
            entropy += np.bincount(k, _entropy(x), count)
        some = np.maximum(totals, 1)
        mean, entropy = ones / some, entropy / some
        prior = np.rint(mean * ONE).clip(1, ONE - 1)
        cross = -(mean * np.log2(prior / ONE) + (1 - mean) * np.log2(1 - prior / ONE))
        information = np.rint((cross - entropy) * self.rate * ONE).clip(1, ONE - 1)
        there = totals > 0
        return np.where(there, prior, 0).astype(np.uint8), np.where(there, information, 0).astype(np.uint8)

    def _decode(self, rest: memoryview, contexts: Contexts) -> bytes:
        if len(rest) < 2 * contexts.count:
            raise MalformedFrameError(f"two tables of {contexts.count} contexts do not fit {len(rest)} bytes")
        tables = np.frombuffer(rest, np.uint8, 2 * contexts.count)
        prior, information = np.split(tables, 2)
        packed = np.frombuffer(rest, np.uint8, offset=tables.size)
        path, used = np.unpackbits(packed, bitorder="little").view(np.bool_), 0
        draws, occurs = Stream(contexts.key, domain(Purpose.CODEBOOK)), np.zeros(contexts.count, np.bool_)
        mask = np.zeros(packed_size(contexts.size), np.uint8)
        for start in range(0, contexts.size, CHUNK):
            here = np.empty(min(CHUNK, contexts.size - start), np.bool_)
            context = contexts.part(start, start + here.size)
            occurs[context] = True
            k, i = prior[context].astype(np.int32), information[context].astype(np.int32)
            if not (k.all() and i.all()):
                raise MalformedFrameError("a context of a random-code mask that occurs has no prior or no information")
            bits = follow(path[used:], k, i, draws.words(start, start + here.size), self.log2_states, here)
            if bits < 0:
                raise MalformedFrameError("the path of a random-code mask ends early")
            used += bits
            mask[start >> 3 : (start + here.size + 7) >> 3] = np.packbits(here, bitorder="little")
        if packed.size != packed_size(used) or prior[~occurs].any() or information[~occurs].any():
            raise MalformedFrameError("something is left over after the path of a random-code mask")
        check_padding(packed.tobytes(), used)
        return mask.tobytes()
