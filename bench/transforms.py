"""The fast Walsh-Hadamard transform, and the codec that uses it, against other ways to compute the same.

  fedmrn              walsh_hadamard of fedmrn.numerics.rotation, in place
  torch, stacked      the butterfly as most would write it in torch: a + b, a - b, stack
  torch, buffered     the same between two buffers, nothing allocated
  two products        H_p X H_q with dense matrices, block = p q (torch): the strongest rival that is easy to write
  dense               one numpy product with the whole Hadamard matrix (blocks up to 4096; the matrix of 65536 would
                      take 16 GiB, and 65536 multiplications an element)
  copy                a copy of the vector: the floor, since any transform must read and write each element

Then Rotated(1), the whole codec: encode and decode of a vector, beside the transform alone.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from hadamard import Vector, buffered, compare, factors, fast, matrix, rounding, stacked, two_products
from harness import Agreement, Benchmark, Case, Planned
from rotated import codec

LARGEST_DENSE = 4096
FULL = [(20, (256, 1024, 4096, 65536), 41), (24, (1024, 4096, 65536), 11)]  # log2(elements), blocks, repetitions
QUICK = [(16, (256, 1024, 65536), 5)]


def transform(x: Vector, block: int) -> Benchmark:
    """Build the benchmark of the transform of x in blocks."""
    work, out = x.copy(), np.zeros_like(x)
    shared, spare = torch.from_numpy(work), torch.from_numpy(out)
    p, q = factors(block)
    left, right = torch.from_numpy(matrix(p)), torch.from_numpy(matrix(q))
    levels = rounding(block.bit_length() - 1)
    rivals: dict[str, Callable[[], Vector | torch.Tensor]] = {
        "torch, stacked": lambda: stacked(shared, block),
        "torch, buffered": lambda: buffered(shared, spare, block),
        "two products": lambda: two_products(shared, left, right),
    }
    tolerances = {"torch, stacked": levels, "torch, buffered": levels, "two products": rounding(p, q)}
    if block <= LARGEST_DENSE:
        whole = matrix(block)
        rivals["dense"] = lambda: np.matmul(work.reshape(-1, block), whole, out=out.reshape(-1, block))
        tolerances["dense"] = rounding(block)
    prepare = partial(np.copyto, work, x)

    def check() -> dict[str, Agreement]:
        fast(work, block)
        ours, found = work.copy(), {}
        for case, tolerance in tolerances.items():
            prepare()
            found[case] = compare(np.asarray(rivals[case]()).reshape(-1), ours, x, block, levels + tolerance)
        prepare()
        return found

    name = f"transform, 2^{x.size.bit_length() - 1} elements in blocks of {block}"
    cases: dict[str, Case] = {
        "fedmrn": partial(fast, work, block),
        **rivals,
        "copy": partial(np.copyto, out, work),
    }
    limit = ("copy", "memory: each element read and written once")
    return Benchmark(name, x.size, cases, ("copy", "torch, stacked"), check, prepare, limit=limit)


def plan(quick: bool) -> Iterator[Planned]:
    """Yield the benchmarks of the transform, and of the codec around it."""
    for log2, blocks, repetitions in QUICK if quick else FULL:
        x = np.random.default_rng(1).standard_normal(1 << log2, dtype=np.float32)
        for build in (*(partial(transform, x, block) for block in blocks), partial(codec, x)):
            yield build, repetitions
