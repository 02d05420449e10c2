"""Stochastic masking and progressive stochastic masking (PSM): the one place where an update meets the noise n.

With p the masking probability of an element (methods.md, "FedMRN"; Li et al. 2024, section 3):

    binary   p = clip(u / n, 0, 1),          codewords 0 and n
    signed   p = clip((u / n + 1) / 2, 0, 1), codewords -n and +n

stochastic masking (SM) takes the upper codeword with probability p, which is unbiased for the clipped u. Progressive
masking (PM) masks an element with probability q = tau / S and otherwise keeps the clipped u. Both come from one uniform
draw r in [0, 1), with exactly the law of two independent draws:

    r < q * p       upper codeword          q * p <= r < q      lower codeword          r >= q      clipped u

Without SM (an ablation) the nearer codeword is taken: upper if p >= 1/2.

While a client trains, u is the distance of the weights that its optimiser moves from those that it received. An
element that is neither masked nor clipped is such a weight itself, to the bit, and not a sum that is rounded again.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from fedmrn.numerics.compiled import compiled
from fedmrn.numerics.kernels import fma
from fedmrn.numerics.philox import BLOCK, words_from
from fedmrn.numerics.rng import Stream
from fedmrn.numerics.threads import in_parallel

_UNIT = np.float32(2.0**-24)
_ZERO = np.float32(0.0)
_HALF = np.float32(0.5)
_ONE = np.float32(1.0)
_NONE = np.empty(0, np.float32)
_HALF_TREE = 512
_BLOCK = 2 * _HALF_TREE


class MaskType(IntEnum):
    """The codebook of a mask; the number is its code on the wire."""

    BINARY = 0
    SIGNED = 1


@compiled(inline="always")
def _probability(u, n, signed):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    p = u / n
    if signed:
        p = (p + _ONE) * _HALF
    return min(max(p, _ZERO), _ONE)


@compiled(error_model="numpy")
def fill_mask(u, n, key, dom, start, signed, stochastic, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write a mask as `draw_mask` does; key and dom are uint64, signed and stochastic bool, out bool."""
    words = np.empty(BLOCK, np.uint32)
    done = 0
    while done < out.size:
        w, end = words_from(key, dom, start, done, out.size, words)
        # Slices: an index that may be negative would keep the loop from being vectorised.
        v, m, o = u[done:end], n[done:end], out[done:end]
        for i in range(o.size):
            p = _probability(v[i], m[i], signed)
            r = np.float32(np.int32(w[i] >> np.uint32(8))) * _UNIT
            o[i] = (r < p) if stochastic else (p >= _HALF)
        done = end


@compiled(inline="always")
def _psm(moved, base, noise, word, q, signed, stochastic):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    u = moved - base
    p = _probability(u, noise, signed)
    if not stochastic:
        p = _ONE if p >= _HALF else _ZERO
    r = np.float32(np.int32(word >> np.uint32(8))) * _UNIT
    lower = -noise if signed else _ZERO
    least, most = min(lower, noise), max(lower, noise)
    clipped = least if u < least else most
    kept = base + clipped if (u < least) | (u > most) else moved
    masked = noise if r < q * p else lower
    return base + masked if r < q else kept


