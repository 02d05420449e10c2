"""Shares of a client's two secrets, and the envelopes in which they travel through the server.

Shamir's sharing is pycryptodome's, over GF(2^128): it shares 16 bytes, so that 32 bytes are shared as two halves, each
by a polynomial of its own (its default, not that of the tool ssss, whose polynomials are monic). It combines exactly t.
"""

from collections.abc import Mapping

from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fedmrn.errors import WrongShareError
from fedmrn.secure.keys import SECRET_SIZE

_HALF = 16
_NONCE = bytes(12)  # each key seals one envelope


def split_secret(secret: bytes, threshold: int, members: int) -> list[bytes]:
    """Return a share of 32 bytes for each of n clients; any t of them give the 32 bytes of the secret."""
    halves = [
        Shamir.split(threshold, members, secret[at : at + _HALF], ssss=False) for at in range(0, SECRET_SIZE, _HALF)
    ]
    return [first + second for (_, first), (_, second) in zip(*halves, strict=True)]


def combine_shares(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return the secret, 32 bytes, of the shares of the t clients with the lowest indices.

    Raises:
        WrongShareError: there are fewer than t.
    """
    if len(shares) < threshold:
        raise WrongShareError(f"{len(shares)} shares, and {threshold} are needed")
    used = sorted(shares)[:threshold]
    halves = (slice(0, _HALF), slice(_HALF, SECRET_SIZE))
    return b"".join(bytes(Shamir.combine([(i + 1, shares[i][half]) for i in used], ssss=False)) for half in halves)


def seal(key: bytes, of_seed: bytes, of_private: bytes, said: bytes) -> bytes:
    """Return an envelope of 80 bytes: both shares by ChaCha20-Poly1305, under a key that seals nothing else."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, of_seed + of_private, said)


def unseal(key: bytes, envelope: bytes, said: bytes) -> tuple[bytes, bytes]:
    """Return the shares of the seed and of the private key.

    Raises:
        WrongShareError: the envelope was not made by whom it says, for this client and session.
    """
    try:
        both = ChaCha20Poly1305(key).decrypt(_NONCE, envelope, said)
    except InvalidTag as error:
        raise WrongShareError("an envelope does not open: it is damaged, or not for this client") from error
    return both[:SECRET_SIZE], both[SECRET_SIZE:]
