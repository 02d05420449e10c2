"""The noise that client and server make, against the generators that they would take otherwise; one core.

uniform, gaussian, bernoulli    fedmrn, one call for the whole vector
uniform, ranges                 the same vector in ranges of 16,384 in a random order: random access
torch, uniform                  torch's own generator (Tensor.uniform_), into the same memory
torch, normal                   Tensor.normal_
numpy, Philox                   numpy.random.Generator(Philox), float32 in [0, 1)
multiplications                 the 5 widening multiplications a float32 that Philox4x32-10 needs, alone, in cache
copy                            a copy of the vector
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from harness import Agreement, Benchmark, Case, Goal, Planned
from limits import copy, multiplications

from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.numerics.rng import Purpose, Stream, domain

KEY, RANGE = 0x0123456789ABCDEF, 1 << 14


def noise(elements: int) -> Benchmark:
    """Build the benchmark of so many elements, a multiple of RANGE."""
    out = np.zeros(elements, np.float32)
    shared = torch.from_numpy(out)
    specs = {law.name.lower(): NoiseSpec(law, 0.01) for law in Law}
    starts = np.random.default_rng(1).permutation(elements // RANGE) * RANGE
    other = np.random.Generator(np.random.Philox(KEY))

    def ranges() -> None:
        for start in starts:
            specs["uniform"].fill(KEY, start, out[start : start + RANGE])

    def check() -> dict[str, Agreement]:
        ranges()
        apart = {"uniform, ranges": out - specs["uniform"].chunk(KEY, 0, elements)}
        words = Stream(KEY, domain(Purpose.NOISE)).words(0, elements).astype(np.int64)
        exact = (2 * (words >> 8) + 1 - (1 << 24)).astype(np.float32) * np.float32(specs["uniform"].scale * 2.0**-24)
        apart["uniform"] = specs["uniform"].chunk(KEY, 0, elements) - exact
        return {case: Agreement(float(np.abs(a).max()), 0.0) for case, a in apart.items()}

    cases: dict[str, Case] = {
        **{name: partial(spec.fill, KEY, 0, out) for name, spec in specs.items()},
        "uniform, ranges": ranges,
        "torch, uniform": lambda: shared.uniform_(-0.01, 0.01),
        "torch, normal": lambda: shared.normal_(0, 0.01),
        "numpy, Philox": lambda: other.random(out=out, dtype=np.float32),
        "multiplications": multiplications(elements),
        "copy": copy(elements),
    }
    goals = (Goal("uniform", 0.4), Goal("uniform", 1 / 5, "torch, uniform"), Goal("uniform, ranges", 1.05, "uniform"))
    return Benchmark(
        f"noise, 2^{elements.bit_length() - 1} elements",
        elements,
        cases,
        ("torch, uniform", "uniform", "multiplications", "copy"),
        check,
        goals=goals,
        limit=("multiplications", "multiply rate: 5 widening multiplications"),
    )


def plan(quick: bool) -> Iterator[Planned]:
    """Yield the benchmark."""
    yield (partial(noise, 1 << 16), 3) if quick else (partial(noise, 1 << 22), 21)
