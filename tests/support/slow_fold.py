"""The fold of masked noise as three kernels do it, one after the other; and a digest of what the fused one gives."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedmrn.numerics.fused import fold_all_masked, fold_masked
from fedmrn.numerics.kernels import apply_mask, fold
from fedmrn.numerics.noise import Law, NoiseSpec

KEY = 0xFEDCBA9876543210
LAWS = [Law.UNIFORM, Law.BERNOULLI]
FACTORS = [2.0**30, 3 * 2.0**51, 5 * 2.0**-20, ((1 << 29) - 1) * 2.0**22, 1.0]
"""Products with values up to 0.3 are below 2^51; some are mostly fractions, and one has as many bits as is allowed."""
SCALES = [0.3, 0.25]


def made(count: int, seed: int, start: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Bits of a mask from element 0 on, and sums of `count` elements."""
    g = np.random.Generator(np.random.Philox(seed))
    bits = g.integers(0, 256, (start + count + 7) // 8).astype(np.uint8)
    return bits, g.integers(-(1 << 60), 1 << 60, count)


def slow_fold(
    spec: NoiseSpec,
    start: int,
    bits: NDArray[np.uint8],
    signed: bool,
    factor: float,
    total: NDArray[np.int64],
    key: int = KEY,
) -> None:
    """Make the noise, choose, and add."""
    stop = start + total.size
    noise, values = spec.chunk(key, 0, stop), np.empty(stop, np.float32)
    apply_mask(noise, bits, signed, values)
    fold(values[start:], factor, True, total)


def fast_fold(
    spec: NoiseSpec, start: int, bits: NDArray[np.uint8], signed: bool, factor: float, total: NDArray[np.int64]
) -> None:
    """Do it all at once."""
    fold_masked(int(spec.law), np.float32(spec.scale), np.uint64(KEY), start, bits, signed, factor, total)


def fold_together(
    spec: NoiseSpec,
    start: int,
    masks: Sequence[NDArray[np.uint8]],
    signed: bool,
    factors: Sequence[float],
    total: NDArray[np.int64],
) -> None:
    """Add several masks at once; that of index i is over the noise of KEY + i."""
    keys = np.array([KEY + i for i in range(len(masks))], np.uint64)
    places = np.array([bits.ctypes.data for bits in masks], np.uint64)
    law, scale, size = int(spec.law), np.float32(spec.scale), masks[0].size
    fold_all_masked(law, scale, keys, start, places, size, signed, np.array(factors), total)


def digest() -> str:
    """Say in few letters what the fused kernel gives."""
    found = hashlib.sha256()
    for law in LAWS:
        for signed in (False, True):
            for k, factor in enumerate(FACTORS):
                bits, total = made(3000, k)
                fast_fold(NoiseSpec(law, 0.3), 0, bits, signed, factor, total)
                found.update(total.tobytes())
            masks = [made(3000, k)[0] for k in range(len(FACTORS))]
            fold_together(NoiseSpec(law, 0.3), 0, masks, signed, FACTORS, total)
            found.update(total.tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    print(digest())  # noqa: T201 - what a test reads
