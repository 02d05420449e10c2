"""What the machine can do at best, measured beside what is to be judged: copies, multiplications, matrix products."""

from functools import partial
from pathlib import Path

import numba as nb
import numpy as np
import torch
from harness import Case

MULTIPLICATIONS_A_WORD = 5
"""Of Philox4x32-10: ten rounds, two 32-bit multiplications with 64-bit products each, four words."""
_SIDE = 512


def flags() -> list[str]:
    """Return what the processor can do, in the system's words; empty where the system does not tell."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split() for line in lines if line.startswith("flags")), [])


def by_width(wide: float, narrow: float) -> float:
    """Return the first for a processor with vectors of 512 bits, the second for others."""
    return wide if "avx512f" in flags() else narrow


@nb.njit(cache=True, nogil=True)
def _multiply(words, times):  # type: ignore[no-untyped-def]
    factor, half = np.uint64(0xD2511F53), np.uint64(32)
    for _ in range(times):
        for i in range(words.size):
            x = words[i]  # ten in a row without a store between; the processor works on several words at a time
            x = (x >> half) * factor
            x = (x >> half) * factor
            x = (x >> half) * factor
            x = (x >> half) * factor
            x = (x >> half) * factor
            x = (x >> half) * factor
            x = (x >> half) * factor
            x = (x >> half) * factor
            x = (x >> half) * factor
            words[i] = (x >> half) * factor


def multiplications(elements: int) -> Case:
    """Return a case that does as many widening multiplications as the noise of so many elements needs, in cache.

    Nothing is moved between the lanes of a vector, so that this is near what the multipliers can do.
    """
    words = np.arange(1, 2049, dtype=np.uint64)
    return partial(_multiply, words, max(1, MULTIPLICATIONS_A_WORD * elements // (10 * words.size)))


def copy(elements: int) -> Case:
    """Return a case that copies so many float32."""
    return partial(np.copyto, np.zeros(elements, np.float32), np.ones(elements, np.float32))


def products(operations: int) -> Case:
    """Return a case that does so many floating-point operations (2 a multiply-add) in matrix products of torch."""
    a, b, out = (torch.full((_SIDE, _SIDE), 1 / _SIDE) for _ in range(3))
    times = max(1, round(operations / (2 * _SIDE**3)))

    def run() -> None:
        for _ in range(times):
            torch.mm(a, b, out=out)

    return run
