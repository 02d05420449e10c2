"""Ways to multiply each block of a vector by the Hadamard matrix, and by how much rounding may set them apart.

All take and return flat float32 vectors; the blocks are powers of two and divide the length.
"""

from math import prod

import numpy as np
import torch
from harness import Agreement
from numpy.typing import NDArray
from scipy.linalg import hadamard

from fedmrn.numerics.compiled import compiled
from fedmrn.numerics.rotation import walsh_hadamard

Vector = NDArray[np.float32]


@compiled()
def fast(x, block):  # type: ignore[no-untyped-def]
    """Run fedmrn's transform in place on each block; the loop is compiled too, since a call from Python costs more."""
    for start in range(0, x.size, block):
        walsh_hadamard(x[start : start + block])


def stacked(x: torch.Tensor, block: int) -> torch.Tensor:
    """Return the transform by the butterfly as most would write it in torch: a sum, a difference and a stack a level.

    Since the blocks are powers of two, a level is the same for all of them: the vector is seen as pairs of h elements.
    """
    h = 1
    while h < block:
        pairs = x.view(-1, 2, h)
        a, b = pairs[:, 0], pairs[:, 1]
        x = torch.stack((a + b, a - b), dim=1)
        h *= 2
    return x.view(-1)


def buffered(x: torch.Tensor, spare: torch.Tensor, block: int) -> torch.Tensor:
    """Return the transform by a butterfly between x and `spare`, both overwritten: nothing is allocated."""
    h = 1
    while h < block:
        pairs, out = x.view(-1, 2, h), spare.view(-1, 2, h)
        torch.add(pairs[:, 0], pairs[:, 1], out=out[:, 0])
        torch.sub(pairs[:, 0], pairs[:, 1], out=out[:, 1])
        x, spare = spare, x
        h *= 2
    return x


def factors(block: int) -> tuple[int, int]:
    """Return p and q of about the same size with p q = block."""
    p = 1 << (block.bit_length() - 1) // 2
    return p, block // p


def matrix(size: int) -> Vector:
    """Return the Hadamard matrix in natural order, from its definition: the ground truth of the checks."""
    return hadamard(size).astype(np.float32)


def two_products(x: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the transform as H_p X H_q for each block X of p x q, since H_pq is the Kronecker product of H_p and H_q.

    It does more arithmetic than the butterfly, but in matrix products, where processors are at their best.
    """
    p, q = left.shape[0], right.shape[0]
    return (left @ (x.view(-1, q) @ right).view(-1, p, q)).view(-1)


def rounding(*additions: int) -> float:
    """Return how far off, at most, a float32 sum is whose values go through so many additions, over their 1-norm.

    Where each value goes through at most m additions, the sum is off by at most gamma(m) = m u / (1 - m u) times the
    1-norm of the values, u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2). A butterfly
    has m = log2(n), a product with an n x n matrix m = n. Of stages in a row, the factors 1 + gamma multiply.
    """
    u = 2.0**-24
    return prod(1 + m * u / (1 - m * u) for m in additions) - 1


def compare(found: Vector, expected: Vector, x: Vector, block: int, tolerance: float) -> Agreement:
    """Compare two transforms of x, relative to the 1-norm of each block: that is what rounding errors grow with."""
    norms = np.abs(x).reshape(-1, block).sum(axis=1, dtype=np.float64)
    apart = np.abs(found - expected).reshape(-1, block).max(axis=1)
    return Agreement(float((apart / norms).max()), tolerance)
