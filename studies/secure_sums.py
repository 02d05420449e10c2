"""Secure sums: bytes a client sends and gets beside a broadcast, and CPU time, measured on real records.

python studies/secure_sums.py bytes 10 100 1000            one client's records, of 1,000,000 parameters
python studies/secure_sums.py bytes 100 1000 --few         the same with as few neighbours as do
python studies/secure_sums.py time 10 100 --few            a client's mean and the server's, in this process
python studies/secure_sums.py neighbours 10 100 1000       how few neighbours do, against which share of helpers
"""

import sys
import time
from contextlib import nullcontext
from unittest.mock import patch

import numpy as np

from fedmrn.secure import Collector, SecureSum, SumMember
from fedmrn.secure.lanes import Lanes, lane_type
from fedmrn.secure.neighbours import fewest, lost_risk, opened_risk
from fedmrn.secure.records import RecordKind, SumRecord, listed
from fedmrn.secure.session import Session

PARAMETERS = 1_000_000
HELPERS = 0.1
WATCHED = 100
"""Clients whose pads are made; of more, the others put on none, and only the server's time is measured for them."""


def session_of(members: int, *, few: bool) -> Session:
    """Return a session of 1,000,000 parameters with the default threshold."""
    setting = SecureSum(colluding=HELPERS if few else None)
    return Session.begin(1, members, setting.needed(members), PARAMETERS, 0, *setting.neighbours(members))


def numbers(session: Session) -> Lanes:
    """Return random bits and no reals."""
    bits = np.random.default_rng(1).integers(0, 2, session.bits).astype(lane_type(session))
    return Lanes(bits, np.zeros(session.reals, np.uint32))


def sizes(members: int, *, few: bool) -> None:
    """Print one client's bytes; of the other clients there are keys only."""
    session = session_of(members, few=few)
    near = session.holders(0)
    setup = session.setup(0)
    began = {i: SumMember.begin(session.setup(i), colluding=HELPERS) for i in near}
    one, keys = began[0]
    roster = SumRecord(RecordKind.ROSTER, 0, 1, session.id, listed({i: k[32:192] for i, (_, k) in began.items()}))
    shares = one.share(roster.to_bytes())
    item = len(shares[32:]) // (len(near) - 1) - 2
    sealed = {i: bytes(item) for i in near if i}
    envelopes = SumRecord(RecordKind.ENVELOPES, 0, 1, session.id, listed(sealed)).to_bytes()
    padded = SumRecord(RecordKind.PADDED, 0, 1, session.id, numbers(session).to_bytes(session)).to_bytes()
    stayed = SumRecord(RecordKind.SURVIVORS, 0, 1, session.id, listed(dict.fromkeys(near, b""))).to_bytes()
    revealed = SumRecord(RecordKind.REVEALED, 0, 1, session.id, listed(dict.fromkeys(near, bytes(16)))).to_bytes()
    up = {"padded": padded, "keys": keys, "shares": shares, "unmasking": revealed}
    down = {"keys": setup, "shares": roster.to_bytes() + envelopes, "unmasking": stayed}
    for way, parts in (("up", up), ("down", down)):
        total = sum(map(len, parts.values()))
        found = ", ".join(f"{name} {len(data):,}" for name, data in parts.items())
        text = f"n {members}, {len(near) - 1} neighbours, {way}: {found}, in all {total:,}"
        print(f"{text}; {8 * total / PARAMETERS:.4f} bits a parameter")  # noqa: T201


def seconds(members: int, gone: int, *, few: bool) -> None:
    """Print the CPU time of a round of secure sums, beside making and summing masks."""
    session = session_of(members, few=few)
    one = numbers(session)
    collector, everyone = Collector(session), dict[int, SumMember]()
    mine = dict.fromkeys(("shares", "pads", "server"), 0.0)
    last = time.process_time()

    def took(what: str, share: float = 1) -> None:
        nonlocal last
        now = time.process_time()
        mine[what] += (now - last) * share
        last = now

    watched = min(members, WATCHED)
    for i in range(members):
        everyone[i], keys = SumMember.begin(collector.setup(i), colluding=HELPERS)
        took("shares", 1 / members)
        collector.take_keys(i, keys)
        took("server")
    for i in collector.listed:
        roster = collector.roster(i)
        took("server")
        shares = everyone[i].share(roster)
        took("shares", 1 / members)
        collector.take_shares(i, shares)
        took("server")
    none = Lanes.zeros(session)
    for at, i in enumerate(collector.shared[gone:]):
        envelopes = collector.envelopes(i)
        copy = Lanes(one.bits.copy(), one.reals.copy())
        took("server")
        with nullcontext() if at < watched else patch("fedmrn.secure.member.pad_of", lambda *_: none):
            padded = everyone[i].pad(envelopes, copy)
        took("pads", (at < watched) / min(watched, members - gone))
        collector.take_padded(i, padded)
        took("server")
    for i in collector.stayed:
        collector.take_revealed(i, everyone[i].reveal(collector.survivors(i)))
    collector.finish()
    took("server")
    near = len(session.holders(0)) - 1
    text = f"n {members}, {near} neighbours, {gone} dropped out: a client {mine['shares'] + mine['pads']:.3f} s of CPU"
    print(f"{text} (shares {mine['shares']:.3f}, pads {mine['pads']:.3f}), the server {mine['server']:.2f}")  # noqa: T201


def neighbours(members: int) -> None:
    """Print how few neighbours do where a third, a fifth or a tenth of the clients may drop out."""
    for gone in (members // 3, members // 5, members // 10):
        for share in (0.05, 0.1, 0.2, 0.3):
            helpers = -int(-share * members // 1)
            found = fewest(members, gone, helpers)
            if found is None:
                print(f"n {members}, {gone} gone, {helpers} helpers: all")  # noqa: T201
                continue
            risks = opened_risk(members, *found, helpers, gone), lost_risk(members, *found, gone)
            text = (
                f"n {members}, {gone} gone, {helpers} helpers: {found[0]} neighbours, {found[1]} shares give a secret"
            )
            print(f"{text}; opened {risks[0]:.1e}, lost {risks[1]:.1e}")  # noqa: T201


if __name__ == "__main__":
    few = "--few" in sys.argv
    for text in (word for word in sys.argv[2:] if word != "--few"):
        if sys.argv[1] == "bytes":
            sizes(int(text), few=few)
        elif sys.argv[1] == "neighbours":
            neighbours(int(text))
        else:
            seconds(int(text), 0, few=few)
            seconds(int(text), int(text) // 5, few=few)
