"""Pads: what a client adds to its numbers, so that only the sum over clients shows them.

A pad is the stream of ChaCha20 under a seed of 32 bytes that serves one session and one pair of clients, or one client
alone: so one nonce for bits and one for reals will do.
"""

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from fedmrn.errors import ConfigError
from fedmrn.secure.keys import SECRET_SIZE
from fedmrn.secure.lanes import Lanes, lane_type
from fedmrn.secure.session import Session


def pad_of(seed: bytes, session: Session) -> Lanes:
    """Return the pad of a seed, of the shape of the session's numbers.

    Raises:
        ConfigError: the seed has not 32 bytes.
    """
    if len(seed) != SECRET_SIZE:
        raise ConfigError(f"a pad is made from a seed of {SECRET_SIZE} bytes, got {len(seed)}")
    kind = lane_type(session)
    bits = _stream(seed, 0, session.bits * np.dtype(kind).itemsize).view(np.dtype(kind).newbyteorder("<"))
    reals = _stream(seed, 1, 4 * session.reals).view("<u4")
    return Lanes(bits.astype(kind, copy=False), reals.astype(np.uint32, copy=False))


def _stream(seed: bytes, domain: int, size: int) -> NDArray[np.uint8]:
    out = np.zeros(size, np.uint8)
    nonce = bytes(4) + domain.to_bytes(12, "little")  # a counter of 32 bits, and the nonce
    made = Cipher(ChaCha20(seed, nonce), mode=None).encryptor()
    step = 1 << 26
    for at in range(0, size, step):
        out[at : at + step] = np.frombuffer(made.update(out[at : at + step].data), np.uint8)
    return out


def put_on(numbers: Lanes, index: int, own: Lanes, pairs: Iterable[tuple[int, Lanes]]) -> Lanes:
    """Add to a client's numbers its own pad and those that it shares with others; the numbers themselves change.

    Of a pair, the client with the lower index adds the pad and the other one subtracts it.

    Args:
        numbers: of the client.
        index: its index.
        own: the pad of its own seed.
        pairs: index of another client, and the pad of that pair.
    """
    numbers.add(own)
    for other, pad in pairs:
        if index < other:
            numbers.add(pad)
        else:
            numbers.subtract(pad)
    return numbers


def take_off(total: Lanes, own: Iterable[Lanes], left: Iterable[tuple[int, int, Lanes]]) -> Lanes:
    """Take from a sum of padded numbers what did not cancel; the sum itself changes.

    Args:
        total: of the padded numbers that came.
        own: the pads of those clients' own seeds.
        left: (client that answered, client that dropped out, pad of the pair).
    """
    for pad in own:
        total.subtract(pad)
    for stayed, gone, pad in left:
        if stayed < gone:
            total.subtract(pad)
        else:
            total.add(pad)
    return total
