"""Keys: X25519 for secrets of two clients, HKDF for what is made of them, Ed25519 for who they are."""

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedmrn.errors import UntrustedKeyError

SECRET_SIZE = 32
"""Bytes of every private key and seed."""
ROOT_SIZE = 16
"""Bytes of what is shared of a client: a key or a seed is made of it, for one session and one client alone."""
_ANY = bytes(31) + b"\1"
"""A private key of nobody's."""


def new_private() -> bytes:
    """Return a fresh private key of X25519, 32 bytes."""
    return X25519PrivateKey.generate().private_bytes_raw()


def derived(root: bytes, session: bytes, index: int, label: bytes) -> bytes:
    """Return the private key or seed, 32 bytes, that a root of 16 bytes stands for: HKDF-SHA256.

    A guess of a root tells of one client in one session: 128 bits, as many as X25519 has.

    Args:
        root: 16 random bytes.
        session: the id of the session.
        index: of the client whose it is.
        label: the use.
    """
    return HKDF(SHA256(), SECRET_SIZE, salt=session, info=b"fedmrn " + label + index.to_bytes(2, "little")).derive(root)


def public_of(private: bytes) -> bytes:
    """Return the public key of a private key, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def shared_secret(private: bytes, public: bytes, session: bytes, label: bytes) -> bytes:
    """Return what two clients share, 32 bytes: HKDF-SHA256 of X25519, for one session and one use.

    Args:
        private: one's own key.
        public: the other one's.
        session: the id of the session.
        label: the use.

    Raises:
        UntrustedKeyError: the public key is one of those that make every secret the same.
    """
    try:
        secret = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise UntrustedKeyError("a public key is of low order: it makes no secret") from error
    return HKDF(SHA256(), SECRET_SIZE, salt=session, info=b"fedmrn " + label).derive(secret)


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """What a client shows of its keys: 160 bytes.

    Attributes:
        envelope: public key that shares for it are sealed with.
        pad: public key that pads are agreed on with.
        signer: its Ed25519 key; zeros where keys are not signed.
        signature: of session, index and both keys; zeros where they are not signed.
    """

    envelope: bytes
    pad: bytes
    signer: bytes = bytes(32)
    signature: bytes = bytes(64)

    def to_bytes(self) -> bytes:
        """Return the 160 bytes."""
        return self.envelope + self.pad + self.signer + self.signature

    @classmethod
    def from_bytes(cls, data: bytes) -> "PublicKeys":
        """Return the keys in 160 bytes."""
        return cls(data[:32], data[32:64], data[64:96], data[96:160])

    def signed(self, session: bytes, index: int, private: bytes) -> "PublicKeys":
        """Return the keys signed by a private key of Ed25519, 32 bytes."""
        key = Ed25519PrivateKey.from_private_bytes(private)
        signature = key.sign(self._said(session, index))
        return PublicKeys(self.envelope, self.pad, key.public_key().public_bytes_raw(), signature)

    def check(self, session: bytes, index: int, trusted: frozenset[bytes]) -> None:
        """Refuse keys that no trusted key has signed; without any trusted key nothing is asked.

        Raises:
            UntrustedKeyError: says of which client.
        """
        if not trusted:
            return
        if self.signer not in trusted:
            raise UntrustedKeyError(f"the keys of client {index} are not signed by a key that is trusted")
        try:
            Ed25519PublicKey.from_public_bytes(self.signer).verify(self.signature, self._said(session, index))
        except (InvalidSignature, ValueError) as error:
            raise UntrustedKeyError(f"the signature of the keys of client {index} is wrong") from error

    def check_usable(self) -> None:
        """Refuse keys with which nobody could agree on a secret.

        Raises:
            UntrustedKeyError: one is of low order, or both are one.
        """
        if self.envelope == self.pad:
            raise UntrustedKeyError("the two keys of a client are one key")
        for public in (self.envelope, self.pad):
            shared_secret(_ANY, public, b"", b"")

    def _said(self, session: bytes, index: int) -> bytes:
        return b"fedmrn keys" + session + index.to_bytes(2, "little") + self.envelope + self.pad


def check_roster(roster: dict[int, PublicKeys], session: bytes, trusted: frozenset[bytes]) -> None:
    """Refuse a list of clients in which a key stands twice, or one that is not trusted.

    Raises:
        UntrustedKeyError: says which.
    """
    keys = [key for one in roster.values() for key in (one.envelope, one.pad)]
    signers = [one.signer for one in roster.values()]
    if len(set(keys)) < len(keys) or (trusted and len(set(signers)) < len(signers)):
        raise UntrustedKeyError("two clients of the list have one key")
    for index, one in roster.items():
        one.check(session, index, trusted)
