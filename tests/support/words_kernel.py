"""A kernel around `_philox` alone, which `gpu_kernels` puts into this module as `philox`."""

import triton
import triton.language as tl


@triton.jit
def write(out, draw, block):
    c0, c1, c2, c3 = philox(tl.cast(block, tl.int64), draw)  # noqa: F821
    at = tl.arange(0, 256)
    tl.store(out + at, c0.to(tl.int32, bitcast=True))
    tl.store(out + 256 + at, c1.to(tl.int32, bitcast=True))
    tl.store(out + 512 + at, c2.to(tl.int32, bitcast=True))
    tl.store(out + 768 + at, c3.to(tl.int32, bitcast=True))
