"""The whole codec around the transform: Rotated(1), encode and decode."""

from functools import partial

import numpy as np
from hadamard import Vector, fast, rounding
from harness import Agreement, Benchmark, Case

from fedmrn.codecs import EncodeKeys, Rotated
from fedmrn.numerics.rotation import LARGEST

KEYS = EncodeKeys(noise=1, sampling=2)


def codec(x: Vector) -> Benchmark:
    """Build the benchmark of Rotated(1); its scale makes <x, decoded> = |x|^2 but for rounding, which is the check."""
    rotated, work, block = Rotated(1), x.copy(), min(LARGEST, x.size)
    body = rotated.encode(x, KEYS)
    cases: dict[str, Case] = {
        "encode": lambda: rotated.encode(x, KEYS),
        "decode": lambda: rotated.decode(body, x.size, KEYS.noise),
        "transform": partial(fast, work, block),
        "copy": partial(np.copyto, np.zeros_like(x), x),
    }

    def check() -> dict[str, Agreement]:
        exact, decoded = x.astype(np.float64), rotated.decode(body, x.size, KEYS.noise).astype(np.float64)
        norms = np.linalg.norm(exact) * np.linalg.norm(decoded)
        # A level keeps the 2-norm but for u, in either direction; four such errors meet, and those of scale and level.
        tolerance = rounding(5 * (block.bit_length() + 1))
        return {"decode": Agreement(float(abs(exact @ decoded - exact @ exact) / norms), tolerance)}

    name = f"Rotated(1), 2^{x.size.bit_length() - 1} elements"
    return Benchmark(name, x.size, cases, ("copy", "transform"), check, partial(np.copyto, work, x))
