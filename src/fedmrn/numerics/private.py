"""The Poisson binomial mechanism with one trial, client's side: one biased bit an element.

Chen, Ozgur, Kairouz, "The Poisson Binomial Mechanism for Unbiased Federated Learning with Secure Aggregation", ICML
2022, arXiv 2207.09916. It is a signed mask over Bernoulli noise n = +-scale, of a clipped update:

    p = 1/2 + u / (2 n),  |u| <= 2 theta scale,  so that  1/2 - theta <= p <= 1/2 + theta

The bit is drawn by comparing whole numbers of 32 bits: its probability is a multiple of 2^-32 between those bounds, and
no rounding of floats can leave them.
"""

import os
from dataclasses import dataclass
from hashlib import shake_256

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import ConfigError, EncodeError
from fedmrn.numerics.noise import Law, NoiseSpec

LARGEST_THETA = 0.25
_PIECE = 1 << 18  # elements that are drawn at a time
_HALF = 1 << 31


@dataclass(frozen=True, slots=True)
class Dice:
    """Random words of 32 bits from a cryptographic generator.

    Attributes:
        key: None for the operating system's generator, which is what privacy needs. A simulation gives an unsigned
            64-bit key, and gets words of SHAKE-256 that repeat: whoever knows the key knows the dice.
    """

    key: int | None = None

    def words(self, piece: int, count: int) -> NDArray[np.uint32]:
        """Return `count` words for a piece of a vector, uint32; with a key a function of (key, piece)."""
        size = 4 * count
        if self.key is None:
            data = os.urandom(size)
        else:
            seed = b"fedmrn private mask" + self.key.to_bytes(8, "little") + piece.to_bytes(8, "little")
            data = shake_256(seed).digest(size)
        return np.frombuffer(data, "<u4")


def check_theta(theta: float) -> None:
    """Refuse a theta that is not above 0, or above 1/4.

    Raises:
        ConfigError: it is.
    """
    if not 0 < theta <= LARGEST_THETA:
        raise ConfigError(f"theta is 0 (off) or above it, and at most {LARGEST_THETA}, got {theta:g}")


def draw_private(u: NDArray[np.float32], noise: NDArray[np.float32], theta: float, dice: Dice) -> NDArray[np.bool_]:
    """Return the signed mask of a clipped update, bool, shape (k,): the mean of n (2 mask - 1) is the clipped u.

    Args:
        u: the update, finite, float32, shape (k,).
        noise: +-scale, float32, shape (k,), scale > 0.
        theta: how far a bit's probability may be from 1/2, above 0, at most 1/4.
        dice: what is thrown.

    Raises:
        ConfigError: theta is out of its range.
        EncodeError: u is not finite.
    """
    check_theta(theta)
    if not np.isfinite(u).all():
        raise EncodeError("a private mask needs a finite update")
    mask = np.empty(u.size, np.bool_)
    most = int(theta * 2.0**32)
    for piece, start in enumerate(range(0, u.size, _PIECE)):
        part = slice(start, min(start + _PIECE, u.size))
        aim = np.clip(u[part].astype(np.float64) / noise[part] * _HALF, -most, most)
        threshold = (_HALF + np.rint(aim)).astype(np.int64)
        mask[part] = dice.words(piece, threshold.size) < threshold
    return mask


def private_codewords(
    u: NDArray[np.float32], spec: NoiseSpec, key: int, theta: float, dice: Dice
) -> NDArray[np.float32]:
    """Return +-n of a private mask of an update, float32, of its shape: a codec finds nothing to throw dice for.

    Args:
        u: the update, finite, float32, shape (d,).
        spec: of the noise; its law is Bernoulli.
        key: of the noise.
        theta, dice: as for `draw_private`.

    Raises:
        ConfigError, EncodeError: as `draw_private`, or the noise has another law.
    """
    if spec.law is not Law.BERNOULLI:
        raise ConfigError("private masks are over Bernoulli noise")
    noise = np.empty(u.size, np.float32)
    spec.fill(key, 0, noise)
    return np.where(draw_private(u, noise, theta, dice), noise, -noise)
