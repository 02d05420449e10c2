"""Keys that are signed, lists that lie, and vectors of the libraries' primitives as they are used here."""

import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from secure_sums import plain_sum, small

from fedmrn.errors import RefusedRevealError, UntrustedKeyError, WrongShareError
from fedmrn.secure import SumMember
from fedmrn.secure.keys import PublicKeys, public_of, shared_secret
from fedmrn.secure.pads import pad_of
from fedmrn.secure.records import RecordKind, SumRecord, listed
from fedmrn.secure.session import Session
from fedmrn.secure.shares import combine_shares, seal, split_secret, unseal

SIGNERS = [Ed25519PrivateKey.generate() for _ in range(4)]
TRUSTED = frozenset(key.public_key().public_bytes_raw() for key in SIGNERS[:3])


def roster(sums: object, index: int, keys: dict[int, bytes]) -> bytes:
    session = sums.session  # type: ignore[attr-defined]
    return SumRecord(RecordKind.ROSTER, index, session.round, session.id, listed(keys)).to_bytes()


def test_signed_keys_are_enough() -> None:
    sums = small(3, 2)
    for i in range(3):
        sums.members[i], keys = SumMember.begin(sums.collector.setup(i), sign=SIGNERS[i].private_bytes_raw())
        sums.collector.take_keys(i, keys)
    for i in range(3):
        sums.collector.take_shares(i, sums.members[i].share(sums.collector.roster(i), trusted=TRUSTED))
    total = sums.padded().revealed().collector.finish()
    assert total.numbers.bits.tolist() == plain_sum(sums.session, range(3))[0]


@pytest.mark.parametrize("fault", ["unsigned", "stranger", "forged", "twice", "replaced", "short", "one signer"])
def test_lists_that_lie(fault: str) -> None:
    sums, own = small(3, 2), {}
    for i in range(3):
        sums.members[i], record = SumMember.begin(sums.collector.setup(i), sign=SIGNERS[i].private_bytes_raw())
        own[i] = record[32:192]
    session = sums.session.id
    made = PublicKeys(*(public_of(bytes([i]) * 32) for i in (1, 2)))
    error: type[Exception] = UntrustedKeyError
    if fault == "unsigned":
        own[2] = made.to_bytes()
    elif fault == "stranger":
        own[2] = made.signed(session, 2, SIGNERS[3].private_bytes_raw()).to_bytes()
    elif fault == "forged":
        own[2] = own[2][:-1] + bytes([own[2][-1] ^ 1])
    elif fault == "twice":
        own[2] = own[1]
    elif fault == "replaced":
        own[0] = made.signed(session, 0, SIGNERS[2].private_bytes_raw()).to_bytes()
    elif fault == "short":
        own, error = {0: own[0]}, RefusedRevealError
    else:
        own[2] = made.signed(session, 2, SIGNERS[1].private_bytes_raw()).to_bytes()
    with pytest.raises(error):
        sums.members[0].share(roster(sums, 0, own), trusted=TRUSTED)


def test_a_key_of_low_order_is_refused() -> None:
    with pytest.raises(UntrustedKeyError, match="low order"):
        shared_secret(bytes(32), bytes(32), bytes(16), b"pad")


def test_a_secret_is_hkdf_of_x25519() -> None:
    """By RFC 5869 with Python's own HMAC, from either side."""
    one, two, session = bytes(range(32)), bytes(range(32, 64)), bytes(range(16))
    exchanged = X25519PrivateKey.from_private_bytes(one).exchange(X25519PrivateKey.from_private_bytes(two).public_key())
    extracted = hmac.digest(session, exchanged, "sha256")
    expected = hmac.digest(extracted, b"fedmrn pad" + b"\1", "sha256")
    assert shared_secret(one, public_of(two), session, b"pad") == expected
    assert shared_secret(two, public_of(one), session, b"pad") == expected
    assert shared_secret(one, public_of(two), session, b"seal") != expected


def test_a_pad_is_chacha20() -> None:
    """The key stream of zeros is test vector 1 of RFC 8439, appendix A.1."""
    session = Session(round=1, members=3, threshold=2, bits=16, reals=0, nonce=bytes(16))
    assert bytes(pad_of(bytes(32), session).bits).hex() == "76b8e0ada0f13d90405d6ae55386bd28"


def test_shares_of_16_bytes() -> None:
    secret = bytes(range(16))
    shares = dict(enumerate(split_secret(secret, 3, 5)))
    assert {len(share) for share in shares.values()} == {16}
    assert combine_shares({i: shares[i] for i in (4, 0, 2)}, 3) == secret
    assert combine_shares(shares, 3) == secret
    assert combine_shares(shares, 2) != secret
    with pytest.raises(WrongShareError, match="2 shares, and 3 are needed"):
        combine_shares({0: shares[0], 1: shares[1]}, 3)


def test_envelopes_open_for_whom_they_are() -> None:
    sealed = seal(bytes(32), b"a" * 16, b"b" * 16, b"session")
    assert len(sealed) == 48
    assert unseal(bytes(32), sealed, b"session") == (b"a" * 16, b"b" * 16)
    for key, said in ((bytes(31) + b"\1", b"session"), (bytes(32), b"another")):
        with pytest.raises(WrongShareError):
            unseal(key, sealed, said)
