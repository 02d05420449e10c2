"""Noise and masked weights on a GPU, in Triton: the bits of `numerics.noise` and `numerics.masking`, which define them.

A program makes one block of words, 256 counters side by side, and uses all four planes. What must be equal to the bit
is written so that no compiler has a choice: divisions round to nearest (`div_rn`; `/` is approximate), the step of SGD
is one `fma`, nothing else could be contracted, nothing is flushed to zero, and a smallest or largest value is chosen by
the comparison that the CPU's kernels make. Indices are 64 bits.

Random words and q are read from the device's memory, not passed: a captured launch is replayed with other values there.
Only training on a GPU imports this module, so that Triton is asked for nowhere else.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from fedmrn.codecs import FitsUpdate
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec, gaussian_table
from fedmrn.numerics.philox import BLOCK, M0, M1, PLANE, W0, W1
from fedmrn.numerics.rng import Purpose, Stream, domain

WORDS = 5
"""int32 a draw: key (low, high), domain (low, high), the bits of q as float32."""

_BLOCK, _PLANE = tl.constexpr(BLOCK), tl.constexpr(PLANE)
_M0, _M1, _W0, _W1 = tl.constexpr(M0), tl.constexpr(M1), tl.constexpr(W0), tl.constexpr(W1)
_UNIT = tl.constexpr(2.0**-24)
_UNIFORM, _GAUSSIAN = tl.constexpr(int(Law.UNIFORM)), tl.constexpr(int(Law.GAUSSIAN))
_EXACT = {"enable_fp_fusion": False}


@triton.jit
def _word(draw, i):  # pragma: no cover - compiled
    return tl.load(draw + i).to(tl.uint32, bitcast=True)


@triton.jit
def _philox(block, draw):  # pragma: no cover - compiled
    """The four planes of a block of random words."""
    n = block * _PLANE + tl.arange(0, _PLANE)
    c0, c1, c2, c3 = n.to(tl.uint32), (n >> 32).to(tl.uint32), _word(draw, 2), _word(draw, 3)
    k0, k1 = _word(draw, 0), _word(draw, 1)
    for _ in tl.static_range(10):
        low0, low1 = c0 * _M0, c2 * _M1
        c0, c2 = tl.umulhi(c2, _M1) ^ c1 ^ k0, tl.umulhi(c0, _M0) ^ c3 ^ k1
        c1, c3 = low1, low0
        k0, k1 = k0 + _W0, k1 + _W1
    return c0, c1, c2, c3


@triton.jit
def _noise_plane(w, at, out, table, scale, size, LAW: tl.constexpr):  # pragma: no cover - compiled
    if LAW == _UNIFORM:
        value = (((w >> 7) | 1).to(tl.int32) - 16777216).to(tl.float32) * (scale * _UNIT)
    elif LAW == _GAUSSIAN:
        sign = (1 - 2 * ((w >> 19) & 1).to(tl.int32)).to(tl.float32)
        value = tl.load(table + (w >> 20).to(tl.int32)) * scale * sign
    else:
        value = scale * (1 - 2 * (w >> 31).to(tl.int32)).to(tl.float32)
    tl.store(out + at, value, mask=(at >= 0) & (at < size))


@triton.jit(do_not_specialize=["start", "size"])
def _noise(out, draw, table, scale, start, size, LAW: tl.constexpr):  # pragma: no cover - compiled
    block = tl.cast(start, tl.int64) // _BLOCK + tl.program_id(0)
    at = block * _BLOCK - start + tl.arange(0, _PLANE)
    w0, w1, w2, w3 = _philox(block, draw)
    _noise_plane(w0, at, out, table, scale, size, LAW)
    _noise_plane(w1, at + _PLANE, out, table, scale, size, LAW)
    _noise_plane(w2, at + 2 * _PLANE, out, table, scale, size, LAW)
    _noise_plane(w3, at + 3 * _PLANE, out, table, scale, size, LAW)


@triton.jit
def _weights_plane(
    word, at, moved, g, rate, n, base, q, out, size, MOVE: tl.constexpr, SIGNED: tl.constexpr, SM: tl.constexpr
):  # pragma: no cover - compiled
    inside = (at >= 0) & (at < size)
    v = tl.load(moved + at, mask=inside, other=0.0)
    if MOVE:
        v = tl.fma(rate, tl.load(g + at, mask=inside, other=0.0), v)
        tl.store(moved + at, v, mask=inside)
    w = tl.load(base + at, mask=inside, other=0.0)
    u = v - w
    upper = tl.load(n + at, mask=inside, other=1.0)
    p = tl.div_rn(u, upper)
    if SIGNED:
        p = (p + 1.0) * 0.5
        lower = -upper
    else:
        lower = 0.0
    p = tl.where(p < 0.0, 0.0, p)
    p = tl.where(p > 1.0, 1.0, p)
    if not SM:
        p = tl.where(p >= 0.5, 1.0, 0.0)
    r = (word >> 8).to(tl.int32).to(tl.float32) * _UNIT
    least, most = tl.where(upper < lower, upper, lower), tl.where(upper > lower, upper, lower)
    kept = tl.where((u < least) | (u > most), w + tl.where(u < least, least, most), v)
    tl.store(out + at, tl.where(r < q, w + tl.where(r < q * p, upper, lower), kept), mask=inside)


@triton.jit(do_not_specialize=["start", "size"])
def _weights(
    moved, g, rate, n, base, draw, out, start, size, MOVE: tl.constexpr, SIGNED: tl.constexpr, SM: tl.constexpr
):  # pragma: no cover - compiled
    block = tl.cast(start, tl.int64) // _BLOCK + tl.program_id(0)
    at = block * _BLOCK - start + tl.arange(0, _PLANE)
    q = tl.load(draw + 4).to(tl.float32, bitcast=True)
    w0, w1, w2, w3 = _philox(block, draw)
    _weights_plane(w0, at, moved, g, rate, n, base, q, out, size, MOVE, SIGNED, SM)
    _weights_plane(w1, at + _PLANE, moved, g, rate, n, base, q, out, size, MOVE, SIGNED, SM)
    _weights_plane(w2, at + 2 * _PLANE, moved, g, rate, n, base, q, out, size, MOVE, SIGNED, SM)
    _weights_plane(w3, at + 3 * _PLANE, moved, g, rate, n, base, q, out, size, MOVE, SIGNED, SM)


def pack_draws(streams: Sequence[Stream], q: Sequence[float]) -> Tensor:
    """Return what the kernels read of some draws, on the CPU: int32, shape (draws, WORDS)."""
    halves = [(s.key & 0xFFFFFFFF, s.key >> 32, s.domain & 0xFFFFFFFF, s.domain >> 32, 0) for s in streams]
    words = np.array(halves, np.uint32).reshape(-1, WORDS)
    words[:, 4] = np.array(q, np.float32).view(np.uint32)
    return torch.from_numpy(words.view(np.int32))


@cache
def _table(device: torch.device) -> Tensor:
    return torch.from_numpy(gaussian_table()).to(device)


def _blocks(start: int, size: int) -> tuple[int]:
    return ((start + size - 1) // BLOCK - start // BLOCK + 1,)


def fill(noise: NoiseSpec, key: int, start: int, out: Tensor) -> None:
    """Write elements start, start+1, ... of the noise of a 64-bit key into `out`, as `NoiseSpec.fill` does.

    Args:
        noise: law and scale.
        key: of the noise.
        start: the index of the first element, below 2^62.
        out: float32, shape (k,), contiguous, on the device.
    """
    if not out.numel():
        return
    draw = pack_draws([Stream(key, domain(Purpose.NOISE))], [0.0])[0].to(out.device)
    with torch.cuda.device_of(out):
        _noise[_blocks(start, out.numel())](
            out, draw, _table(out.device), noise.scale, start, out.numel(), int(noise.law), **_EXACT
        )


def write_weights(
    moved: Tensor,
    noise: Tensor,
    base: Tensor,
    draw: Tensor,
    mask: MaskType,
    out: Tensor,
    *,
    start: int = 0,
    stochastic: bool = True,
    gradient: Tensor | None = None,
    rate: float = 0.0,
) -> None:
    """Write base + PSM(moved - base) into `out`, as `fedmrn.numerics.masking.progressive_weights` does.

    Args:
        moved, noise, base, out: float32, shape (k,), contiguous, on one device.
        draw: q and the stream: a row of `pack_draws`, on that device.
        mask: the codebook.
        start: the index of the first element, below 2^62.
        stochastic: sample with probability p; otherwise threshold p at 1/2.
        gradient: if given, moved - rate * gradient takes the place of moved first, rounded once; as moved.
        rate: the learning rate, rounded to float32.
    """
    if not moved.numel():
        return
    with torch.cuda.device_of(out):
        _weights[_blocks(start, moved.numel())](
            moved,
            moved if gradient is None else gradient,
            float(np.float32(-rate)),
            noise,
            base,
            draw,
            out,
            start,
            moved.numel(),
            gradient is not None,
            mask is MaskType.SIGNED,
            stochastic,
            **_EXACT,
        )


def rescale(
    moved: Tensor,
    base: Tensor,
    parts: Sequence[slice],
    multiples: Tensor,
    noise: Tensor,
    exponents: Tensor,
    caps: Tensor,
) -> None:
    """Give the noise of each part the scale that fits u = moved - base there (`fedmrn.codecs.mask.scale.FitsUpdate`).

    Nothing waits for the device, so that a step with it can be captured.

    Args:
        moved, base, noise: float32, shape (k,), contiguous, on one device.
        parts: where each tensor is; none is empty.
        multiples: of the mean of |u|, float64, shape (len(parts),), on that device; the scale is the power of two
            nearest to that.
        exponents: int32, shape (len(parts),), on that device: of the scales that the noise has, and then will have.
        caps: of the largest scales that are allowed, as `exponents`.
    """
    means = torch.stack(
        [
            torch.linalg.vector_norm(moved[where] - base[where], 1, dtype=torch.float64) / (where.stop - where.start)
            for where in parts
        ]
    )
    wanted = FitsUpdate.exponents(means, multiples, caps, torch)
    more = wanted - exponents
    half = more // 2  # the whole factor may be beyond float32
    factors = ((torch.stack([half, more - half]) + 127) << 23).view(torch.float32)  # powers of two, by their bits
    for i, where in enumerate(parts):
        noise[where].mul_(factors[0, i]).mul_(factors[1, i])
    exponents.copy_(wanted)
