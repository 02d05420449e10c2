"""Secure sums: bytes a client sends and gets beside a broadcast, and CPU time, measured on real records.

python studies/secure_sums.py bytes 10 100 1000      one client's records, of 1,000,000 parameters
python studies/secure_sums.py time 10 100            all clients and the server, in this process
"""

import sys
import time

import numpy as np

from fedmrn.secure import Collector, SumMember
from fedmrn.secure.lanes import Lanes, lane_type
from fedmrn.secure.records import RecordKind, SumRecord, listed
from fedmrn.secure.session import Session

PARAMETERS = 1_000_000


def numbers(session: Session) -> Lanes:
    """Return random bits and no reals."""
    bits = np.random.default_rng(1).integers(0, 2, session.bits).astype(lane_type(session))
    return Lanes(bits, np.zeros(session.reals, np.uint32))


def sizes(members: int) -> None:
    """Print one client's bytes; of the other clients there are keys only."""
    session = Session.begin(1, members, members // 2 + 1, PARAMETERS, 0)
    setup = session.setup(0)
    began = [SumMember.begin(session.setup(i)) for i in range(members)]
    keys = began[0][1]
    lines = {i: record[32:192] for i, (_, record) in enumerate(began)}
    roster = SumRecord(RecordKind.ROSTER, 0, 1, session.id, listed(lines)).to_bytes()
    member = began[0][0]
    shares = member.share(roster)
    sealed = {i: bytes(80) for i in range(1, members)}
    envelopes = SumRecord(RecordKind.ENVELOPES, 0, 1, session.id, listed(sealed)).to_bytes()
    padded = SumRecord(RecordKind.PADDED, 0, 1, session.id, numbers(session).to_bytes(session)).to_bytes()
    stayed = SumRecord(RecordKind.SURVIVORS, 0, 1, session.id, listed(dict.fromkeys(range(members), b""))).to_bytes()
    revealed = SumRecord(RecordKind.REVEALED, 0, 1, session.id, listed(dict.fromkeys(range(members), bytes(32))))
    up = {"padded": padded, "keys": keys, "shares": shares, "unmasking": revealed.to_bytes()}
    down = {"keys": setup, "shares": roster + envelopes, "unmasking": stayed}
    for way, parts in (("up", up), ("down", down)):
        total = sum(map(len, parts.values()))
        found = ", ".join(f"{name} {len(data):,}" for name, data in parts.items())
        print(f"n {members} {way}: {found}; {8 * total / PARAMETERS:.4f} bits a parameter")  # noqa: T201


def seconds(members: int, gone: int = 0) -> None:
    """Print the CPU time of a whole round of secure sums, beside making and summing masks."""
    session = Session.begin(1, members, (2 * members + 2) // 3, PARAMETERS, 0)
    one = numbers(session)
    started = time.process_time()
    collector, everyone = Collector(session), dict[int, SumMember]()
    for i in range(members):
        everyone[i], keys = SumMember.begin(collector.setup(i))
        collector.take_keys(i, keys)
    for i in collector.listed:
        collector.take_shares(i, everyone[i].share(collector.roster(i)))
    shared = time.process_time()
    for i in collector.shared[gone:]:
        collector.take_padded(i, everyone[i].pad(collector.envelopes(i), Lanes(one.bits.copy(), one.reals.copy())))
    padded = time.process_time()
    for i in collector.stayed:
        collector.take_revealed(i, everyone[i].reveal(collector.survivors(i)))
    collector.finish()
    ended = time.process_time()
    parts = f"keys and shares {shared - started:.2f}, pads {padded - shared:.2f}, unmasking {ended - padded:.2f}"
    print(f"n {members}, {gone} dropped out: {ended - started:.2f} s of CPU: {parts}")  # noqa: T201


if __name__ == "__main__":
    for text in sys.argv[2:]:
        if sys.argv[1] == "bytes":
            sizes(int(text))
        else:
            seconds(int(text))
            seconds(int(text), int(text) // 4)
