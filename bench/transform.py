"""Time the fast Walsh-Hadamard transform, and the codec that uses it, against other ways to compute the same.

All run on one thread of one process, in turns:

  fedmrn              walsh_hadamard of fedmrn.rotation, in place
  torch, stacked      the butterfly as most would write it in torch: a + b, a - b, stack
  torch, buffered     the same between two buffers, nothing allocated
  two products        H_p X H_q with dense matrices, block = p q (torch): the strongest rival that is easy to write
  dense               one numpy product with the whole Hadamard matrix (blocks up to 4096; the matrix of 65536 would
                      take 16 GiB, and 65536 multiplications an element)
  copy                a copy of the vector: the floor, since any transform must read and write each element

Then Rotated(1), the whole codec: encode and decode of a vector, beside the transform alone. Before anything is timed,
the results must agree within the rounding of float32. The kernel's compilation is timed on its own.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from hadamard import Vector, buffered, compare, compile_seconds, factors, fast, matrix, rounding, stacked, two_products
from harness import Agreement, Benchmark, DisagreementError, measure
from report import machine, show, write
from rich.console import Console
from rotated import codec
from threadpoolctl import threadpool_limits

EXAMPLES = """examples:
  python bench/transform.py                        some minutes; writes bench/results/transform.json
  python bench/transform.py --quick --out t.json   some seconds, to see that it works; the figures mean little
"""
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
    cases = {
        "fedmrn": partial(fast, work, block),
        "torch, stacked": lambda: stacked(shared, block),
        "torch, buffered": lambda: buffered(shared, spare, block),
        "two products": lambda: two_products(shared, left, right),
    }
    tolerances = {"torch, stacked": levels, "torch, buffered": levels, "two products": rounding(p, q)}
    if block <= LARGEST_DENSE:
        whole = matrix(block)
        cases["dense"] = lambda: np.matmul(work.reshape(-1, block), whole, out=out.reshape(-1, block))
        tolerances["dense"] = rounding(block)
    prepare = partial(np.copyto, work, x)

    def check() -> dict[str, Agreement]:
        fast(work, block)
        ours, found = work.copy(), {}
        for case, tolerance in tolerances.items():
            prepare()
            result = np.asarray(cases[case]()).reshape(-1)
            found[case] = compare(result, ours, x, block, levels + tolerance)
        prepare()
        return found

    name = f"transform, 2^{x.size.bit_length() - 1} elements in blocks of {block}"
    cases["copy"] = partial(np.copyto, out, work)
    return Benchmark(name, x.size, cases, ("copy", "torch, stacked"), check, prepare)


def main() -> None:
    """Measure, print the tables, write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes and few repetitions: a smoke test")
    default = Path(__file__).parent / "results" / "transform.json"
    parser.add_argument("--out", type=Path, default=default, help="JSON file; default: bench/results/transform.json")
    options = parser.parse_args()
    out, err = Console(), Console(stderr=True)
    torch.set_num_threads(1)
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with threadpool_limits(1):
            report = {"machine": machine(), "quick": options.quick, **run(QUICK if options.quick else FULL, out, err)}
        write(options.out, report)
    except (DisagreementError, OSError) as error:
        err.print(f"transform.py: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    out.print(f"written: {options.out}", markup=False, highlight=False, soft_wrap=True)


def run(plan: list[tuple[int, tuple[int, ...], int]], out: Console, err: Console) -> dict[str, object]:
    """Run the plan; progress goes to `err`, tables to `out`, as they come."""
    err.print("compiling the kernel", style="dim")
    compiled = compile_seconds()
    out.print(f"compilation of the kernel, once a machine and in no figure below: {compiled:.2f} s", highlight=False)
    measured = []
    for log2, blocks, repetitions in plan:
        x = np.random.default_rng(1).standard_normal(1 << log2, dtype=np.float32)
        for build in (*(partial(transform, x, block) for block in blocks), partial(codec, x)):
            measured.append(measure(build(), repetitions, err))
            show(out, measured[-1])
    return {"compile_seconds": {"walsh_hadamard": compiled}, "measurements": measured}


if __name__ == "__main__":
    main()
