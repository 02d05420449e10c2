"""RandomCode: masks by minimal random coding; the client sends which of many shared random masks it takes.

Entropy coding pays for a mask's bits, and most of what these say is the client's own dice. Here the dice are shared:
client and server make the same candidates from the noise key, drawn from a prior that the server is told (the mean
mask of each context), and the client names a candidate that looks drawn with its own probabilities. That costs the
*information* of a mask about the update, I(u; m | n), and not its entropy. With a trellis of candidates (`trellis`) the
search is linear in elements, and the cost of naming does not grow by a few bits for each small block.

What is decoded has nearly the law of stochastic masking, not exactly: docs/methods.md gives the measured bias.

Sources: minimal random coding, Havasi et al., ICLR 2019; for federated learning, Isik et al. (KLMS), AISTATS 2024;
ordered random coding, Theis and Yosri, ICML 2022; a trellis as code book, Marcellin and Fischer (TCQ), 1990.
"""

import struct
from dataclasses import dataclass
from math import log
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.bits import check_padding, pack_bits, packed_size
from fedmrn.codecs.base import CHUNK, Codec, EncodeKeys, Reader, check_finite
from fedmrn.codecs.contexts import LARGEST_BUCKETS, Contexts
from fedmrn.codecs.masked_noise import MaskedNoise
from fedmrn.codecs.trellis import LARGEST_STATES, ONE, follow, search
from fedmrn.errors import ConfigError, MalformedFrameError
from fedmrn.masking import probability
from fedmrn.rng import Purpose, Stream, domain

