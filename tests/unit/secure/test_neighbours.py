"""Neighbours: the risks against every order of the circle counted, the fewest that do, and sums over such a graph."""

from itertools import combinations, permutations, product
from math import comb
from typing import Any

import pytest
from secure_sums import Sums, numbers, plain_sum

from fedmrn.errors import BelowThresholdError, ConfigError, LimitError, RefusedRevealError, UntrustedKeyError
from fedmrn.secure import SecureSum, SumMember
from fedmrn.secure.neighbours import MOST_LOST, MOST_OPENED, circle, fewest, holders, lost_risk, opened_risk
from fedmrn.secure.records import RecordKind, SumRecord, listed
from fedmrn.secure.session import Session


def near(order: tuple[int, ...], k: int) -> dict[int, set[int]]:
    """Each one's neighbours where the clients stand in this order."""
    n = len(order)
    return {order[at]: {order[(at + step) % n] for step in range(-k // 2, k // 2 + 1) if step} for at in range(n)}


def parts(graph: dict[int, set[int]], left: set[int]) -> int:
    """How many parts the graph of these clients has."""
    found, todo = 0, set(left)
    while todo:
        found, reached = found + 1, {todo.pop()}
        while reached:
            more = graph[reached.pop()] & todo
            todo -= more
            reached |= more
    return found


def counted(n: int, k: int, quorum: int, colluding: int, gone: int) -> tuple[float, float]:
    """The two risks, by every order of the circle that there is, seen from client 0."""
    helpers, away = set(range(colluding)), set(range(colluding, colluding + gone))
    left = set(range(n)) - helpers - away
    opened = lost = total = 0
    for rest in permutations(range(1, n)):
        graph = near((0, *rest), k)
        total += 1
        alone = any(len(graph[i] & helpers) >= quorum for i in set(range(n)) - helpers)
        opened += alone or parts(graph, left) > 1
        lost += any(len(graph[i] - away) < quorum for i in range(n))
    return opened / total, lost / total


@pytest.mark.parametrize(
    ("n", "k", "quorum", "colluding", "gone"),
    [(7, 2, 2, 2, 1), (7, 4, 3, 2, 2), (8, 4, 3, 3, 2), (8, 4, 2, 1, 3), (7, 4, 2, 0, 4), (8, 6, 4, 3, 3)],
)
def test_the_risks_are_never_more_than_is_said(n: int, k: int, quorum: int, colluding: int, gone: int) -> None:
    opened, lost = counted(n, k, quorum, colluding, gone)
    assert opened <= opened_risk(n, k, quorum, colluding, gone) + 1e-12
    assert lost <= lost_risk(n, k, quorum, gone) + 1e-12


def test_a_risk_of_nothing_is_none_and_a_certain_one_is_found() -> None:
    assert opened_risk(8, 4, 3, 2, 1) == 0
    assert counted(8, 4, 3, 2, 1)[0] == 0
    assert opened_risk(8, 4, 2, 6, 1) >= 1
    assert lost_risk(8, 4, 4, 7) >= 1


def test_neighbours_are_mutual_and_all_orders_are_drawn() -> None:
    for n, k in ((5, 2), (9, 4), (40, 10)):
        session = Session.begin(1, n, n, 1, 0, k, k)
        found = {i: session.holders(i) for i in range(n)}
        assert all(len(each) == k + 1 and i in each and sorted(each) == list(each) for i, each in found.items())
        assert all(i in found[j] for i, each in found.items() for j in each)
    drawn = {circle(bytes([a, b]) + bytes(14), 4) for a in range(40) for b in range(5)}
    assert drawn == {*permutations(range(4))}, "each of 24 orders stays out of 200 draws with probability 2e-4"
    assert holders(bytes(16), 7, 6, 3) == tuple(range(7))


@pytest.mark.parametrize("n", [10, 30, 100])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_the_fewest_that_do(n: int, share: float) -> None:
    gone, colluding = n // 3, round(share * n)
    found = fewest(n, gone, colluding)
    assert found is not None
    k, quorum = found
    assert k < n - 1
    assert opened_risk(n, k, quorum, colluding, gone) <= MOST_OPENED
    assert lost_risk(n, k, quorum, gone) <= MOST_LOST
    assert lost_risk(n, k, quorum + 1, gone) > MOST_LOST or quorum == k
    for q in range(2, k - 1):
        assert opened_risk(n, k - 2, q, colluding, gone) > MOST_OPENED or lost_risk(n, k - 2, q, gone) > MOST_LOST


def test_few_clients_share_with_all() -> None:
    assert fewest(3, 1, 1) is None
    assert fewest(5, 2, 3) is None
    assert SecureSum(colluding=0.1).neighbours(4) == (0, 0)
    assert SecureSum().neighbours(1000) == (0, 0)


@pytest.mark.parametrize("share", [-0.1, 0.5, 1])
def test_shares_of_helpers_that_cannot_be(share: Any) -> None:
    with pytest.raises(ConfigError, match="may help the server"):
        SecureSum(colluding=share)


@pytest.mark.parametrize(("k", "quorum"), [(2, 0), (0, 2), (3, 2), (4, 1), (2, 3), (6, 3), (8, 3)])
def test_neighbours_that_cannot_be(k: int, quorum: int) -> None:
    with pytest.raises(LimitError, match="cannot be neighbours"):
        Session.begin(1, 7, 5, 1, 0, k, quorum)


class Few(Sums):
    """Clients share with two neighbours; one that refuses counts as gone."""

    def answered(self, stage: str, gone: set[int]) -> None:
        collector, members = self.collector, self.members
        for i in list(getattr(collector, {"shares": "listed", "padded": "shared", "revealed": "stayed"}[stage])):
            asked = {"shares": collector.roster, "padded": collector.envelopes, "revealed": collector.survivors}[stage](
                i
            )
            try:
                if stage == "shares":
                    answer = members[i].share(asked)
                elif stage == "padded":
                    answer = members[i].pad(asked, numbers(self.session, i))
                else:
                    answer = members[i].reveal(asked)
            except RefusedRevealError:
                continue
            if i not in gone:
                getattr(collector, f"take_{stage}")(i, answer)


@pytest.fixture
def _willing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients accept neighbours that are too few to be safe: here sums are tested, not risks."""
    monkeypatch.setattr(Session, "check_neighbours", lambda *_: None)


@pytest.mark.slow
@pytest.mark.usefixtures("_willing")
def test_every_pattern_above_the_threshold_is_exact_and_no_sum_is_wrong() -> None:
    """Of six clients with four neighbours, any three of whom give a secret; of patterns below, each 97th."""
    kept = lost = 0
    for at, pattern in enumerate(product(range(5), repeat=6)):
        enough = pattern.count(4) >= 4
        if not enough and at % 97:
            continue
        sums = Few(Session.begin(3, 6, 4, 3, 1, 4, 3))
        gone = [{i for i, last in enumerate(pattern) if last == stage} for stage in range(5)]
        try:
            sums.keys(gone[0])
            for stage, who in zip(("shares", "padded", "revealed"), gone[1:], strict=False):
                sums.answered(stage, who)
            total = sums.collector.finish()
        except BelowThresholdError:
            assert not enough, pattern
            lost += 1
            continue
        assert enough, pattern
        assert total.members == tuple(i for i, last in enumerate(pattern) if last >= 3)
        assert (total.numbers.bits.tolist(), total.numbers.reals.tolist()) == plain_sum(sums.session, total.members)
        kept += 1
    assert kept == comb(6, 4) * 16 + comb(6, 5) * 4 + 1
    assert lost > 100


def test_fewer_shares_than_give_a_secret_lose_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threshold is met, but one client is alone, and rightly reveals nothing."""
    monkeypatch.setattr(Session, "check_neighbours", lambda *_: None)
    session = Session.begin(3, 9, 6, 3, 1, 2, 2)
    alone = session.holders(0)
    sums = Few(session).keys()
    for stage, gone in (("shares", ()), ("padded", {*alone} - {0}), ("revealed", ())):
        sums.answered(stage, {*gone})
    with pytest.raises(BelowThresholdError, match="round 3 is lost: 0 shares, and 2 are needed"):
        sums.collector.finish()


def test_a_sum_over_many_neighbours_is_exact() -> None:
    k, quorum = fewest(30, 10, 3) or (0, 0)
    session = Session.begin(1, 30, 20, 9, 2, k, quorum)
    gone = {3, 4, 5, 20, 21}
    sums = Sums(session).keys({7}).shares({8}).padded(gone).revealed({9})
    total = sums.collector.finish()
    assert total.members == tuple(i for i in range(30) if i not in gone | {7, 8})
    assert (total.numbers.bits.tolist(), total.numbers.reals.tolist()) == plain_sum(session, total.members)


def test_a_client_shares_with_few_only_if_it_says_so() -> None:
    """And only with so many as withstand what it says."""
    k, quorum = fewest(100, 33, 10) or (0, 0)
    setup = Session.begin(1, 100, 67, 1, 0, k, quorum).setup(0)
    with pytest.raises(RefusedRevealError, match="this one shares with all"):
        SumMember.begin(setup)
    with pytest.raises(RefusedRevealError, match="20 of 100 clients and the server"):
        SumMember.begin(setup, colluding=0.2)
    for share in (0.0, 0.05, 0.1):
        SumMember.begin(setup, colluding=share)
    SumMember.begin(Session.begin(1, 100, 67, 1, 0).setup(0), colluding=0.1)


@pytest.mark.usefixtures("_willing")
def test_a_list_is_of_neighbours_alone() -> None:
    sums = Few(Session.begin(1, 7, 5, 1, 0, 2, 2)).keys()
    lines = {i: member._roster[i].to_bytes() for i, member in sums.members.items()}
    for kind, body, error in (
        (RecordKind.ROSTER, listed(lines), UntrustedKeyError),
        (RecordKind.ROSTER, listed({0: lines[0]}), RefusedRevealError),
    ):
        data = SumRecord(kind, 0, 1, sums.session.id, body).to_bytes()
        with pytest.raises(error):
            sums.members[0].share(data)


def test_a_planted_fault_is_found() -> None:
    """Risks that forget runs of the circle, or helpers, are less than what is counted."""
    opened, _ = counted(8, 2, 2, 0, 3)
    assert opened > 0
    pairs = comb(8, 2)
    runs = sum(1 for away in combinations(range(8), 3) if parts(near(tuple(range(8)), 2), set(range(8)) - {*away}) > 1)
    assert opened == pytest.approx(runs / comb(8, 3))
    assert opened_risk(8, 2, 2, 0, 3) == pytest.approx(pairs * comb(6, 1) / comb(8, 3))
