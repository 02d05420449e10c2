"""Contexts of a mask's bits: what both sides know of an element before its bit, its tensor and the bucket of |n|."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import CHUNK
from fedmrn.numerics.compiled import compiled
from fedmrn.numerics.noise import NoiseSpec

_SMALLEST = 64  # elements: a context costs a byte or two


@compiled()
def _buckets(noise, bound, buckets, first, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """|n| / bound in float32, and buckets divide it evenly."""
    many, last = np.float32(buckets), np.int32(buckets - 1)
    for i in range(noise.size):
        out[i] = np.uint32(first) + np.uint32(min(np.int32(abs(noise[i]) / bound * many), last))


@compiled()
def fill_contexts(noise, bound, start, ends, first, buckets, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write the contexts of elements start, start + 1, ... whose noise is given, float32, to `out`, uint32.

    Args:
        bound: float32, the largest magnitude of the noise.
        ends, first, buckets: of the tensors, int64: where each ends, its first context, how many it has.
    """
    tensor = np.searchsorted(ends, start, side="right")
    done = 0
    while done < noise.size:
        end = min(ends[tensor] - start, noise.size)
        _buckets(noise[done:end], bound, buckets[tensor], first[tensor], out[done:end])
        done = end
        tensor += 1


def frequencies(ones: NDArray[np.int64], totals: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return how often a bit is 1 in each context, in 1/256: 1 to 255, or 0 where no element is in it."""
    share = np.rint(ones / np.maximum(totals, 1) * 256).clip(1, 255)
    return np.where(totals > 0, share, 0).astype(np.uint8)


@dataclass(frozen=True)
class Contexts:
    """Which context each element is in; both sides make it from the noise and the sizes of the tensors.

    Attributes:
        spec, key: of the noise.
        ends: where each tensor ends, int64.
        buckets: of each tensor, int64: a small one has few.
    """

    spec: NoiseSpec
    key: int
    ends: NDArray[np.int64]
    buckets: NDArray[np.int64]

    @classmethod
    def of(cls, spec: NoiseSpec, key: int, sizes: NDArray[np.int64], buckets: int) -> "Contexts":
        """Return the contexts of tensors of these sizes, none empty, with at most this many buckets each."""
        return cls(spec, key, np.cumsum(sizes), np.clip(sizes // _SMALLEST, 1, buckets))

    @property
    def size(self) -> int:
        """Elements of all tensors."""
        return int(self.ends[-1]) if self.ends.size else 0

    @property
    def count(self) -> int:
        """How many contexts there are, whether an element is in them or not."""
        return int(self.buckets.sum())

    @property
    def first(self) -> NDArray[np.int64]:
        """The first context of each tensor, int64."""
        return np.cumsum(self.buckets) - self.buckets

    def part(self, start: int, stop: int) -> NDArray[np.uint32]:
        """Return the contexts of elements start..stop-1, uint32; start is a multiple of `CHUNK`."""
        out = np.empty(stop - start, np.uint32)
        for at in range(start, stop, CHUNK):
            noise = self.spec.chunk(self.key, at, min(stop, at + CHUNK))
            self.write(noise, at, out[at - start : at - start + noise.size])
        return out

    def write(self, noise: NDArray[np.float32], start: int, out: NDArray[np.uint32]) -> None:
        """Write the contexts of elements start, start+1, ... whose noise is given; not empty, nor beyond the last."""
        fill_contexts(noise, np.float32(self.spec.bound), start, self.ends, self.first, self.buckets, out)