RAW, CODED = 0, 1
_HEAD = struct.Struct("<BI")
_RATE = 64
_LEVELS = 1024
_CLEAR = 1 / 256  # a probability below this, or above its complement, is as good as certain


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
class RandomCode(Codec):
    """A mask for little more than the information in it.

    Attributes:
        inner: the codec of the mask; it also draws a mask that does not shrink.
        buckets: of |n| for a large tensor, 1 to 64.
        log2_states: of the trellis, 1 to 10: each more doubles the work of the search and brings the law nearer.
        rate: path bits for a bit of information, a multiple of 1/64 from 1 to 2.

    Raises:
        ConfigError: one of them is out of its range.
    """

    id: ClassVar[int] = 11
    name: ClassVar[str] = "random-code"
    inner: MaskedNoise
    buckets: int = 16
    log2_states: int = 8
    rate: float = 1.125

    def __post_init__(self) -> None:
        if not 1 <= self.buckets <= LARGEST_BUCKETS:
            raise ConfigError(f"buckets are 1 to {LARGEST_BUCKETS}, got {self.buckets}")
        if not 1 <= self.log2_states <= LARGEST_STATES:
            raise ConfigError(f"log2_states are 1 to {LARGEST_STATES}, got {self.log2_states}")
        if not 1 <= self.rate <= 2 or self.rate * _RATE % 1:
            raise ConfigError(f"rate is a multiple of 1/{_RATE} from 1 to 2, got {self.rate}")

    def params(self) -> bytes:
        """Return 9 bytes: those of masked-noise, buckets, log2_states, 64 * rate (which the decoder does not use)."""
        return self.inner.params() + bytes([self.buckets, self.log2_states, int(self.rate * _RATE)])

    @classmethod
    def from_params(cls, params: bytes) -> Self:
        """Return the codec with these 9 bytes of parameters."""
        try:
            *_, buckets, states, rate = params
            return cls(MaskedNoise.from_params(params[:-3]), buckets, states, rate / _RATE)
        except (ValueError, ConfigError, MalformedFrameError) as error:
            raise MalformedFrameError(f"codec random-code cannot have parameters {params.hex()}") from error

    def bound(self, max_value: float) -> float:
        """Return the largest magnitude of the noise."""
        return self.inner.bound(max_value)

    def _contexts(self, key: int, sizes: NDArray[np.int64]) -> Contexts:
        return Contexts.of(self.inner.noise, key, sizes, self.buckets)

    def encode(self, vector: NDArray[np.float32], keys: EncodeKeys) -> bytes:
        """Name a mask of the update u; nothing is drawn, unless a mask of as many bits as elements is as short."""
        check_finite(vector)
        sizes = np.array([size for size in keys.segments(vector.size) if size], np.int64)
        coded = self._code(vector, self._contexts(keys.noise, sizes)) if vector.size else b""
        if vector.size and len(coded) < 1 + packed_size(vector.size):
            return coded
        return bytes([RAW]) + self.inner.encode(vector, keys)

    def _code(self, u: NDArray[np.float32], contexts: Contexts) -> bytes:
        p, mine = np.empty(u.size, np.float32), np.empty(u.size, np.uint32)
        for start in range(0, u.size, CHUNK):
            stop = min(u.size, start + CHUNK)
            noise = self.inner.noise.chunk(contexts.key, start, stop)
            p[start:stop] = probability(u[start:stop], noise, self.inner.mask)
            mine[start:stop] = contexts.part(start, stop)
        prior, information = self._tables(p, mine, contexts.count)
        states, path, used = self.log2_states, np.empty(u.size, np.bool_), 0
        draws = Stream(contexts.key, domain(Purpose.CODEBOOK))
        for start in range(0, u.size, CHUNK):
            here = slice(start, min(u.size, start + CHUNK))
            k = prior[mine[here]].astype(np.int32)
            # Level 0 and 1024 of k / 256 do not occur: k is 1 to 255.
            scores = _LOGITS[np.rint(p[here] * np.float32(_LEVELS)).astype(np.int32)] - _LOGITS[k * (_LEVELS // ONE)]
            words = draws.words(here.start, here.stop)
            used += search(scores, k, information[mine[here]].astype(np.int32), words, states, path[used:])
        head = _HEAD.pack(CODED, contexts.ends.size)
        tables = prior.tobytes() + information.tobytes()
        return b"".join((head, contexts.sizes.tobytes(), tables, pack_bits(path[:used])))

    def _tables(
        self, p: NDArray[np.float32], mine: NDArray[np.uint32], count: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The prior of each context in 1/256, and its information in 1/256 bits times the rate; 0 where it is empty."""
        totals = np.bincount(mine, minlength=count)
        some = np.maximum(totals, 1)
        mean = np.bincount(mine, p, count) / some
        prior = np.rint(mean * ONE).clip(1, ONE - 1)
        own = np.bincount(mine, _entropy(p.astype(np.float64)), count) / some
        cross = -(mean * np.log2(prior / ONE) + (1 - mean) * np.log2(1 - prior / ONE))
        information = np.rint((cross - own) * self.rate * ONE).clip(1, ONE - 1)
        there = totals > 0
        return np.where(there, prior, 0).astype(np.uint8), np.where(there, information, 0).astype(np.uint8)

    def open(self, body: bytes | memoryview, count: int, noise_key: int, max_value: float) -> Reader:
        """Follow the path and open the mask as masked noise; memory is bounded by a multiple of the body's length.

        Raises:
            MalformedFrameError: the sizes do not fit, the path ends early, or some of it is left over.
            PaddingError: an unused bit is set.
        """
        view = memoryview(body)
        if view and view[0] == RAW:
            return self.inner.open(view[1:], count, noise_key, max_value)
        return self.inner.open(self._decode(view, count, noise_key), count, noise_key, max_value)

    def _decode(self, view: memoryview, count: int, noise_key: int) -> bytes:
        if len(view) < _HEAD.size or view[0] != CODED:
            raise MalformedFrameError("a random-code mask starts with 0, or with 1 and the number of its tensors")
        if count > 8 * ONE * len(view):  # a path bit for at most 256 elements
            raise MalformedFrameError(f"{count} elements are too many for the {len(view)} bytes of a random-code mask")
        _, tensors = _HEAD.unpack_from(view)
        contexts = Contexts.read(view, _HEAD.size, tensors, count, self.inner.noise, noise_key, self.buckets)
        at = _HEAD.size + 8 * tensors
        if len(view) < at + 2 * contexts.count:
            raise MalformedFrameError(f"two tables of {contexts.count} contexts do not fit {len(view)} bytes")
        prior, information = (np.frombuffer(view, np.uint8, contexts.count, at + k * contexts.count) for k in range(2))
        body = view[at + 2 * contexts.count :]
        path, used = np.unpackbits(np.frombuffer(body, np.uint8), bitorder="little").view(np.bool_), 0
        draws, occurs = Stream(noise_key, domain(Purpose.CODEBOOK)), np.zeros(contexts.count, np.bool_)
        mask = np.empty(count, np.bool_)
        for start in range(0, count, CHUNK):
            stop = min(count, start + CHUNK)
            mine = contexts.part(start, stop)
            occurs[mine] = True
            k, i = prior[mine].astype(np.int32), information[mine].astype(np.int32)
            if not (k.all() and i.all()):
                raise MalformedFrameError("a context of a random-code mask that occurs has no prior or no information")
            words = draws.words(start, stop)
            bits = follow(path[used:], k, i, words, self.log2_states, mask[start:stop])
            if bits < 0:
                raise MalformedFrameError("the path of a random-code mask ends early")
            used += bits
        if len(body) != packed_size(used) or prior[~occurs].any() or information[~occurs].any():
            raise MalformedFrameError("something is left over after the path of a random-code mask")
        check_padding(body, used)
        return pack_bits(mask)
