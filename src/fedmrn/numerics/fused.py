"""A block of noise chosen by a mask in the registers where its words are made, and added to its sums.

Operations are those of `fill_noise`, `apply_mask` and `fold`, so that sums are the same to the bit; what is saved is
the way of words and noise through memory. The sums are a loop of their own: values in float32 lie in the first cache.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from fedmrn.numerics.compiled import cgutils, compiled, intrinsic, types
from fedmrn.numerics.kernels import MAGIC, MAGIC_BITS, bits_of
from fedmrn.numerics.noise import Law
from fedmrn.numerics.philox import BLOCK, LANES, each_plane, vector_function
from fedmrn.numerics.rng import Purpose, domain
from fedmrn.numerics.vectors import in_all, load_at, splat, store_at

FACTOR_BITS = 29
"""The most that a factor has: its products with float32 are exact in float64."""
_I32, _I64, _F32, _F64 = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()
_WORDS, _FLOATS = ir.VectorType(_I32, LANES), ir.VectorType(_F32, LANES)
_SIGN = 1 << 31


def _all(value: int) -> ir.Constant:
    return in_all(_WORDS, value)


def _noise(b: ir.IRBuilder, law: Law, words: ir.Value, scale: ir.Value) -> ir.Value:
    """The bits of the noise of some words; `scale` is that of its law, or for uniform noise 2^-31 of it."""
    if law is Law.BERNOULLI:
        bits = b.bitcast(splat(b, scale, LANES), _WORDS)
        return b.xor(b.and_(words, _all(_SIGN)), bits)
    # 2^7 * (2 * (w >> 8) + 1 - 2^24), signed: 24 bits of the word, the first of them flipped, and then a one.
    odd = b.xor(b.and_(words, _all(-1 << 8)), _all(_SIGN | 1 << 7))
    return b.bitcast(b.fmul(b.sitofp(odd, _FLOATS), splat(b, scale, LANES)), _WORDS)


def _writer(law: Law, signed: bool) -> Callable[..., None]:
    def write(b: ir.IRBuilder, block: ir.Value, key: ir.Value, bits: ir.Value, scale: ir.Value, out: ir.Value) -> None:
        def put(b: ir.IRBuilder, words: ir.Value, place: ir.Value) -> None:
            noise = _noise(b, law, words, scale)
            packed = load_at(b, b.add(bits, b.lshr(place, _I64(3))), ir.IntType(LANES), 1)
            taken = b.bitcast(packed, ir.VectorType(ir.IntType(1), LANES))
            flipped = b.select(taken, _all(0), _all(_SIGN))
            values = b.xor(noise, flipped) if signed else b.select(taken, noise, _all(0))
            store_at(b, values, b.add(out, b.mul(place, _I64(4))), 4)

        each_plane(b, block, key, _I64(domain(Purpose.NOISE)), put)

    return write


def _intrinsic(law: Law, *, signed: bool) -> Any:
    """Write a block of masked noise: (block, key, address of its bits, scale, address of 1,024 float32)."""

    @intrinsic
    def write_block(context, block, key, bits, scale, out):  # type: ignore[no-untyped-def]
        def generate(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
            name = f"fedmrn.numerics.fused.{law.name}.{signed}"
            kinds = [_I64, _I64, _I64, _F32, _I64]
            b.call(vector_function(b.module, name, kinds, _writer(law, signed)), args)
            return context.get_dummy_value()

        u64 = types.uint64
        return types.none(u64, u64, u64, types.float32, u64), generate

    return write_block


_uniform, _uniform_signed = (_intrinsic(Law.UNIFORM, signed=signed) for signed in (False, True))
_bernoulli, _bernoulli_signed = (_intrinsic(Law.BERNOULLI, signed=signed) for signed in (False, True))
_UNIFORM = int(Law.UNIFORM)


@intrinsic
def _byte_at(context, address):  # type: ignore[no-untyped-def]
    def generate(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return load_at(b, args[0], ir.IntType(8), 1)

    return types.uint8(types.uint64), generate


@intrinsic
def _magic_and_product(context, value, factor):  # type: ignore[no-untyped-def]
    """Return MAGIC + value * factor, a float64; the product is exact, so it does not matter whether it is rounded."""

    def generate(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_F64, [_F64] * 3)
        add = cgutils.get_or_insert_function(b.module, kind, "llvm.fmuladd.f64")  # type: ignore[no-untyped-call]
        return b.call(add, [b.fpext(args[0], _F64), args[1], ir.Constant(_F64, float(MAGIC))])

    return types.float64(types.float32, types.float64), generate


@compiled()
def _add(values, factor, bias, total):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    for i in range(values.size):
        total[i] += bits_of(_magic_and_product(values[i], factor)) + bias  # type: ignore[call-arg]


@compiled()
def _add_without(values, factor, total):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    for i in range(values.size):
        total[i] += bits_of(_magic_and_product(values[i], factor))  # type: ignore[call-arg]


@compiled()
def _write_block(law, scale, key, block, packed, size, signed, values, spare):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write a block of values to `values`, float32, shape (BLOCK,); zeros or the other sign after the mask's end.

    Args:
        law, scale, key, signed: as for `fold_masked`.
        block: int, which.
        packed, size: the mask's address and its bytes, uint64 and int.
        spare: uint8, shape (BLOCK / 8,), for a mask that ends within the block.
    """
    n, out, first = np.uint64(block), np.uint64(values.ctypes.data), block * spare.size
    bits = packed + np.uint64(first)
    if first + spare.size > size:
        for i in range(size - first):
            spare[i] = _byte_at(bits + np.uint64(i))  # type: ignore[call-arg]
        bits = np.uint64(spare.ctypes.data)
    if law == _UNIFORM:
        unit = scale * np.float32(2.0**-31)
        if signed:
            _uniform_signed(n, key, bits, unit, out)
        else:
            _uniform(n, key, bits, unit, out)
    elif signed:
        _bernoulli_signed(n, key, bits, scale, out)
    else:
        _bernoulli(n, key, bits, scale, out)


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
    values, spare = np.empty(BLOCK, np.float32), np.empty(BLOCK >> 3, np.uint8)
    packed, done = np.uint64(bits.ctypes.data), 0
    while done < total.size:
        block = (start + done) // BLOCK
        skip = start + done - block * BLOCK
        end = min(done + BLOCK - skip, total.size)
        _write_block(law, scale, key, block, packed, bits.size, signed, values, spare)
        _add(values[skip : skip + end - done], factor, -MAGIC_BITS, total[done:end])
        done = end


@compiled()
def fold_all_masked(law, scale, keys, start, masks, size, signed, factors, total):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Do the same with several masks, a block of the sums at a time, which stays in the first cache.

    Args:
        law, scale, start, signed, total: as for `fold_masked`, for all of them.
        keys: uint64, a mask each.
        masks: uint64, the addresses of their bits, as `bits` of `fold_masked`.
        size: int, bytes of each.
        factors: float64, a mask each, as `factor` there.
    """
    values, spare = np.empty(BLOCK, np.float32), np.empty(BLOCK >> 3, np.uint8)
    done, bias = 0, -keys.size * MAGIC_BITS
    while done < total.size:
        block = (start + done) // BLOCK
        skip = start + done - block * BLOCK
        end = min(done + BLOCK - skip, total.size)
        v, sums = values[skip : skip + end - done], total[done:end]
        for i in range(keys.size):
            _write_block(law, scale, keys[i], block, masks[i], size, signed, values, spare)
            if i:
                _add_without(v, factors[i], sums)
            else:
                _add(v, factors[i], bias, sums)
        done = end
