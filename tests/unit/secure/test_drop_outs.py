"""The sum is exact for every pattern of drop-outs above the threshold, and lost below it."""

from itertools import product

import pytest
from secure_sums import plain_sum, small

from fedmrn.errors import BelowThresholdError, EmptyRoundError
from fedmrn.secure import SumMember
from fedmrn.secure.session import least_threshold

STAGES = 5
"""What a client sends last: nothing, keys, shares, padded numbers, or all."""


@pytest.mark.parametrize(("members", "threshold"), [(2, 2), (3, 2), (4, 3)])
def test_every_pattern(members: int, threshold: int) -> None:
    lost = kept = 0
    for pattern in product(range(STAGES), repeat=members):
        sums = small(members, threshold, bits=5, reals=1)
        gone = [[i for i, last in enumerate(pattern) if last == stage] for stage in range(STAGES)]
        enough = sum(last == STAGES - 1 for last in pattern) >= threshold
        try:
            sums.keys(gone[0]).shares(gone[1]).padded(gone[2]).revealed(gone[3])
            total = sums.collector.finish()
        except BelowThresholdError:
            assert not enough, pattern
            lost += 1
            continue
        assert enough, pattern
        answered = [i for i, last in enumerate(pattern) if last >= 3]
        assert total.members == tuple(answered)
        assert (total.numbers.bits.tolist(), total.numbers.reals.tolist()) == plain_sum(sums.session, answered)
        kept += 1
    assert lost + kept == STAGES**members
    assert kept == sum(sum(x == 4 for x in p) >= threshold for p in product(range(STAGES), repeat=members))


@pytest.mark.parametrize("members", [17, 255, 256])
def test_lanes_of_both_widths(members: int) -> None:
    """Of more clients than are worth running, a few keys are made: the rest dropped out at once is below threshold."""
    least = least_threshold(members)
    sums = small(members, least).keys(range(members - least))
    if members > 17:
        with pytest.raises(BelowThresholdError, match="clients answered with keys"):
            small(members, least).keys(range(members - least + 1)).collector.roster(members - 1)
        return
    total = sums.shares().padded().revealed().collector.finish()
    assert total.numbers.bits.tolist() == plain_sum(sums.session, total.members)[0]


def test_a_lost_round_is_a_round_without_updates() -> None:
    assert issubclass(BelowThresholdError, EmptyRoundError)


def test_a_member_is_bytes_between_its_answers() -> None:
    """A client may be a fresh process each time."""
    sums = small(3, 2)

    def again() -> None:
        sums.members = {i: SumMember.from_bytes(member.to_bytes()) for i, member in sums.members.items()}

    for stage in (sums.keys, sums.shares, lambda: sums.padded({1}), sums.revealed):
        stage()
        again()
    total = sums.collector.finish()
    assert total.numbers.bits.tolist() == plain_sum(sums.session, (0, 2))[0]


def test_secrets_are_gone_once_they_have_served() -> None:
    """What made a client's own pads goes with its numbers: a round that is lost then leaves none of it anywhere."""
    sums = small(3, 2).keys().shares()
    head = len(sums.collector.setup(0)) + 1
    shared = sums.members[0].to_bytes()
    assert all(shared[at : at + 16] != bytes(16) for at in range(head, head + 80, 16)), "a key, two roots, a share"
    sums.padded()
    padded = sums.members[0].to_bytes()
    assert padded[head : head + 64] == bytes(64)
    assert padded[head + 64 : head + 80] == shared[head + 64 : head + 80]
    sums.revealed()
    after = sums.members[0].to_bytes()
    assert after[head : head + 80] == bytes(80)
    assert len(after) < len(padded), "shares of others too"
