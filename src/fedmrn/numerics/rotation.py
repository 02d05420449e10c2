"""Random rotations: a fast Walsh-Hadamard transform over power-of-two blocks, after random signs.

A flat vector of d elements is cut into blocks of at most 2^16, greedily by the binary digits of what is left, so that
nothing is padded; what is left below `SMALLEST` elements at the end is not rotated. The rotation of a block of b
elements is x -> H D x / sqrt(b), with H the Hadamard matrix in natural order and D the signs from bit 31 of the words
of the stream (noise key, ROTATION), one word an element: independent for each client and round.

Source: DRIVE (Vargaftik et al., NeurIPS 2021, section 4); blocks in place of padding as OpenFL does.
"""

import numpy as np

from fedmrn.numerics.compiled import compiled
from fedmrn.numerics.philox import BLOCK, words_from
from fedmrn.numerics.rng import Purpose, domain

LARGEST = 1 << 16
SMALLEST = 128
_DOMAIN = np.uint64(domain(Purpose.ROTATION))


def blocks(count: int) -> list[tuple[int, int]]:
    """Return (start, size) of each rotated block of a vector of `count` elements; the rest of it stays dense."""
    found, at = [], 0
    while count - at >= SMALLEST:
        size = min(LARGEST, 1 << ((count - at).bit_length() - 1))
        found.append((at, size))
        at += size
    return found


@compiled(inline="always")
def _near(x, h):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Two levels, h and 2 h, for a small literal h: the compiler then knows the strides and vectorises over blocks."""
    for i in range(0, x.size, 4 * h):
        for j in range(i, i + h):
            a, b, c, d = x[j], x[j + h], x[j + 2 * h], x[j + 3 * h]
            s, t, u, v = a + b, a - b, c + d, c - d
            x[j], x[j + h], x[j + 2 * h], x[j + 3 * h] = s + u, t + v, s - u, t - v


@compiled()
def walsh_hadamard(x):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Transform x (float32, a power of two of elements) in place, without a scale: x <- H x.

    The result is that of the levels h = 1, 2, 4, ... in this order, each (a, b) -> (a + b, a - b) in float32 on the
    pairs h apart; two levels a pass (radix 4) change no operation and read and write each element half as often.
    """
    n = x.size
    levels = 0
    while 1 << levels < n:
        levels += 1
    h = 1
    if levels % 2:  # an odd number of levels: one level first
        for i in range(n // 2):
            a, b = x[2 * i], x[2 * i + 1]
            x[2 * i], x[2 * i + 1] = a + b, a - b
        h = 2
        if n >= 8:
            _near(x, 2)
            h = 8
    elif n >= 4:
        _near(x, 1)
        h = 4
    while h < n:
        for i in range(0, n, 4 * h):
            p, q, r, w = x[i : i + h], x[i + h : i + 2 * h], x[i + 2 * h : i + 3 * h], x[i + 3 * h : i + 4 * h]
            for j in range(h):
                a, b, c, d = p[j], q[j], r[j], w[j]
                s, t, u, v = a + b, a - b, c + d, c - d
                p[j], q[j], r[j], w[j] = s + u, t + v, s - u, t - v
        h *= 4


@compiled()
def random_signs(x, key, start):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Turn the sign of each x[i] whose word start + i of the stream (key, ROTATION) has bit 31 set."""
    words = np.empty(BLOCK, np.uint32)
    done = 0
    while done < x.size:
        w, end = words_from(key, _DOMAIN, start, done, x.size, words)
        part = x[done:end]
        for i in range(part.size):
            v = part[i]
            part[i] = -v if w[i] >> np.uint32(31) else v
        done = end


@compiled(error_model="numpy")
def encode_block(x, key, start, bits, centroids, packed):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Rotate x in place to u = H D x, and pack the indices of the centroids nearest to u / rms(u).

    Args:
        x: one block, float32.
        key: the noise key.
        start: where the block lies in the vector.
        bits: how many bits an index takes.
        centroids: the positive half, increasing, float64; the negative half mirrors it.
        packed: room for the indices, zero.

    Returns:
        sum u^2, sum c u and sum c^2 in float64, where c is the centroid of each element.
    """
    random_signs(x, key, start)
    walsh_hadamard(x)
    square = 0.0
    for v in x:
        square += np.float64(v) * np.float64(v)
    if square == 0.0:
        return square, 0.0, 0.0
    half = centroids.size
    edges = (centroids[1:] + centroids[:-1]) * 0.5 * np.sqrt(square / x.size)
    inner = energy = 0.0
    for group in range(x.size // 8):  # eight indices make `bits` whole bytes
        together = 0
        for k in range(8):
            v = np.float64(x[8 * group + k])
            size = abs(v)
            level = 0
            for edge in edges:
                level += size > edge
            inner += centroids[level] * size
            energy += centroids[level] * centroids[level]
            together |= (half + level if v >= 0.0 else half - 1 - level) << (k * bits)
        for k in range(bits):
            packed[group * bits + k] = (together >> (8 * k)) & 0xFF
    return square, inner, energy


@compiled()
def decode_block(packed, bits, levels, key, start, limit, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Look up the indices in `levels` (float32), rotate back without a scale, and clip to +-limit."""
    mask = (1 << bits) - 1
    for group in range(out.size // 8):
        together = np.int64(0)
        for k in range(bits):
            together |= np.int64(packed[group * bits + k]) << (8 * k)
        for k in range(8):
            out[8 * group + k] = levels[(together >> (k * bits)) & mask]
    walsh_hadamard(out)
    random_signs(out, key, start)
    for i in range(out.size):
        out[i] = min(max(out[i], -limit), limit)
