"""Philox4x32-10: random words as a pure function of (key, domain, index).

A `Stream` is a (64-bit key, 64-bit domain) pair. Element i of a stream is found like this, with J = 256:

    block, within = divmod(i, 4 * J)         plane, j = divmod(within, J)
    counter n = block * J + j                as two 32-bit words, low first
    word    = philox4x32_10(counter = (n_low, n_high, domain_low, domain_high), key = (key_low, key_high))[plane]

One call of the generator gives four words, and they land in four *planes* of a block instead of in four neighbours:
consecutive elements of a plane then come from consecutive counters, and the loop over them vectorises
(`fedmrn.numerics.philox`). Any range of a stream can be made without the elements before it.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11 (Random123).
"""

import secrets
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from operator import index
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from fedmrn.numerics.compiled import compiled
from fedmrn.numerics.philox import BLOCK, philox_block

_2P24 = np.float32(2.0**-24)


class Purpose(IntEnum):
    """What a stream is for: the high half of its domain. Numbers are part of the wire format; never reuse one."""

    NOISE = 1
    TRAIN_MASK = 2
    FINAL_MASK = 3
    SHUFFLE = 4
    AUGMENT = 5
    CLIENTS = 6
    ROTATION = 7
    QUANTISE = 8
    FROZEN = 9
    EVALUATE = 10
    CODEBOOK = 11
    SCORES = 12


def domain(purpose: Purpose, index: int = 0) -> int:
    """Return the 64-bit domain of a purpose and a 32-bit index (a step, an epoch, a round)."""
    return (int(purpose) << 32) | (index & 0xFFFFFFFF)


@compiled()
def _fill_words(key, dom, start, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    words = np.empty(BLOCK, np.uint32)
    done = 0
    while done < out.size:
        block = (start + done) // BLOCK
        skip = start + done - block * BLOCK
        take = min(BLOCK - skip, out.size - done)
        if take == BLOCK:
            philox_block(key, dom, block, out[done : done + take])
        else:
            philox_block(key, dom, block, words)
            w, o = words[skip:], out[done : done + take]
            for i in range(take):  # assigning a slice would take two seconds more to compile
                o[i] = w[i]
        done += take


@dataclass(frozen=True, slots=True)
class Stream:
    """A random sequence without state: the same (key, domain) always gives the same words, in any order of access."""

    key: int
    domain: int

    def __post_init__(self) -> None:
        if not 0 <= self.key < 1 << 64 or not 0 <= self.domain < 1 << 64:
            raise ValueError("the key and the domain of a stream are unsigned 64-bit integers")

    def words(self, start: int, stop: int) -> NDArray[np.uint32]:
        """Return elements start..stop-1 as uint32, shape (stop - start,).

        Raises:
            ValueError: unless 0 <= start <= stop < 2^63.
        """
        if not 0 <= start <= stop < 1 << 63:
            raise ValueError(f"a range of a stream needs 0 <= start <= stop < 2^63, got {start}..{stop}")
        out = np.empty(stop - start, np.uint32)
        _fill_words(np.uint64(self.key), np.uint64(self.domain), start, out)
        return out

    def uniform(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return elements start..stop-1 as float32 multiples of 2^-24 in [0, 1), shape (stop - start,)."""
        top: NDArray[np.float32] = (self.words(start, stop) >> np.uint32(8)).astype(np.float32)
        return top * _2P24

    def permutation(self, n: int) -> NDArray[np.int64]:
        """Return a random order of 0..n-1, int64, shape (n,): the sorting order of n 64-bit draws."""
        return np.argsort(self.words(0, 2 * n).view(np.uint64), kind="stable").astype(np.int64)


def derive_key(secret: SupportsIndex | bytes, *labels: SupportsIndex | str) -> int:
    """Return a 64-bit key: keyed BLAKE2b of the labels under the secret.

    Args:
        secret: up to 64 bytes, or a non-negative integer below 2^512 (its little-endian bytes).
        labels: what the key is for, such as ("noise", round, client); their types and lengths are hashed too. NumPy's
            integers are the integers that they equal.

    Raises:
        ValueError: if the secret is longer than 64 bytes or negative.
    """
    if not isinstance(secret, bytes):
        number = index(secret)
        if number < 0:
            raise ValueError("a secret is a non-negative integer")
        secret = number.to_bytes(max(1, (number.bit_length() + 7) // 8), "little")
    if len(secret) > blake2b.MAX_KEY_SIZE:
        raise ValueError("a secret has at most 64 bytes")
    digest = blake2b(key=secret, digest_size=8, person=b"fedmrn-key")
    for label in labels:
        tag, text = (b"s", label) if isinstance(label, str) else (b"i", str(index(label)))
        data = text.encode()
        digest.update(tag + len(data).to_bytes(4, "little") + data)
    return int.from_bytes(digest.digest(), "little")


def fresh_key() -> int:
    """Return a 64-bit key from the operating system's entropy."""
    return secrets.randbits(64)
