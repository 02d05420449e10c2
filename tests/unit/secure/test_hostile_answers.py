"""Answers with bytes changed, cut or of another stage: each is refused by a FrameError, and the sum is as it was."""

import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secure_sums import Sums, numbers, plain_sum, small

from fedmrn.errors import BelowThresholdError, FrameError
from fedmrn.secure import Collector, SumMember
from fedmrn.secure.lanes import Lanes, lane_type
from fedmrn.secure.session import Session

Change = tuple[int, int, int]


def changed(data: bytes, change: Change) -> bytes:
    at, flip, cut = change
    found = bytearray(data)
    found[at % len(found)] ^= flip
    return bytes(found[: len(found) - cut])


def stages(sums: Sums) -> list[tuple[Callable[[int], bytes], Callable[[int, bytes], None]]]:
    """A client's answer in each stage, and what takes it."""
    collector, members = sums.collector, sums.members
    return [
        (lambda i: members[i].share(collector.roster(i)), collector.take_shares),
        (lambda i: members[i].pad(collector.envelopes(i), numbers(sums.session, i)), collector.take_padded),
        (lambda i: members[i].reveal(collector.survivors(i)), collector.take_revealed),
    ]


@given(st.integers(0, 2), st.tuples(st.integers(0, 1000), st.integers(1, 255), st.integers(0, 3)))
@settings(max_examples=60, deadline=None)
def test_a_changed_answer_is_refused_or_loses_the_round(stage: int, change: Change) -> None:
    """Client 3 sends it. The sum of all, or of the others, comes out, or the round is lost: by a wrong share."""
    sums = small(4, 3).keys()
    refused = False
    for number, (answer, take) in enumerate(stages(sums)):
        asked = [sums.collector.listed, sums.collector.shared, sums.collector.stayed][number]
        for i in asked:
            data = answer(i)
            try:
                take(i, changed(data, change) if (i, number) == (3, stage) else data)
            except FrameError:
                assert (i, number) == (3, stage)
                refused = True
    try:
        total = sums.collector.finish()
    except BelowThresholdError:
        assert stage == 2
        return
    if refused and stage < 2:
        assert total.members == (0, 1, 2)
    if refused or stage != 1:  # a padded number may be anything
        assert total.numbers.bits.tolist() == plain_sum(sums.session, total.members)[0]


@given(st.binary(max_size=300), st.sampled_from(["keys", "shares", "padded", "revealed"]))
def test_bytes_that_are_no_answer(data: bytes, what: str) -> None:
    sums = small()
    with pytest.raises(FrameError):
        getattr(sums.collector, f"take_{what}")(0, data)
    assert sums.collector.listed == []


def test_the_price_of_ten_clients_and_a_million_parameters() -> None:
    """Two seconds of CPU for all clients and the server together; a tenth of that on the machine of docs."""
    session = Session.begin(1, 10, 7, 1_000_000, 0)
    mask = np.random.default_rng(1).integers(0, 2, session.bits).astype(lane_type(session))
    masks = [Lanes(mask.copy(), np.zeros(0, np.uint32)) for _ in range(10)]
    started = time.process_time()
    collector, members = Collector(session), dict[int, SumMember]()
    for i in range(10):
        members[i], keys = SumMember.begin(collector.setup(i))
        collector.take_keys(i, keys)
    for i in collector.listed:
        collector.take_shares(i, members[i].share(collector.roster(i)))
    for i in collector.shared[2:]:
        collector.take_padded(i, members[i].pad(collector.envelopes(i), masks[i]))
    for i in collector.stayed:
        collector.take_revealed(i, members[i].reveal(collector.survivors(i)))
    total = collector.finish()
    assert time.process_time() - started < 2
    assert np.array_equal(total.numbers.bits, 8 * mask)
