"""Compiled loops over float32 vectors: fused multiply-add, choice by packed bits, and the fold into 64-bit sums.

*Rounding to 64 bits.* The fold adds int64(rint(float64(value) * factor)). Processors without a vector instruction for
that convert one value at a time; additions do it for all. With M = 3 * 2^51, whose unit in the last place is 1, the
last bits of x + M are those of rint(x), ties to even, for |x| < 2^51. Larger ones, below 2^62, are cut first into
high * 2^26 + low. Every step but the rounding is exact.
"""

from typing import Any

import numpy as np
from llvmlite import ir

from fedmrn.numerics.compiled import compiled, intrinsic, types

PART = 1 << 17
"""Elements of a sum that stay in a cache while several vectors are added to them."""

NEAR = 2.0**51
"""Products below this are rounded in one piece."""

MAGIC = np.float64(1.5 * 2.0**52)
"""What is added to a float64 to round it: the last bits of the sum are those of the nearest integer."""
MAGIC_BITS = np.int64(MAGIC.view(np.int64))
"""Its own bits."""
_26 = np.int64(26)
_UP, _DOWN = np.float64(2.0**26), np.float64(2.0**-26)
_LANES = 32
_PART = 1 << 10


@intrinsic
def fma(context, a, b, c):  # type: ignore[no-untyped-def]
    """Return a * b + c in float32, rounded once."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return types.float32(types.float32, types.float32, types.float32), generate


@intrinsic
def bits_of(context, x):  # type: ignore[no-untyped-def]
    """Return the bits of a float64 as int64."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), generate


@intrinsic
def _apply_at(context, bits, values, signed, out):  # type: ignore[no-untyped-def]
    """Choose 32 values at an address by the 32 bits at another, and store them at a third."""

    def generate(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        floats = ir.VectorType(ir.FloatType(), _LANES)
        packed = b.load(b.inttoptr(args[0], ir.IntType(_LANES).as_pointer()))
        upper = b.load(b.inttoptr(args[1], floats.as_pointer()))
        packed.align, upper.align = 1, 4
        zeros = ir.Constant(floats, [ir.Constant(ir.FloatType(), 0.0)] * _LANES)
        lower = b.select(args[2], b.fneg(upper), zeros)
        taken = b.bitcast(packed, ir.VectorType(ir.IntType(1), _LANES))
        b.store(b.select(taken, upper, lower), b.inttoptr(args[3], floats.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.none(types.uint64, types.uint64, types.boolean, types.uint64), generate


@compiled()
def apply_mask(noise, bits, signed, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Decode a mask: write noise[i] where bit i is set, and -noise[i] (signed) or 0 where it is not.

    Args:
        noise: float32, contiguous.
        bits: packed, least significant first; uint8, contiguous, at least one for each element.
        signed: bool.
        out: as many float32, contiguous; not `noise`, or the compiler stores under a mask, which some processors do
            one element at a time.
    """
    whole = noise.size // _LANES * _LANES
    b, n, o = np.uint64(bits.ctypes.data), np.uint64(noise.ctypes.data), np.uint64(out.ctypes.data)
    for i in range(0, whole, _LANES):
        at = np.uint64(4 * i)
        _apply_at(b + np.uint64(i >> 3), n + at, signed, o + at)  # type: ignore[call-arg]
    for i in range(whole, noise.size):
        lower = -noise[i] if signed else np.float32(0.0)
        out[i] = noise[i] if bits[i >> 3] >> np.uint8(i & 7) & np.uint8(1) else lower


@compiled(inline="always")
def rounded(x):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Return the integer nearest to a float64 below NEAR."""
    return bits_of(x + MAGIC) - MAGIC_BITS  # type: ignore[call-arg]


@compiled()
def fold(values, factor, near, total):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Add each value times `factor`, rounded to the nearest integer, to its sum.

    Args:
        values: float32.
        factor: float64; every |value| * factor is below 2^62.
        near: bool, whether every |value| * factor is below NEAR, which is faster.
        total: int64, a sum for each value; changed in place.
    """
    if near:
        for i in range(values.size):
            total[i] += rounded(np.float64(values[i]) * factor)
        return
    for i in range(values.size):
        x = np.float64(values[i]) * factor
        high = x * _DOWN + MAGIC
        low = (x - (high - MAGIC) * _UP) + MAGIC
        whole = bits_of(high) - MAGIC_BITS  # type: ignore[call-arg]
        total[i] += (whole << _26) + (bits_of(low) - MAGIC_BITS)


@compiled()
def fold_finely(values, factor, finer, total, rest):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Add each value times `factor` to its sum of two integers: the nearest integer, and what it leaves, times `finer`.

    Args:
        values: float32.
        factor: float64; every |value| * factor is below 2^62.
        finer: float64, a power of two up to 2^51.
        total: int64, a sum for each value; changed in place.
        rest: int64, as many; in units of `total`'s over `finer`; changed in place.
    """
    for i in range(values.size):
        x = np.float64(values[i]) * factor
        high = x * _DOWN + MAGIC
        low = x - (high - MAGIC) * _UP
        near = low + MAGIC
        whole = bits_of(high) - MAGIC_BITS  # type: ignore[call-arg]
        total[i] += (whole << _26) + (bits_of(near) - MAGIC_BITS)
        rest[i] += bits_of((low - (near - MAGIC)) * finer + MAGIC) - MAGIC_BITS


@compiled()
def write_mean(total, factor, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write float32(float64(sum) * factor) of each sum; `out` may lie in the sums' memory, at its start or before."""
    part = np.empty(_PART, np.float32)
    for at in range(0, total.size, _PART):
        sums, p = total[at : at + _PART], part[: min(_PART, total.size - at)]
        for i in range(p.size):
            p[i] = np.float32(np.float64(sums[i]) * factor)
        o = out[at : at + p.size]
        for i in range(p.size):
            o[i] = p[i]


@compiled()
def write_fine_mean(total, rest, coarser, factor, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Do the same with sums of two integers; the second is in units of the first's times `coarser`."""
    part = np.empty(_PART, np.float32)
    for at in range(0, total.size, _PART):
        sums, more, p = total[at : at + _PART], rest[at : at + _PART], part[: min(_PART, total.size - at)]
        for i in range(p.size):
            p[i] = np.float32((np.float64(sums[i]) + np.float64(more[i]) * coarser) * factor)
        o = out[at : at + p.size]
        for i in range(p.size):
            o[i] = p[i]
