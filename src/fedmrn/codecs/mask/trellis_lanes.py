"""The vector parts of the search in a trellis: scores of 32 labels at a time, and a path bit's step of 16 states.

A label's candidate bit is a comparison of 16-bit numbers: ((l * a + c) >> 8) mod 256 < k says that (l * a + c) mod 2^16
is below 256 k. From one vector of labels to the next, l * a + c grows by a constant. So an element costs an addition,
a comparison, a selection and an addition for each vector. Arrays are padded: vectors are always whole.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from fedmrn.numerics.compiled import cgutils, intrinsic, types
from fedmrn.numerics.vectors import in_all, load_at, splat, store_at

LABELS, STATES = 32, 16
"""How many labels, and how many states of each half, go side by side."""
PADDING = 2 * LABELS
"""Places beyond the last label or state that may be read and written."""

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)


def _places(places: range | list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(_I32, len(places)), [_I32(i) for i in places])


def _scorer(elements: int, *, onto: bool) -> Any:
    """Return a function that works on so many elements at a time."""
    kind = ir.VectorType(_I16, LABELS)
    lanes, zeros = (ir.Constant(kind, [_I16(i * k) for i in range(LABELS)]) for k in (1, 0))

    def generate(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        numbers, rows, branch, vectors = args
        walks = []
        for i in range(elements):
            places = (b.add(b.add(numbers, b.mul(rows, _I64(2 * k))), _I64(2 * i)) for k in range(4))
            a, c, below, score = (b.load(b.inttoptr(place, _I16.as_pointer())) for place in places)
            start = b.add(b.mul(splat(b, a, LABELS), lanes), splat(b, c, LABELS))
            stride = b.mul(splat(b, a, LABELS), ir.Constant(kind, [_I16(LABELS)] * LABELS))
            here = cgutils.alloca_once_value(b, start)  # type: ignore[no-untyped-call]
            walks.append((here, stride, splat(b, below, LABELS), splat(b, score, LABELS)))
        with cgutils.for_range(b, vectors) as loop:
            at = b.add(branch, b.mul(loop.index, _I64(2 * LABELS)))
            total = load_at(b, at, kind, 2) if onto else None
            for here, stride, below, score in walks:
                x = b.load(here)
                more = b.select(b.icmp_signed("<", x, below), score, zeros)
                total = more if total is None else b.add(total, more)
                b.store(b.add(x, stride), here)
            store_at(b, total, at, 2)
        return context.get_dummy_value()

    @intrinsic
    def score(context, numbers, rows, branch, vectors):  # type: ignore[no-untyped-def]
        return types.none(types.uint64, types.int64, types.uint64, types.int64), generate

    return score


write_one, write_two, write_three = (_scorer(elements, onto=False) for elements in (1, 2, 3))
"""Write at `branch` the scores of one, two or three elements under each label: (numbers, rows, branch, vectors).

Args:
    numbers: address of the first element's a, int16; c - 2^15, 256 k - 2^15 and the score lie `rows` further each, and
        those of the next element beside them.
    rows: int64.
    branch: address of sums of scores, int16, one a label.
    vectors: how many vectors of labels.