@compiled(error_model="numpy")
def _progress(moved, g, rate, n, base, q, key, dom, start, signed, stochastic, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    words = np.empty(BLOCK, np.uint32)
    done = 0
    while done < out.size:
        w, end = words_from(key, dom, start, done, out.size, words)
        v, m, b, o = moved[done:end], n[done:end], base[done:end], out[done:end]
        if g.size:
            step = g[done:end]
            for i in range(v.size):
                v[i] = fma(rate, step[i], v[i])  # type: ignore[call-arg]
        if signed:
            for i in range(o.size):
                o[i] = _psm(v[i], b[i], m[i], w[i], q, True, stochastic)
        else:
            for i in range(o.size):
                o[i] = _psm(v[i], b[i], m[i], w[i], q, False, stochastic)
        done = end


@compiled(error_model="numpy")
def _probabilities(u, n, signed, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    for i in range(out.size):
        out[i] = _probability(u[i], n[i], signed)


def probability(u: NDArray[np.float32], noise: NDArray[np.float32], mask: MaskType) -> NDArray[np.float32]:
    """Return p, the probability of the upper codeword, float32, of the shape (k,) of u and its noise."""
    out = np.empty(u.size, np.float32)
    _probabilities(u, noise, mask is MaskType.SIGNED, out)
    return out


def draw_mask(
    u: NDArray[np.float32],
    noise: NDArray[np.float32],
    stream: Stream,
    start: int,
    mask: MaskType,
    *,
    stochastic: bool = True,
) -> NDArray[np.bool_]:
    """Sample the mask of u: True where the upper codeword is taken.

    Args:
        u: float32, shape (k,): elements start..start+k-1 of the update.
        noise: float32, shape (k,): the noise of the same elements, never zero.
        stream: the client's own randomness; element i uses draw i of it, whatever the range asked for.
        start: the index of the first element.
        mask: the codebook.
        stochastic: sample with probability p; otherwise threshold p at 1/2.

    Returns:
        bool, shape (k,).
    """
    out = np.empty(u.size, np.bool_)
    key, dom = np.uint64(stream.key), np.uint64(stream.domain)
    fill_mask(u, noise, key, dom, start, mask is MaskType.SIGNED, stochastic, out)
    return out


def progressive_weights(
    moved: NDArray[np.float32],
    noise: NDArray[np.float32],
    base: NDArray[np.float32],
    q: float,
    stream: Stream,
    mask: MaskType,
    out: NDArray[np.float32],
    *,
    start: int = 0,
    stochastic: bool = True,
    gradient: NDArray[np.float32] = _NONE,
    rate: float = 0.0,
) -> None:
    """Write base + PSM(moved - base) into `out`; all vectors float32 of one shape (k,), elements start..start+k-1.

    Args:
        moved: the weights that the optimiser moves; moved in place if a gradient is given.
        noise: the noise of the same elements, never zero.
        base: the weights that training started from.
        q: min(1, tau / S) in [0, 1]; with 0 nothing is masked, and u only clipped.
        stream: the client's own randomness; element i uses draw i of it, whatever the range asked for.
        mask: the codebook.
        out: the weights of the next step. What is neither masked nor clipped is `moved`, to the bit.
        start: the index of the first element.
        stochastic: sample with probability p; otherwise threshold p at 1/2.
        gradient: if given, moved - rate * gradient takes the place of moved first, rounded once: a step of SGD.
        rate: the learning rate, rounded to float32.
    """
    _progress(
        moved,
        gradient,
        np.float32(-rate),
        noise,
        base,
        np.float32(q),
        np.uint64(stream.key),
        np.uint64(stream.domain),
        start,
        mask is MaskType.SIGNED,
        stochastic,
        out,
    )


@compiled()
def _block_distances(a, g, rate, b, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write the sum of each block of `_BLOCK` elements; where there is a gradient, they are moved first."""
    half = np.empty(_HALF_TREE, np.float64)
    for k in range(out.size):
        at = k * _BLOCK
        if g.size:
            v, step = a[at : at + _BLOCK], g[at : at + _BLOCK]
            for i in range(_BLOCK):
                v[i] = fma(rate, step[i], v[i])  # type: ignore[call-arg]
        # A tree of sums: each floor is a loop whose turns do not depend on each other, so that it is vectorised.
        a0, b0 = a[at : at + _HALF_TREE], b[at : at + _HALF_TREE]
        a1, b1 = a[at + _HALF_TREE : at + _BLOCK], b[at + _HALF_TREE : at + _BLOCK]
        for i in range(_HALF_TREE):
            half[i] = np.float64(abs(a0[i] - b0[i])) + np.float64(abs(a1[i] - b1[i]))
        floor = _HALF_TREE
        while floor > 1:
            floor //= 2
            low, high = half[:floor], half[floor : 2 * floor]
            for i in range(floor):
                low[i] += high[i]
        out[k] = half[0]


@compiled()
def _sum_of_distances(blocks, a, g, rate, b):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """The blocks one after the other, and then the elements that are left."""
    total = 0.0
    for block in blocks:
        total += block
    for i in range(a.size):
        if g.size:
            a[i] = fma(rate, g[i], a[i])  # type: ignore[call-arg]
        total += np.float64(abs(a[i] - b[i]))
    return total


def sum_of_distances(
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    *,
    gradient: NDArray[np.float32] = _NONE,
    rate: float = 0.0,
    threads: int = 1,
) -> float:
    """Return the sum over elements of |a - b|: differences in float32, the sum in float64 in an order of its own.

    Args:
        a: float32, shape (k,); moved in place if a gradient is given.
        b: as many.
        gradient, rate: as for `progressive_weights`: a step of SGD that is taken first, in the same pass.
        threads: change nothing but the time.
    """
    step, blocks = np.float32(-rate), np.empty(a.size // _BLOCK, np.float64)

    def work(first: int, last: int) -> None:
        here = slice(first, last)
        _block_distances(a[here], gradient[here], step, b[here], blocks[first // _BLOCK : last // _BLOCK])

    whole = blocks.size * _BLOCK
    in_parallel(work, whole, threads, _BLOCK)
    return float(_sum_of_distances(blocks, a[whole:], gradient[whole:], step, b[whole:]))


@compiled()
def _fingerprint(bits):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    total = np.uint32(0)
    for i in range(bits.size):
        total = np.uint32(total + np.uint32(bits[i]) * np.uint32(2 * i + 1))
    return total


def fingerprint(values: NDArray[np.generic]) -> int:
    """Return 32 bits that change with any one element, and with nearly every other change.

    Args:
        values: shape (k,), contiguous, of elements of two or four bytes.
    """
    return int(_fingerprint(values.view(f"u{values.itemsize}")))
