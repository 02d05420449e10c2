"""Servers and clients that lie: what is refused, and how small a sum a server gets by lists that all differ."""

from collections.abc import Collection
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from secure_sums import Sums, numbers, plain_sum, small

from fedmrn.errors import (
    ConfigError,
    FrameError,
    MalformedFrameError,
    RefusedRevealError,
    UntrustedKeyError,
    WrongRoundError,
)
from fedmrn.secure import SumMember
from fedmrn.secure.keys import PublicKeys, public_of
from fedmrn.secure.lanes import Lanes
from fedmrn.secure.member import pair_seed, private_of, seed_of
from fedmrn.secure.pads import pad_of, take_off
from fedmrn.secure.records import RecordKind, SumRecord, by_index, listed
from fedmrn.secure.session import Session, least_threshold
from fedmrn.secure.shares import combine_shares

LOW_ORDER = [
    bytes(32),
    bytes([1]) + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes([0xEC]) + bytes([0xFF]) * 30 + bytes([0x7F]),
    bytes([0xED]) + bytes([0xFF]) * 30 + bytes([0x7F]),
    bytes([0xEE]) + bytes([0xFF]) * 30 + bytes([0x7F]),
]
"""Points of X25519 whose order divides 8, as RFC 7748 wants them refused."""


def record(sums: Sums, kind: RecordKind, index: int, body: bytes) -> bytes:
    return SumRecord(kind, index, sums.session.round, sums.session.id, body).to_bytes()


def told(sums: Sums, index: int, stayed: Collection[int]) -> dict[int, bytes]:
    """What a client reveals that is told this list."""
    data = record(sums, RecordKind.SURVIVORS, index, listed(dict.fromkeys(stayed, b"")))
    revealed = sums.members[index].reveal(data)
    return by_index(SumRecord.from_bytes(revealed, RecordKind.REVEALED, 99), sums.session.members)


class Liar:
    """A server that keeps what it is sent, and asks as it likes; it has no helper."""

    def __init__(self, members: int, threshold: int, peers: dict[int, set[int]]) -> None:
        session = Session.begin(7, members, threshold, 16, 0)
        self.sums, self.session = Sums(session).keys().shares(), session
        self.sent: dict[int, Lanes] = {}
        for i, member in self.sums.members.items():
            whole = SumRecord.from_bytes(self.sums.collector.envelopes(i), RecordKind.ENVELOPES, members)
            mine = {j: item for j, item in by_index(whole, members).items() if j in peers.get(i, {j})}
            asked = record(self.sums, RecordKind.ENVELOPES, i, listed(mine))
            data = SumRecord.from_bytes(member.pad(asked, numbers(session, i)), RecordKind.PADDED, session.padded_size)
            self.sent[i] = Lanes.from_bytes(data.body, session)
        self.seeds: dict[int, dict[int, bytes]] = {}
        self.privates: dict[int, dict[int, bytes]] = {}

    def ask(self, index: int, stayed: set[int]) -> None:
        for of, share in told(self.sums, index, stayed).items():
            (self.seeds if of in stayed else self.privates).setdefault(of, {})[index] = share

    def read(self, few: set[int], peers: dict[int, set[int]]) -> Lanes:
        """The sum of a few clients, with all their pads taken off."""
        total, session = Lanes.zeros(self.session), self.session
        for i in few:
            total.add(self.sent[i])
            root = combine_shares(self.seeds[i], session.threshold)
            take_off(total, [pad_of(seed_of(session, i, root), session)], ())
            for j in peers[i] - few:
                private = private_of(session, j, combine_shares(self.privates[j], session.threshold))
                seed = pair_seed(private, self.sums.members[i]._roster[i].pad, session, i, j)
                take_off(total, (), [(i, j, pad_of(seed, session))])
        total.bits[:] &= np.uint8((1 << session.width) - 1)
        return total


def lie(members: int, threshold: int) -> bool:
    """Whether a server without helpers opens client 0, by lists that all differ.

    Client 0 is told that t - 1 others shared, the first ones; their private keys are what is missing. All others are
    told that client 0 stayed, and that as many of those did not as they believe, never themselves.
    """
    first = set(range(1, threshold))
    liar = Liar(members, threshold, {0: first})
    missing = dict.fromkeys(first, 0)
    liar.ask(0, {0} | first)
    for i in range(1, members):
        gone = sorted(first - {i}, key=lambda j: missing[j])[: members - threshold]
        for j in gone:
            missing[j] += 1
        liar.ask(i, set(range(members)) - {*gone})
    if min(missing.values()) < threshold:
        return False
    found = liar.read({0}, {0: first})
    assert found.bits.tolist() == numbers(liar.session, 0).bits.tolist()
    return True


