"""A block of noise chosen by a mask and added to its sums, in registers: what the fold of masks spends its time on.

Operations are those of `fill_noise`, `apply_mask` and `fold`, so that sums are the same to the bit; what is saved is
the way of noise and values through memory.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from fedmrn.numerics.compiled import cgutils, compiled, intrinsic, types
from fedmrn.numerics.kernels import MAGIC, rounded
from fedmrn.numerics.noise import Law
from fedmrn.numerics.philox import BLOCK, words_from
from fedmrn.numerics.rng import Purpose, domain
from fedmrn.numerics.vectors import in_all, load_at, splat, store_at

LANES = 32
"""Words that go side by side."""
FACTOR_BITS = 29
"""The most that a factor has: its products with float32 are exact in float64."""
_I32, _I64, _F32, _F64 = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()
_PART = 8


def _all(kind: ir.Type, value: float, lanes: int = LANES) -> ir.Constant:
    return in_all(ir.VectorType(kind, lanes), value)


def _noise(b: ir.IRBuilder, law: Law, words: ir.Value, scale: ir.Value) -> ir.Value:
    """The noise of 32 words; `scale` is that of its law, or for uniform noise 2^-24 of it."""
    if law is Law.BERNOULLI:
        sign = b.and_(words, _all(_I32, 1 << 31))
        bits = b.bitcast(splat(b, scale, LANES), words.type)
        return b.bitcast(b.xor(bits, sign), ir.VectorType(_F32, LANES))
    odd = b.or_(b.lshr(words, _all(_I32, 7)), _all(_I32, 1))
    whole = b.sitofp(b.sub(odd, _all(_I32, 1 << 24)), ir.VectorType(_F32, LANES))
    return b.fmul(whole, splat(b, scale, LANES))


def _folded(law: Law, signed: bool) -> Callable[..., Any]:
    def generate(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        words, bits, total, scale, factor = args
        noise = _noise(b, law, load_at(b, words, ir.VectorType(_I32, LANES), 4), scale)
        taken = b.bitcast(load_at(b, bits, ir.IntType(LANES), 1), ir.VectorType(ir.IntType(1), LANES))
        whole = b.bitcast(noise, ir.VectorType(_I32, LANES))
        chosen = b.sext(taken, whole.type)
        flipped = b.xor(whole, b.and_(b.not_(chosen), _all(_I32, 1 << 31)))
        whole = flipped if signed else b.and_(whole, chosen)
        values = b.bitcast(whole, noise.type)
        sums, doubles = ir.VectorType(_I64, _PART), ir.VectorType(_F64, _PART)
        # The product is exact, so that it does not matter whether it is rounded: one operation where there is one.
        add = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
            b.module, ir.FunctionType(doubles, [doubles] * 3), f"llvm.fmuladd.v{_PART}f64"
        )
        many, magic = splat(b, factor, _PART), _all(_F64, float(MAGIC), _PART)
        for at in range(0, LANES, _PART):
            lanes = ir.Constant(ir.VectorType(_I32, _PART), [_I32(at + i) for i in range(_PART)])
            x = b.fpext(b.shuffle_vector(values, values, lanes), doubles)
            near = b.bitcast(b.call(add, [x, many, magic]), sums)
            place = b.add(total, _I64(8 * at))
            more = b.sub(near, _all(_I64, int(MAGIC.view(np.int64)), _PART))
            store_at(b, b.add(load_at(b, place, sums, 8), more), place, 8)
        return context.get_dummy_value()

    return generate


def _intrinsic(law: Law, *, signed: bool) -> Any:
    """Add 32 elements to their sums; the addresses are those of words of the noise, of packed bits and of sums."""

    @intrinsic
    def fold_words(context, words, bits, total, scale, factor):  # type: ignore[no-untyped-def]
        u64 = types.uint64
        return types.none(u64, u64, u64, types.float32, types.float64), _folded(law, signed)

    return fold_words


_uniform, _uniform_signed = (_intrinsic(Law.UNIFORM, signed=signed) for signed in (False, True))
_bernoulli, _bernoulli_signed = (_intrinsic(Law.BERNOULLI, signed=signed) for signed in (False, True))
_DOMAIN = np.uint64(domain(Purpose.NOISE))
_UNIFORM = int(Law.UNIFORM)
_2P24 = np.int32(1 << 24)


@compiled()
def _singly(uniform, words, first, bits, scale, signed, factor, total):  # type: ignore[no-untyped-def]  # pragma: no cover
    """The same one element at a time: bit `first` of `bits` is the first one's."""
    for i in range(total.size):
        if uniform:
            noise = np.float32(np.int32(np.int32((words[i] >> np.uint32(7)) | np.uint32(1)) - _2P24)) * scale
        else:
            noise = scale * np.float32(1 - 2 * np.int32(words[i] >> np.uint32(31)))
        at = first + i
        if not bits[at >> 3] >> np.uint8(at & 7) & np.uint8(1):
            noise = -noise if signed else np.float32(0.0)
        total[i] += rounded(np.float64(noise) * factor)


@compiled()
def fold_masked(law, scale, key, start, bits, signed, factor, total):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Add a factor times elements start, start+1, ... of masked noise to `total`, each rounded to an integer.

    Args:
        law: of the noise, int: uniform or bernoulli.
        scale: float32.
        key: uint64.
        start: int.
        bits: of the mask, packed from element 0 on; uint8, contiguous.
        signed: bool.
        factor: float64 of at most FACTOR_BITS bits; every magnitude times it is below `fedmrn.numerics.kernels.NEAR`.
        total: int64, contiguous, a sum for each element; changed in place.
    """
    buffer = np.empty(BLOCK, np.uint32)
    uniform = law == _UNIFORM
    unit = scale * np.float32(2.0**-24) if uniform else scale
    to, packed, here = np.uint64(total.ctypes.data), np.uint64(bits.ctypes.data), np.uint64(buffer.ctypes.data)
    done = 0
    while done < total.size:
        words, end = words_from(key, _DOMAIN, start, done, total.size, buffer)
        first, size = start + done, end - done
        lead = min(size, -first & 7)  # until a byte of the mask begins
        whole = lead + (size - lead) // LANES * LANES
        _singly(uniform, words, first, bits, unit, signed, factor, total[done : done + lead])
        from_, sums = here + np.uint64(4 * (BLOCK - words.size)), to + np.uint64(8 * done)
        if uniform and signed:
            for i in range(lead, whole, LANES):
                mask = packed + np.uint64((first + i) >> 3)
                _uniform_signed(from_ + np.uint64(4 * i), mask, sums + np.uint64(8 * i), unit, factor)
        elif uniform:
            for i in range(lead, whole, LANES):
                mask = packed + np.uint64((first + i) >> 3)
                _uniform(from_ + np.uint64(4 * i), mask, sums + np.uint64(8 * i), unit, factor)
        elif signed:
            for i in range(lead, whole, LANES):
                mask = packed + np.uint64((first + i) >> 3)
                _bernoulli_signed(from_ + np.uint64(4 * i), mask, sums + np.uint64(8 * i), unit, factor)
        else:
            for i in range(lead, whole, LANES):
                mask = packed + np.uint64((first + i) >> 3)
                _bernoulli(from_ + np.uint64(4 * i), mask, sums + np.uint64(8 * i), unit, factor)
        _singly(uniform, words[whole:], first + whole, bits, unit, signed, factor, total[done + whole : end])
        done = end
