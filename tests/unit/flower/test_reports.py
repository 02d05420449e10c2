"""What a strategy keeps of its rounds is bounded, and of an ordinary run it is everything."""

import pytest

from fedmrn.federation.report import RoundReport
from fedmrn.federation.transport import MessageKind
from fedmrn.flower import reports
from fedmrn.flower.reports import Reports


def report(number: int, nodes: int) -> RoundReport:
    found = RoundReport(round=number, trainable=1)
    found.stages[MessageKind.TRAIN].asked.update(dict.fromkeys(range(nodes), 1))
    return found


def kept(rounds: int, nodes: int) -> list[int]:
    found = Reports()
    for number in range(1, rounds + 1):
        found.append(report(number, nodes))
    return [one.round for one in found]


def test_a_run_of_some_hundred_rounds_is_kept_as_a_whole() -> None:
    assert kept(500, 100) == list(range(1, 501))


def test_of_a_longer_one_the_last_rounds_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MOST", 100)
    assert kept(1000, 4) == [996, 997, 998, 999, 1000]  # of 16 + 4 each


def test_the_last_round_is_kept_however_many_nodes_it_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MOST", 100)
    assert kept(3, 1000) == [3]


def test_nodes_that_evaluate_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MOST", 100)
    found = Reports()
    for number in range(1, 10):
        found.append(report(number, 4))
        found[-1].stages.setdefault(MessageKind.EVALUATE, type(found[-1].stages[MessageKind.TRAIN])()).asked[7] = 1
    assert len(found) == 4


def test_what_a_user_takes_out_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MOST", 40)
    found = Reports([report(1, 4), report(2, 4)])
    found.clear()
    found.append(report(3, 4))
    assert [one.round for one in found] == [3]
