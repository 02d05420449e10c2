"""Priors of contexts: what a receiver is told of the probabilities p of a mask, and scores against them.

Of each context two numbers travel: the mean of p, and the information that a mask holds about the update,
mean [p log2(p / q) + (1 - p) log2((1 - p) / (1 - q))], with q the mean as it travels. Logarithms of single elements
are polynomials of float32 in a fixed order, so that every machine makes the same bytes.
"""

from math import log

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.mask.trellis import ONE
from fedmrn.numerics.compiled import compiled

_LEVELS = 1024
_UNITS = 256
_CLEAR = 1 / 2048  # below the least prior, so that an element that is certain never scores as one that is not
_PIECE = 1 << 10
_ROOT = np.int32(0x3F3504F3)  # the bits of the root of 1/2
_MANTISSA = np.int32(23)
_LOG2E = 1.4426950408889634
_C1, _C3, _C5, _C7 = (np.float32(2 * _LOG2E / k) for k in (1, 3, 5, 7))
_ONE = np.float32(1)


def _logits() -> NDArray[np.int16]:
    """The logit of j / 1024 in whole numbers of 1/256."""
    p = np.clip(np.arange(_LEVELS + 1) / _LEVELS, _CLEAR, 1 - _CLEAR)
    return np.array([round(_UNITS * log(x / (1 - x))) for x in p.tolist()], np.int16)


_LOGITS = _logits()


@compiled(error_model="numpy")
def _surprise(x, bits, exponents, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Add -x log2(x) to `out`; x, in [0, 1], is overwritten, and `bits` is the same memory."""
    for i in range(x.size):  # x = m * 2^e with m from the root of 1/2 to that of 2
        e = np.int32(np.int32(bits[i] - _ROOT) >> _MANTISSA)
        exponents[i] = e
        out[i] -= x[i] * np.float32(e)  # exact, or of an x below 2^-100
    for i in range(x.size):
        m = np.int32(bits[i] - np.int32(exponents[i] << _MANTISSA))
        exponents[i], bits[i] = bits[i], m
    whole = exponents.view(np.float32)
    for i in range(x.size):
        s = (x[i] - _ONE) / (x[i] + _ONE)
        t = s * s
        out[i] -= whole[i] * (s * (_C1 + t * (_C3 + t * (_C5 + t * _C7))))


@compiled()
def _entropies(p, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write the entropy of a coin of each p, in bits, to within 2^-20; float32."""
    x, exponents = np.empty(p.size, np.float32), np.empty(p.size, np.int32)
    for i in range(p.size):
        x[i], out[i] = p[i], np.float32(0)
    _surprise(x, x.view(np.int32), exponents, out)
    for i in range(p.size):
        x[i] = _ONE - p[i]
    _surprise(x, x.view(np.int32), exponents, out)


@compiled()
def _look(p, context, sums, levels):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    h = np.empty(_PIECE, np.float32)
    for start in range(0, p.size, _PIECE):
        part, c = p[start : start + _PIECE], context[start : start + _PIECE]
        _entropies(part, h[: part.size])
        for i in range(part.size):
            here = sums[c[i]]
            here[0] += np.float64(1)
            here[1] += np.float64(part[i])
            here[2] += np.float64(h[i])
        level = levels[start : start + _PIECE]
        for i in range(part.size):
            level[i] = np.uint16(np.int32(np.rint(part[i] * np.float32(_LEVELS))))


@compiled()
def _look_up(table, context, k, d):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    both = np.empty(_PIECE, np.uint16)
    for start in range(0, context.size, _PIECE):
        c, kk, dd = context[start : start + _PIECE], k[start : start + _PIECE], d[start : start + _PIECE]
        for i in range(c.size):
            both[i] = table[c[i]]
        for i in range(c.size):
            kk[i] = np.uint8(both[i] & np.uint16(255))
            dd[i] = np.uint8(both[i] >> np.uint16(8))


@compiled()
def _see(context, seen):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    for i in range(context.size):
        seen[context[i]] = True


@compiled()
def _scores(levels, k, logits, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    for i in range(levels.size):
        out[i] = logits[levels[i]] - logits[np.uint32(k[i]) * np.uint32(_LEVELS // ONE)]


class Means:
    """The sums over a vector that its priors and informations are made of.

    Args:
        contexts: how many there are.
    """

    def __init__(self, contexts: int) -> None:
        self._sums = np.zeros((contexts, 4))  # elements, their p and entropies, side by side: a vector with one idle

    def look(self, p: NDArray[np.float32], context: NDArray[np.uint32], levels: NDArray[np.uint16]) -> None:
        """Add a chunk's p to the sums, and write each rounded to a multiple of 1/1024, ties to even: its level."""
        _look(p, context, self._sums, levels)

    def tables(self, rate: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the prior of each context in 1/256, and its information in 1/256 bits times the rate.

        Both are 1 to 255, or 0 where the context is empty.
        """
        totals, ones, entropies, _ = self._sums.T
        some = np.maximum(totals, 1)
        mean, entropy = ones / some, entropies / some
        prior = np.rint(mean * ONE).clip(1, ONE - 1)
        cross = -(mean * np.log2(prior / ONE) + (1 - mean) * np.log2(1 - prior / ONE))
        information = np.rint((cross - entropy) * rate * ONE).clip(1, ONE - 1)
        there = totals > 0
        return np.where(there, prior, 0).astype(np.uint8), np.where(there, information, 0).astype(np.uint8)


class Priors:
    """Priors and informations of contexts, looked up for elements.

    Args:
        prior, information: uint8, one a context.
    """

    def __init__(self, prior: NDArray[np.uint8], information: NDArray[np.uint8]) -> None:
        self._both = prior | (information.astype(np.uint16) << np.uint16(8))

    def of(self, context: NDArray[np.uint32]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the priors and the informations of elements in these contexts."""
        k, d = np.empty(context.size, np.uint8), np.empty(context.size, np.uint8)
        _look_up(self._both, context, k, d)
        return k, d


def mark(context: NDArray[np.uint32], seen: NDArray[np.bool_]) -> None:
    """Set `seen` of each context that an element is in."""
    _see(context, seen)


def scores(levels: NDArray[np.uint16], k: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return the score of a 1 over a 0: the logit of each level less that of its prior k, in 1/256."""
    out = np.empty(levels.size, np.int16)
    _scores(levels, k, _LOGITS, out)
    return out
