"""What must never happen, asked of both sides: each answer once, none late, never both secrets, no short seed."""

import numpy as np
import pytest
from secure_sums import Sums, numbers, plain_sum, small

from fedmrn.errors import (
    BelowThresholdError,
    ConfigError,
    DuplicateFrameError,
    LateAnswerError,
    LimitError,
    MalformedFrameError,
    RefusedRevealError,
    UnknownClientError,
    WrongRoundError,
)
from fedmrn.secure import SumMember, pads
from fedmrn.secure.keys import new_private, public_of
from fedmrn.secure.member import pair_seed
from fedmrn.secure.pads import pad_of
from fedmrn.secure.records import RecordKind, SumRecord, listed
from fedmrn.secure.session import Session


def record(sums: Sums, kind: RecordKind, index: int, members: list[int]) -> bytes:
    """A list of clients as a dishonest server may write it."""
    body = listed(dict.fromkeys(members, b""))
    return SumRecord(kind, index, sums.session.round, sums.session.id, body).to_bytes()


def late(sums: Sums, index: int) -> bytes:
    """The padded numbers of a client that has not sent them yet."""
    return sums.members[index].pad(sums.collector.envelopes(index), numbers(sums.session, index))


def test_late_answers_are_refused() -> None:
    sums = small(4, 3).keys({3})
    _, keys = SumMember.begin(sums.collector.setup(3))
    sums.collector.roster(0)
    with pytest.raises(LateAnswerError, match="keys of client 3 came late"):
        sums.collector.take_keys(3, keys)
    sums = small(4, 3).keys()
    shares = {i: sums.members[i].share(sums.collector.roster(i)) for i in range(4)}
    for i in range(3):
        sums.collector.take_shares(i, shares[i])
    sums.collector.envelopes(0)
    with pytest.raises(LateAnswerError, match="shares of client 3"):
        sums.collector.take_shares(3, shares[3])
    sums = small(4, 3).keys().shares()
    padded = {i: late(sums, i) for i in range(4)}
    for i in range(3):
        sums.collector.take_padded(i, padded[i])
    lists = {i: sums.collector.survivors(i) for i in range(3)}
    with pytest.raises(LateAnswerError, match="padded of client 3"):
        sums.collector.take_padded(3, padded[3])
    for i in range(3):
        sums.collector.take_revealed(i, sums.members[i].reveal(lists[i]))
    assert sums.collector.finish().members == (0, 1, 2)
    with pytest.raises(LateAnswerError):
        sums.collector.take_revealed(3, b"")


def test_a_pad_serves_once() -> None:
    """A client that is asked again refuses, even if it was bytes meanwhile: two sums would show their difference."""
    sums = small().keys().shares()
    envelopes = sums.collector.envelopes(0)
    late(sums, 0)
    for member in (sums.members[0], SumMember.from_bytes(sums.members[0].to_bytes())):
        with pytest.raises(WrongRoundError, match="a client answers once in each step"):
            member.pad(envelopes, numbers(sums.session, 0))


def test_pads_of_sessions_pairs_and_clients_differ() -> None:
    """With the same private keys, too: a seed is of one session, and of one pair."""
    sessions = [Session.begin(1, 3, 2, 64, 2) for _ in range(2)]
    one, two = new_private(), new_private()
    seeds = [pair_seed(one, public_of(two), s, i, j) for s in sessions for i, j in ((0, 1), (0, 2), (1, 2))]
    assert len({*seeds}) == 6
    assert len({pad_of(seed, sessions[0]).bits.tobytes() for seed in seeds}) == 6
    assert pair_seed(two, public_of(one), sessions[0], 1, 0) == seeds[0], "both make the same"


def every_bit_of_a_seed_counts() -> bool:
    session, seed = Session.begin(1, 3, 2, 64, 2), bytes(range(32))
    whole = pad_of(seed, session)
    for bit in range(256):
        other = (int.from_bytes(seed, "little") ^ 1 << bit).to_bytes(32, "little")
        found = pad_of(other, session)
        if np.array_equal(found.bits, whole.bits) or np.array_equal(found.reals, whole.reals):
            return False
    return True


def test_a_seed_has_256_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert every_bit_of_a_seed_counts()
    with pytest.raises(ConfigError, match="a seed of 32 bytes, got 4"):
        pad_of(bytes(4), Session.begin(1, 3, 2, 8, 0))
    stream = pads._stream
    monkeypatch.setattr(pads, "_stream", lambda seed, *rest: stream(seed[:4] + bytes(28), *rest))
    assert not every_bit_of_a_seed_counts(), "a 32-bit seed is found"