"""
add_two = _scorer(2, onto=True)
"""Add those of two more elements to what is there."""


def _keep(b: ir.IRBuilder, ways: Sequence[ir.Value], new: ir.Value, back: ir.Value, width: int) -> None:
    """Store the better of two ways into each new state, and which it was; the ways into even states come first."""
    which = [b.icmp_signed(">", high, low) for low, high in (ways[:2], ways[2:])]
    kept = [b.select(w, high, low) for w, (low, high) in zip(which, (ways[:2], ways[2:]), strict=True)]
    for part in range(2):  # apart: what the next bit reads is then what was written
        firsts = range(part * STATES // 2, (part + 1) * STATES // 2)
        in_turn = _places([i for h in firsts for i in (h, STATES + h)])
        store_at(b, b.shuffle_vector(*kept, in_turn), b.add(new, _I64(part * STATES * width)), width)
    both = b.bitcast(b.shuffle_vector(*which, _places(range(2 * STATES))), _I32)
    store_at(b, both, back, 4)


def _step(number: ir.IntType) -> Callable[..., Any]:
    width, kind = number.width // 8, ir.VectorType(number, STATES)

    def generate(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        old, branch, new, back, half = args
        base, far = splat(b, load_at(b, old, number, width), STATES), b.mul(half, _I64(width))
        with cgutils.for_range(b, b.udiv(b.add(half, _I64(STATES - 1)), _I64(STATES))) as loop:
            at = b.mul(loop.index, _I64(STATES * width))
            low, high = (b.sub(load_at(b, b.add(x, at), kind, width), base) for x in (old, b.add(old, far)))
            ways = []
            for k, way in enumerate((low, high, low, high)):
                here = b.add(b.add(branch, at), b.mul(far, _I64(k)))
                ways.append(b.add(way, load_at(b, here, kind, width)))
            _keep(b, ways, b.add(new, b.mul(at, _I64(2))), b.add(back, b.mul(loop.index, _I64(4))), width)
        return context.get_dummy_value()

    return generate


def _stepper(elements: int) -> Any:
    """Return a function that takes a path bit of so many elements: their scores are in no memory."""
    kind = ir.VectorType(_I16, STATES)
    lanes, zeros = (ir.Constant(kind, [_I16(i * k) for i in range(STATES)]) for k in (1, 0))

    def generate(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        numbers, rows, old, new, back, half = args
        far, base, walks = b.mul(half, _I64(2)), splat(b, load_at(b, old, _I16, 2), STATES), []
        places_of = [splat(b, b.mul(b.trunc(half, _I16), _I16(k)), STATES) for k in range(4)]
        for i in range(elements):
            places = (b.add(b.add(numbers, b.mul(rows, _I64(2 * k))), _I64(2 * i)) for k in range(4))
            a, c, below, score = (b.load(b.inttoptr(place, _I16.as_pointer())) for place in places)
            a = splat(b, a, STATES)
            here = cgutils.alloca_once_value(b, b.add(b.mul(a, lanes), splat(b, c, STATES)))  # type: ignore[no-untyped-call]
            more = [b.mul(a, further) for further in places_of]
            stride = b.mul(a, in_all(kind, STATES))
            walks.append((here, more, stride, splat(b, below, STATES), splat(b, score, STATES)))
        with cgutils.for_range(b, b.udiv(b.add(half, _I64(STATES - 1)), _I64(STATES))) as loop:
            at = b.mul(loop.index, _I64(2 * STATES))
            ways = [b.sub(load_at(b, b.add(x, at), kind, 2), base) for x in (old, b.add(old, far))] * 2
            for here, more, stride, below, score in walks:
                x = b.load(here)
                for k in range(4):
                    taken = b.icmp_signed("<", b.add(x, more[k]) if k else x, below)
                    ways[k] = b.add(ways[k], b.select(taken, score, zeros))
                b.store(b.add(x, stride), here)
            _keep(b, ways, b.add(new, b.mul(at, _I64(2))), b.add(back, b.mul(loop.index, _I64(4))), 2)
        return context.get_dummy_value()

    @intrinsic
    def step(context, numbers, rows, old, new, back, half):  # type: ignore[no-untyped-def]
        address, count = types.uint64, types.int64
        return types.none(address, count, address, address, address, count), generate

    return step


@intrinsic
def step_narrow(context, old, branch, new, back, half):  # type: ignore[no-untyped-def]
    """Take one path bit: each new state keeps the better of the two ways into it.

    Args:
        old, branch, new: addresses of sums (int16) of states, of scores of labels, and of the states' new sums.
        back: address of a word (uint32) for 16 states s below `half`: bit s % 16 says whether the way into 2 s comes
            from s + half, and bit 16 + s % 16 the same of 2 s + 1.
        half: of the number of states.
    """
    address, count = types.uint64, types.int64
    return types.none(address, address, address, address, count), _step(_I16)


@intrinsic
def step_wide(context, old, branch, new, back, half):  # type: ignore[no-untyped-def]
    """Do the same with int32."""
    address, count = types.uint64, types.int64
    return types.none(address, address, address, address, count), _step(_I32)


step_one, step_two, step_three = (_stepper(elements) for elements in (1, 2, 3))
"""Take a path bit of one, two or three elements: (numbers, rows, old, new, back, half)."""