@pytest.mark.parametrize("members", [4, 5, 6, 7, 8, 9, 10, 12])
def test_no_client_is_opened_by_lists_that_differ(members: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more than half as the threshold it would be; from the least threshold on it is not."""
    least = least_threshold(members)
    monkeypatch.setattr("fedmrn.secure.session.least_threshold", lambda n: n // 2 + 1)
    thresholds = range(members // 2 + 1, members + 1)
    assert [t for t in thresholds if not lie(members, t)] == list(range(least, members + 1))


def told_apart(n: int, t: int) -> bool:
    """Whether some lists, of all that there are, open client 0: by brute force over what each client believes gone."""

    def lists(index: int, peers: set[int]) -> list[set[int]]:
        others = peers - {index}
        return [{*gone} for size in range(len(peers) + 1 - t) for gone in combinations(sorted(others), size)]

    for size in range(t - 1, n):
        for first in combinations(range(1, n), size):
            for gone in product(lists(0, {0, *first}), *(lists(i, set(range(n))) for i in range(1, n))):
                seeds = sum(0 not in each for each in gone)
                if seeds >= t and all(sum(j in each for each in gone) >= t for j in first):
                    return True
    return False


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_the_least_threshold_by_brute_force(n: int) -> None:
    opened = [t for t in range(n // 2 + 1, n + 1) if told_apart(n, t)]
    assert opened == list(range(n // 2 + 1, least_threshold(n)))
    assert (n == 5) == bool(opened), "of five, three could be told so that one is open"


def test_the_smallest_sum() -> None:
    found = {(n, t, c): Session.begin(1, n, t, 1, 0).smallest(c) for n, t, c in SMALLEST}
    assert found == SMALLEST
    for n in (10, 100, 1000):
        for t in range(least_threshold(n), n + 1):
            session = Session.begin(1, n, t, 1, 0)
            assert 2 <= session.smallest(0) <= t
            assert session.smallest(max(0, 2 * t - n)) == 1, "as many helpers give both shares of a client"


def test_a_client_says_how_small_a_sum_may_be() -> None:
    """How many are asked and how many must stay is the server's word: one that lies asks few, or takes few."""
    for members, threshold, least in ((2, 2, 3), (10, 7, 8), (10, 9, 9)):
        setup = Session.begin(1, members, threshold, 8, 0).setup(0)
        with pytest.raises(RefusedRevealError, match=f"of this round's {members} clients .* takes part .* of {least}"):
            SumMember.begin(setup, least=least)
    SumMember.begin(Session.begin(1, 10, 9, 8, 0).setup(0), least=8)
    few = Session.begin(1, 100, 67, 8, 0, 36, 11).setup(0)
    SumMember.begin(few, colluding=0.1, least=67)
    with pytest.raises(RefusedRevealError, match="of 68 or more"):
        SumMember.begin(few, colluding=0.1, least=68)
    SumMember.begin(Session.begin(1, 2, 2, 8, 0).setup(0))
    wrong: tuple[Any, ...] = (1, True, 2.5)
    for one in wrong:
        with pytest.raises(ConfigError, match="least"):
            SumMember.begin(few, colluding=0.1, least=one)


SMALLEST = {
    (10, 7, 0): 3,
    (10, 9, 0): 8,
    (10, 10, 0): 10,
    (10, 7, 1): 2,
    (100, 67, 0): 18,
    (100, 67, 10): 5,
    (100, 80, 10): 45,
    (1000, 667, 0): 168,
    (1000, 800, 100): 443,
}


def test_both_shares_in_two_requests() -> None:
    """The second is refused, whatever it says; of a client that was bytes in between, too."""
    sums = small(4, 3).keys().shares().padded()
    first = told(sums, 0, [0, 1, 2])
    assert set(first) == {0, 1, 2, 3}
    sums.members[0] = SumMember.from_bytes(sums.members[0].to_bytes())
    for stayed in ([0, 1, 2], [0, 1, 3], [0, 1, 2, 3]):
        with pytest.raises(WrongRoundError):
            told(sums, 0, stayed)


def test_a_refused_list_leaves_the_answer_to_a_true_one() -> None:
    sums = small(4, 3).keys().shares().padded()
    for stayed in ([0, 1], [1, 2, 3]):
        with pytest.raises(RefusedRevealError):
            told(sums, 0, stayed)
    assert told(sums, 0, [0, 1, 2])


@pytest.mark.parametrize("indices", [(0, 0, 1, 2), (0, 2, 1), (0, 1, 4)])
def test_lists_with_a_client_twice_out_of_order_or_unknown(indices: tuple[int, ...]) -> None:
    sums = small(4, 3).keys().shares().padded()
    body = b"".join(i.to_bytes(2, "little") for i in indices)
    with pytest.raises(FrameError):
        sums.members[0].reveal(record(sums, RecordKind.SURVIVORS, 0, body))
    data = record(sums, RecordKind.REVEALED, 0, b"".join(i.to_bytes(2, "little") + bytes(16) for i in indices))
    sums.collector.survivors(0)
    with pytest.raises(MalformedFrameError, match="follows client"):
        sums.collector.take_revealed(0, data)


def test_no_key_serves_two_rounds() -> None:
    """All secrets of a client are fresh in each session, even with one nonce; lists of one are none of another."""
    session = Session.begin(7, 3, 2, 11, 3)
    ones, others = Sums(session).keys(), Sums(session).keys()
    shown = [member._roster[member.index] for sums in (ones, others) for member in sums.members.values()]
    assert len({key for keys in shown for key in (keys.envelope, keys.pad)}) == 12
    later = Sums(Session.begin(8, 3, 2, 11, 3)).keys()
    with pytest.raises(WrongRoundError, match="of another session"):
        later.members[0].share(ones.collector.roster(0))
    later.shares()
    ones.shares()
    with pytest.raises(WrongRoundError, match="of another session"):
        later.members[0].pad(ones.collector.envelopes(0), numbers(session, 0))
    later.padded()
    ones.padded()
    with pytest.raises(WrongRoundError, match="of another session"):
        later.members[0].reveal(ones.collector.survivors(0))


def test_one_nonce_in_two_rounds_makes_two_sessions() -> None:
    one, two = (Session(round=r, members=3, threshold=2, bits=8, reals=0, nonce=bytes(16)) for r in (1, 2))
    keys = [(bytes([i]) * 32, public_of(bytes([3 - i]) * 32)) for i in (1, 2)]
    seeds = {pair_seed(private, public, session, 0, 1) for private, public in keys for session in (one, two)}
    assert len(seeds) == 2, "both clients make one seed, and each round another"
    assert seed_of(one, 0, bytes(16)) != seed_of(two, 0, bytes(16))
    assert private_of(one, 0, bytes(16)) != private_of(one, 1, bytes(16)) != seed_of(one, 1, bytes(16))


@pytest.mark.parametrize("at", range(128))
def test_every_bit_of_a_root_counts(at: int) -> None:
    session = Session(round=1, members=3, threshold=2, bits=8, reals=0, nonce=bytes(16))
    root = (1 << at).to_bytes(16, "little")
    assert seed_of(session, 0, root) != seed_of(session, 0, bytes(16))
    assert private_of(session, 0, root) != private_of(session, 0, bytes(16))


def test_a_share_for_another_client_is_none() -> None:
    """An envelope that goes to the wrong client, or comes from another than it says, does not open."""
    sums = small(4, 3).keys().shares()
    envelopes = by_index(SumRecord.from_bytes(sums.collector.envelopes(0), RecordKind.ENVELOPES, 3), 4)
    of_another = by_index(SumRecord.from_bytes(sums.collector.envelopes(1), RecordKind.ENVELOPES, 3), 4)
    for changed in ({1: envelopes[2], 2: envelopes[1]}, {2: of_another[2]}):
        member = SumMember.from_bytes(sums.members[0].to_bytes())
        asked = record(sums, RecordKind.ENVELOPES, 0, listed({**envelopes, **changed}))
        member.pad(asked, numbers(sums.session, 0))
        assert set(member._held) == {1, 2, 3} - changed.keys()
    assert sums.padded().revealed().collector.finish().numbers.bits.tolist() == plain_sum(sums.session, range(4))[0]


@pytest.mark.parametrize("key", LOW_ORDER)
def test_keys_of_low_order(key: bytes) -> None:
    """The server refuses them, so that one client does not stop the others; a client that is told one refuses too."""
    good = public_of(bytes([7]) * 32)
    for keys in (PublicKeys(key, good), PublicKeys(good, key)):
        sums = small(4, 3).keys({3})
        data = record(sums, RecordKind.KEYS, 3, keys.to_bytes() + bytes(32))
        with pytest.raises(UntrustedKeyError, match="low order"):
            sums.collector.take_keys(3, data)
        assert sums.shares().padded().revealed().collector.finish().members == (0, 1, 2)
    sums = small(3, 2).keys()
    lines = {i: member._roster[i].to_bytes() for i, member in sums.members.items()}
    with pytest.raises(UntrustedKeyError, match="low order"):
        sums.members[0].share(
            record(sums, RecordKind.ROSTER, 0, listed({**lines, 2: PublicKeys(key, good).to_bytes()}))
        )


def test_keys_of_another_client() -> None:
    """One that copies keys, or has one for both uses, is left out; it does not stop the others."""
    sums = small(4, 3).keys({3})
    lines = sums.members[0]._roster[0]
    good = public_of(bytes([7]) * 32)
    for keys in (lines, PublicKeys(lines.pad, good), PublicKeys(good, lines.envelope), PublicKeys(good, good)):
        with pytest.raises(UntrustedKeyError, match=r"another one has sent|one key"):
            sums.collector.take_keys(3, record(sums, RecordKind.KEYS, 3, keys.to_bytes() + bytes(32)))
    assert sums.shares().padded().revealed().collector.finish().members == (0, 1, 2)


def test_a_list_with_a_client_in_place_of_another() -> None:
    """A client whose own line is another's, or missing, shares nothing."""
    sums = small(3, 2).keys()
    lines = {i: member._roster[i].to_bytes() for i, member in sums.members.items()}
    for changed in ({1: lines[1], 2: lines[2]}, {**lines, 0: lines[1], 1: lines[0]}):
        with pytest.raises(UntrustedKeyError, match="other keys for this client"):
            sums.members[0].share(record(sums, RecordKind.ROSTER, 0, listed(changed)))
