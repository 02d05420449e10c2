"""Noise that client and server make alike, bit for bit: exact float32 values, never zero.

From word w of the stream (noise key, NOISE), see `fedmrn.numerics.rng`:

    uniform     float32(2 * (w >> 8) + 1 - 2^24) * (scale * 2^-24)        odd multiples: exact, symmetric, never 0
    gaussian    TABLE[w >> 20] * scale, negative if bit 19 of w is set     TABLE: 4,096 positive normal quantiles
    bernoulli   scale, negative if bit 31 of w is set

`scale` is a float32; each value is rounded once, so that any IEEE 754 machine gives the same bits. The table is
data, not code: float32 little-endian in `gaussian.bin`, TABLE[i] = Phi^-1(1/2 + (i + 1/2) / 8192), mean square 0.99984.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from hashlib import sha256
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import ConfigError, FedmrnError
from fedmrn.numerics.compiled import compiled
from fedmrn.numerics.philox import BLOCK, check_vector, words_from
from fedmrn.numerics.rng import Purpose, domain
from fedmrn.whole import shown

GAUSSIAN_SHA256 = "e8eb444f05726695700203a75ec7530b3f40d467ad7dfe220ba549b4e3000556"
_DOMAIN = np.uint64(domain(Purpose.NOISE))
_TOP, _ODD = np.uint32(0xFFFFFF00), np.uint32(0x80000080)
# Every noise value and every product of it stays a normal float32 in this range.
SMALLEST_SCALE, LARGEST_SCALE = 2.0**-80, 2.0**80


class Law(IntEnum):
    """The law of the noise; the number is its code on the wire."""

    UNIFORM = 0
    GAUSSIAN = 1
    BERNOULLI = 2


@cache
def gaussian_table() -> NDArray[np.float32]:
    """Return the 4,096 quantiles, float32, shape (4096,), increasing and positive.

    Raises:
        FedmrnError: if the file that ships with the package is damaged.
    """
    data = files("fedmrn.numerics").joinpath("gaussian.bin").read_bytes()
    if sha256(data).hexdigest() != GAUSSIAN_SHA256:
        raise FedmrnError("the file gaussian.bin of this installation is damaged; install fedmrn again")
    return np.frombuffer(data, "<f4").astype(np.float32)


@compiled()
def fill_noise(law, scale, table, key, start, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write elements start, start+1, ... of the noise into `out`, float32; law int, scale float32, key uint64."""
    words = np.empty(BLOCK, np.uint32)  # a block in cache: written in order, `out` goes to memory at its full speed
    unit = scale * np.float32(2.0**-31)
    done = 0
    while done < out.size:
        w, end = words_from(key, _DOMAIN, start, done, out.size, words)
        o = out[done:end]
        if law == 0:
            for i in range(o.size):
                # 2^7 times the odd number above: the first bit flipped, the last seven zero, and a one before them.
                o[i] = np.float32(np.int32((w[i] & _TOP) ^ _ODD)) * unit
        elif law == 1:
            for i in range(o.size):
                sign = np.float32(1 - 2 * np.int32((w[i] >> np.uint32(19)) & np.uint32(1)))  # no branch on chance
                o[i] = table[w[i] >> np.uint32(20)] * scale * sign
        else:
            for i in range(o.size):
                o[i] = scale * np.float32(1 - 2 * np.int32(w[i] >> np.uint32(31)))
        done = end


@dataclass(frozen=True, slots=True)
class NoiseSpec:
    """A noise law and its scale (uniform: half-width; gaussian: standard deviation; bernoulli: magnitude).

    Raises:
        ConfigError: unless 2^-80 <= scale <= 2^80. The scale is rounded to float32.
    """

    law: Law
    scale: float

    def __post_init__(self) -> None:
        if not SMALLEST_SCALE <= self.scale <= LARGEST_SCALE:
            raise ConfigError(f"noise scale {shown(self.scale)} is not usable: choose a positive number such as 0.01")
        object.__setattr__(self, "scale", float(np.float32(self.scale)))
        object.__setattr__(self, "law", Law(self.law))

    @property
    def bound(self) -> float:
        """The largest magnitude that a value of this noise can have."""
        if self.law is Law.GAUSSIAN:
            return float(gaussian_table()[-1] * np.float32(self.scale))
        return self.scale

    def fill(self, key: int, start: int, out: NDArray[np.float32]) -> None:
        """Write elements start, start+1, ... of the noise of a 64-bit key into `out` (float32, any length).

        Raises:
            ValueError: `out` is not a contiguous, writeable float32 vector.
        """
        check_vector(out, np.float32)
        fill_noise(int(self.law), np.float32(self.scale), gaussian_table(), np.uint64(key), start, out)

    def chunk(self, key: int, start: int, stop: int) -> NDArray[np.float32]:
        """Return elements start..stop-1 of the noise of a 64-bit key, float32, shape (stop - start,)."""
        out = np.empty(stop - start, np.float32)
        self.fill(key, start, out)
        return out
