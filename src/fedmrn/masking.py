"""Stochastic masking and progressive stochastic masking (PSM): the one place where u meets the noise n.

With p the masking probability of an element (methods.md, "FedMRN"; Li et al. 2024, section 3):

    binary   p = clip(u / n, 0, 1),          codewords 0 and n
    signed   p = clip((u / n + 1) / 2, 0, 1), codewords -n and +n

stochastic masking (SM) takes the upper codeword with probability p, which is unbiased for the clipped u. Progressive
masking (PM) masks an element with probability q = tau / S and otherwise keeps the clipped u. Both come from one uniform
draw r in [0, 1), with exactly the law of two independent draws:

    r < q * p       upper codeword          q * p <= r < q      lower codeword          r >= q      clipped u

Without SM (an ablation) the nearer codeword is taken: upper if p >= 1/2.
"""

from enum import IntEnum

import numba as nb
import numpy as np
from numpy.typing import NDArray

from fedmrn.philox import BLOCK, philox_block
from fedmrn.rng import Stream

_UNIT = np.float32(2.0**-24)
_ZERO = np.float32(0.0)
_HALF = np.float32(0.5)
_ONE = np.float32(1.0)


class MaskType(IntEnum):
    """The codebook of a mask; the number is its code on the wire."""

    BINARY = 0
    SIGNED = 1


@nb.njit(cache=True, nogil=True, inline="always")
def _probability(u, n, signed):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    p = u / n
    if signed:
        p = (p + _ONE) * _HALF
    return min(max(p, _ZERO), _ONE)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _draw(u, n, key, dom, start, signed, stochastic, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    words = np.empty(BLOCK, np.uint32)
    done = 0
    while done < out.size:
        at = start + done
        block = at // BLOCK
        skip = at - block * BLOCK
        take = min(BLOCK - skip, out.size - done)
        philox_block(key, dom, block, words)
        for i in range(take):
            e = done + i
            p = _probability(u[e], n[e], signed)
            r = np.float32(np.int32(words[skip + i] >> np.uint32(8))) * _UNIT
            out[e] = (r < p) if stochastic else (p >= _HALF)
        done += take


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _progress(u, n, base, q, key, dom, signed, stochastic, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    words = np.empty(BLOCK, np.uint32)
    for first in range(0, out.size, BLOCK):
        take = min(BLOCK, out.size - first)
        philox_block(key, dom, first // BLOCK, words)
        for i in range(take):
            e = first + i
            noise = n[e]
            p = _probability(u[e], noise, signed)
            if not stochastic:
                p = _ONE if p >= _HALF else _ZERO
            r = np.float32(np.int32(words[i] >> np.uint32(8))) * _UNIT
            lower = -noise if signed else _ZERO
            clipped = min(max(u[e], min(lower, noise)), max(lower, noise))
            masked = noise if r < q * p else lower
            out[e] = base[e] + (masked if r < q else clipped)


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
    _draw(u, noise, key, dom, start, mask is MaskType.SIGNED, stochastic, out)
    return out


def progressive_weights(
    u: NDArray[np.float32],
    noise: NDArray[np.float32],
    base: NDArray[np.float32],
    q: float,
    stream: Stream,
    mask: MaskType,
    out: NDArray[np.float32],
    *,
    stochastic: bool = True,
) -> None:
    """Write base + PSM(u) into `out`; all vectors float32 of one shape (d,); q = min(1, tau / S) in [0, 1]."""
    key, dom = np.uint64(stream.key), np.uint64(stream.domain)
    _progress(u, noise, base, np.float32(q), key, dom, mask is MaskType.SIGNED, stochastic, out)
