"""Shares of a client's two secrets, and the envelopes in which they travel through the server.

Shamir's sharing is pycryptodome's, over GF(2^128): it shares 16 bytes (by its default polynomials, not those of the
tool ssss, which are monic), and combines exactly t shares. It is plain Python: a share takes t products of the field,
and a secret that is put together 2 t^2.
"""

from collections.abc import Mapping

from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fedmrn.errors import WrongShareError
from fedmrn.secure.keys import ROOT_SIZE

_NONCE = bytes(12)  # each key seals one envelope


def split_secret(secret: bytes, threshold: int, holders: int) -> list[bytes]:
    """Return a share of 16 bytes for each of so many holders; any t of them give the 16 bytes of the secret."""
    return [share for _, share in Shamir.split(threshold, holders, secret, ssss=False)]


def combine_shares(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return the secret, 16 bytes, of t of the shares: by place in the list that `split_secret` returned.

    Raises:
        WrongShareError: there are fewer than t.
    """
    if len(shares) < threshold:
        raise WrongShareError(f"{len(shares)} shares, and {threshold} are needed")
    used = sorted(shares)[:threshold]
    return bytes(Shamir.combine([(place + 1, shares[place]) for place in used], ssss=False))


def seal(key: bytes, of_seed: bytes, of_private: bytes, said: bytes) -> bytes:
    """Return an envelope of 48 bytes: both shares by ChaCha20-Poly1305, under a key that seals nothing else."""
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
    return both[:ROOT_SIZE], both[ROOT_SIZE:]