def test_never_both_secrets_of_a_client() -> None:
    sums = small(4, 3).keys().shares().padded()
    member = sums.members[0]
    copy = SumMember.from_bytes(member.to_bytes())
    first = member.reveal(record(sums, RecordKind.SURVIVORS, 0, [0, 1, 2]))
    with pytest.raises(WrongRoundError):
        member.reveal(record(sums, RecordKind.SURVIVORS, 0, [0, 1, 2, 3]))
    second = copy.reveal(record(sums, RecordKind.SURVIVORS, 0, [0, 1, 2, 3]))
    assert first != second, "this is what a copy of a client's secrets would give away"
    assert len(first) == len(second), "one share of each client, of one kind"


@pytest.mark.parametrize(("stayed", "why"), [([1, 2, 3], "lacks this client"), ([0, 1], "fewer than the threshold")])
def test_what_a_client_does_not_reveal(stayed: list[int], why: str) -> None:
    sums = small(4, 3).keys().shares().padded()
    with pytest.raises(RefusedRevealError, match=why):
        sums.members[0].reveal(record(sums, RecordKind.SURVIVORS, 0, stayed))


def test_nothing_is_revealed_before_numbers_were_sent() -> None:
    sums = small().keys().shares()
    with pytest.raises(WrongRoundError, match="cannot answer revealed now"):
        sums.members[0].reveal(record(sums, RecordKind.SURVIVORS, 0, [0, 1, 2]))


def test_an_answer_is_taken_once_and_from_whom_it_is() -> None:
    sums = small().keys().shares()
    data = late(sums, 0)
    with pytest.raises(WrongRoundError, match="from another client"):
        sums.collector.take_padded(1, data)
    sums.collector.take_padded(0, data)
    with pytest.raises(DuplicateFrameError, match="came already"):
        sums.collector.take_padded(0, data)
    with pytest.raises(UnknownClientError):
        sums.collector.take_padded(3, data)
    other = small().keys().shares()
    other.collector.envelopes(0)
    with pytest.raises(WrongRoundError, match="another session"):
        other.collector.take_padded(0, data)


def test_a_client_that_shared_nothing_is_not_summed() -> None:
    sums = small(4, 3).keys().shares({3})
    sums.collector.envelopes(0)
    body = bytes(sums.session.padded_size)
    data = SumRecord(RecordKind.PADDED, 3, sums.session.round, sums.session.id, body).to_bytes()
    with pytest.raises(UnknownClientError, match="shared nothing"):
        sums.collector.take_padded(3, data)


def test_wrong_shares_lose_the_round() -> None:
    """They do not lead to a wrong sum: seeds were committed to, and private keys have public ones."""
    for gone in ((), (3,)):
        sums = small(4, 3).keys().shares().padded(gone)
        for i in sums.collector.stayed:
            data = bytearray(sums.members[i].reveal(sums.collector.survivors(i)))
            if i == 1:
                data[-1] ^= 1
            sums.collector.take_revealed(i, bytes(data))
        with pytest.raises(BelowThresholdError, match="shares of client 3's"):
            sums.collector.finish()


def test_an_envelope_that_does_not_open_is_done_without() -> None:
    """One client cannot stop the others."""
    sums = small(4, 3).keys()
    for i in range(4):
        data = bytearray(sums.members[i].share(sums.collector.roster(i)))
        if i == 3:
            data[-1] ^= 1  # its envelope for client 2
        sums.collector.take_shares(i, bytes(data))
    assert sums.padded({3}).revealed({0}) is sums
    with pytest.raises(BelowThresholdError):
        sums.collector.finish()
    sums = small(4, 3).keys()
    for i in range(4):
        data = bytearray(sums.members[i].share(sums.collector.roster(i)))
        data[-1] ^= i == 3
        sums.collector.take_shares(i, bytes(data))
    assert sums.padded().revealed().collector.finish().members == (0, 1, 2, 3)


@pytest.mark.parametrize(("members", "threshold"), [(1, 1), (4, 2), (5, 3), (4, 5), (100, 61), (5000, 4000)])
def test_sessions_that_cannot_be(members: int, threshold: int) -> None:
    with pytest.raises(LimitError):
        Session.begin(1, members, threshold, 8, 0)


def test_shares_are_one_for_each_other_client() -> None:
    sums = small().keys()
    sums.collector.roster(0)
    body = listed({1: bytes(48)})
    data = SumRecord(RecordKind.SHARES, 0, sums.session.round, sums.session.id, body).to_bytes()
    with pytest.raises(MalformedFrameError, match="one for each other"):
        sums.collector.take_shares(0, data)


def test_a_sum_is_read_once() -> None:
    """Asked again, a collector would take the pads off a second time, of a sum that somebody holds."""
    sums = small(4, 3).keys().shares().padded({3}).revealed()
    total = sums.collector.finish()
    with pytest.raises(WrongRoundError, match="was read already"):
        sums.collector.finish()
    assert total.numbers.bits.tolist() == plain_sum(sums.session, (0, 1, 2))[0]
    sums = small().keys().shares().padded().revealed({1, 2})
    for _ in range(2):
        with pytest.raises(BelowThresholdError, match="1 of 3 clients answered with revealed"):
            sums.collector.finish()
