"""Philox4x32-10 in vectors of 32-bit words: the kernels behind `fedmrn.numerics.rng` and `fedmrn.numerics.noise`.

A compiler that vectorises the plain loop puts each word into a 64-bit lane, and half of every register idles. Here a
register is full. The 64-bit products of its even and odd lanes are two multiplications; one shuffle takes the high
halves of both, and the low halves are a third multiplication, of 32 bits. The shuffle leaves the four lanes of each
128-bit part in the order 0 2 1 3, while the low halves keep their own: two rounds later, where they meet, both orders
agree, because doing the shuffle twice does nothing. Fourteen instructions a round for 8 counters, against sixteen.

Ten rounds are a chain: latency, not work. So `LANES` counters go through side by side. The words of the domain are
constant and the high half of a counter is constant within a block: the first two rounds cost less than one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from fedmrn.numerics.compiled import cgutils, compiled, intrinsic, overload, types
from fedmrn.numerics.vectors import in_all, splat, store_at

PLANE = 256
BLOCK = 4 * PLANE
LANES = 32
"""How many counters go side by side: four AVX2 registers a word, or two of AVX-512. It divides PLANE."""

M0, M1 = 0xD2511F53, 0xCD9E8D57
W0, W1 = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_WORDS, _PAIRS = ir.VectorType(_I32, LANES), ir.VectorType(_I64, LANES // 2)
_ODD, _EVEN = 1, 0


def _all(value: int, kind: ir.VectorType = _WORDS) -> ir.Constant:
    return in_all(kind, value)


def _splat(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return splat(b, x, LANES)


def _halves(b: ir.IRBuilder, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    return b.trunc(x, _I32), b.trunc(b.lshr(x, _I64(32)), _I32)


def _products(b: ir.IRBuilder, c: ir.Value, m: int) -> tuple[ir.Value, ir.Value]:
    """The 64-bit products of the even lanes and of the odd ones."""
    pairs, factor = b.bitcast(c, _PAIRS), _all(m, _PAIRS)
    even = b.mul(b.and_(pairs, _all(_LOW, _PAIRS)), factor)
    odd = b.mul(b.lshr(pairs, _all(32, _PAIRS)), factor)
    return even, odd


def _take(b: ir.IRBuilder, products: tuple[ir.Value, ir.Value], half: int) -> ir.Value:
    """The high (odd) or low (even) halves of all products; the order of lanes changes as the module says."""
    lanes = [i for q in range(0, LANES, 4) for i in (q, q + 2, LANES + q, LANES + q + 2)]
    even, odd = (b.bitcast(p, _WORDS) for p in products)
    return b.shuffle_vector(even, odd, ir.Constant(_WORDS, [_I32(i + half) for i in lanes]))


def _rounds(
    b: ir.IRBuilder, low: ir.Value, first: ir.Value, key: ir.Value, dom: ir.Value
) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value]:
    """Ten rounds of the counters (low, high half of first, domain). A scalar here is the same word in every lane."""
    (k0, k1), (dom_low, dom_high) = _halves(b, key), _halves(b, dom)
    n_high = _halves(b, first)[1]

    products = _products(b, low, M0)
    c3 = b.mul(low, _all(M0))
    s1, s0 = _halves(b, b.mul(b.zext(dom_low, _I64), _I64(M1)))
    s0 = b.xor(b.xor(s0, n_high), k0)
    c2 = b.xor(_take(b, products, _ODD), _splat(b, b.xor(dom_high, k1)))

    k0, k1 = b.add(k0, _I32(W0)), b.add(k1, _I32(W1))
    s3, s2 = _halves(b, b.mul(b.zext(s0, _I64), _I64(M0)))
    products = _products(b, c2, M1)
    c0, c1 = b.xor(_take(b, products, _ODD), _splat(b, b.xor(s1, k0))), b.mul(c2, _all(M1))
    c2, c3 = b.xor(c3, _splat(b, b.xor(s2, k1))), _splat(b, s3)

    for number in range(3, 11):
        k0, k1 = b.add(k0, _I32(W0)), b.add(k1, _I32(W1))
        p1, p0 = _products(b, c2, M1), _products(b, c0, M0)
        if number < 10:
            low1, low0 = b.mul(c2, _all(M1)), b.mul(c0, _all(M0))
        else:  # all four words must end in one order, the natural one
            low1, low0 = _take(b, p1, _EVEN), _take(b, p0, _EVEN)
        c0 = b.xor(_take(b, p1, _ODD), b.xor(c1, _splat(b, k0)))
        c2 = b.xor(_take(b, p0, _ODD), b.xor(c3, _splat(b, k1)))
        c1, c3 = low1, low0
    return c0, c1, c2, c3


def each_plane(
    b: ir.IRBuilder,
    block: ir.Value,
    key: ir.Value,
    dom: ir.Value,
    put: Callable[[ir.IRBuilder, ir.Value, ir.Value], None],
) -> None:
    """Write a loop that makes a block of words, `LANES` at a time, and gives them to `put`, which writes what follows.

    Args:
        b: inside a function whose frame is aligned for vectors.
        block, key, dom: 64 bits each.
        put: its arguments are the builder, words, and which of the block the first of them is, an integer of 64 bits.
    """
    first = b.mul(block, _I64(PLANE))
    lanes = ir.Constant(_WORDS, [_I32(i) for i in range(LANES)])
    with cgutils.for_range(b, _I64(PLANE // LANES)) as loop:
        j = b.mul(loop.index, _I64(LANES))
        low = b.add(_splat(b, b.trunc(b.add(first, j), _I32)), lanes)
        for plane, words in enumerate(_rounds(b, low, first, key, dom)):
            put(b, words, b.add(j, _I64(PLANE * plane)))


def vector_function(module: ir.Module, name: str, kinds: Sequence[ir.Type], write: Callable[..., None]) -> ir.Function:
    """Return a function of a module, which has it once; `write` gets a builder and the arguments."""
    if name in module.globals:
        return module.globals[name]
    fn = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    fn.attributes.alignstack = 64  # what does not fit into the registers is kept there in whole vectors
    b = ir.IRBuilder(fn.append_basic_block("entry"))
    write(b, *fn.args)
    b.ret_void()
    return fn


def _write_words(b: ir.IRBuilder, block: ir.Value, key: ir.Value, dom: ir.Value, address: ir.Value) -> None:
    def put(b: ir.IRBuilder, words: ir.Value, place: ir.Value) -> None:
        store_at(b, words, b.add(address, b.mul(place, _I64(4))), 4)

    each_plane(b, block, key, dom, put)


@intrinsic
def _words_at(context, block, key, dom, address):  # type: ignore[no-untyped-def]
    def generate(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        name = "fedmrn.numerics.philox.words"
        b.call(vector_function(b.module, name, [_I64] * 4, _write_words), args)
        return context.get_dummy_value()

    return types.none(types.uint64, types.uint64, types.uint64, types.uint64), generate


def check_vector(out: NDArray[Any], kind: type[np.generic]) -> None:
    """Check that a vector is one that the kernels can fill.

    Raises:
        ValueError: it is not a contiguous, writeable vector of this type.
    """
    if out.dtype != kind or out.ndim != 1 or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError(f"a contiguous, writeable vector of {np.dtype(kind)} is needed, got {out.dtype} {out.shape}")


def _words(key, dom, block, out):  # type: ignore[no-untyped-def]
    """Fill one block as the definition says; compiled code runs the vector kernel above instead."""
    first = np.uint64(block) * np.uint64(PLANE)
    low, half = np.uint64(_LOW), np.uint64(32)
    for j in range(PLANE):
        n = first + np.uint64(j)
        c0, c1, c2, c3 = n & low, n >> half, dom & low, dom >> half
        k0, k1 = key & low, key >> half
        for _ in range(10):
            p0, p1 = c0 * np.uint64(M0), c2 * np.uint64(M1)
            c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ k0, p1 & low, (p0 >> half) ^ c3 ^ k1, p0 & low
            k0, k1 = (k0 + np.uint64(W0)) & low, (k1 + np.uint64(W1)) & low
        out[j], out[PLANE + j], out[2 * PLANE + j], out[3 * PLANE + j] = c0, c1, c2, c3


@overload(_words)
def _words_compiled(key, dom, block, out):  # type: ignore[no-untyped-def]
    def vectors(key, dom, block, out):  # type: ignore[no-untyped-def]
        _words_at(np.uint64(block), key, dom, np.uint64(out.ctypes.data))  # type: ignore[call-arg]

    return vectors


@compiled()
def philox_block(key, dom, block, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Fill out[0:1024] (uint32, contiguous) with one block of words; key and dom are uint64."""
    _words(key, dom, block, out)  # type: ignore[no-untyped-call]


@compiled(inline="always")
def words_from(key, dom, start, done, size, buffer):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Make the next words of a walk over elements start, start + 1, ..., start + size - 1, of which `done` are done.

    Args:
        key, dom: uint64.
        start, done, size: int; done < size.
        buffer: uint32, shape (BLOCK,), contiguous; overwritten.

    Returns:
        words, of which word i is that of element start + done + i, and how many elements are done after them.
    """
    block = (start + done) // BLOCK
    skip = start + done - block * BLOCK
    philox_block(key, dom, block, buffer)
    return buffer[skip:], done + min(BLOCK - skip, size - done)
