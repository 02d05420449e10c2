"""What is saved against FedAvg, by hand; what is not compared; and the hint on the downlink."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from fedmrn.experiments.run.record import Record
from fedmrn.report.saving import SMALLER, Saving, downlink_hint, saving
from fedmrn.report.summary import Summary, summarise
from run_folders import record, sizes

HEADERS = sizes(0)["total"]


def row(
    method: str,
    up: int,
    down_: int,
    /,
    *,
    rounds: int = 2,
    clients: Sequence[int] = (0, 3),
    final: float = 0.9,
    calibrated: int = 0,
    **more: Any,
) -> Summary:
    """The summary of a run with so many bytes each way in every round, calibration on top where it is asked for."""
    records = []
    for number in range(1, rounds + 1):
        found = record(number, final) | {"up": sizes(up - HEADERS), "down": sizes(down_ - HEADERS)}
        found["clients"] = list(clients)
        if calibrated:
            each = sizes(calibrated - HEADERS)
            found["calibration"] = {"accuracy": 0.5, "loss": 1.0, "clients": [0], "up": each, "down": each}
        records.append(Record.of_line(json.dumps(found)))
    return summarise(method, more.pop("lr", 0.1), [records], **more)


def test_both_ways_count() -> None:
    average, masked = rows = [row("fedavg", 8000, 8000), row("fedmrn", 500, 8000)]
    assert saving(average, rows) == Saving(1, 1)
    assert saving(masked, rows) == Saving(16, 16000 / 8500)


def test_calibration_counts_in_both() -> None:
    """It takes 1,000 bytes more each way, of FedAvg and of masks."""
    rows = [row("fedavg", 8000, 8000, calibrated=1000), row("fedmrn", 500, 8000, calibrated=1000)]
    assert saving(rows[1], rows) == Saving(9000 / 1500, 18000 / 10500)


def test_without_a_fedavg_like_it_nothing_is_said() -> None:
    masked = row("fedmrn", 500, 8000)
    others = {
        "none": [],
        "fewer rounds": [row("fedavg", 8000, 8000, rounds=1)],
        "more rounds": [row("fedavg", 8000, 8000, rounds=3)],
        "more clients": [row("fedavg", 8000, 8000, clients=(0, 1, 2))],
        "an ablation": [row("fedavg-other", 8000, 8000)],
    }
    assert {what: saving(masked, [*rows, masked]) for what, rows in others.items()} == dict.fromkeys(others)
    every = [found for rows in others.values() for found in rows]
    assert saving(masked, [*every, row("fedavg", 5000, 8000), masked]) == Saving(10, 13000 / 8500)


def test_of_several_fedavgs_one_with_an_exact_broadcast_counts_and_of_those_the_best() -> None:
    masked = row("fedmrn", 500, 1000, down=SMALLER)
    small = row("fedavg", 8000, 1000, final=0.99, down=SMALLER)
    rates = [row("fedavg", 8000, 8000, lr=lr, final=final) for lr, final in ((0.03, 0.8), (0.1, 0.9))]
    best = row("fedavg", 9000, 8000, final=0.95)
    for rows in ([small, *rates, masked], [*rates, small, masked]):
        assert saving(masked, rows) == Saving(16, 16000 / 1500)
        assert saving(small, rows) == Saving(1, 16000 / 9000)
        assert [saving(each, rows) for each in rates] == [Saving(1, 1)] * 2
        assert saving(masked, [*rows, best]) == Saving(18, 17000 / 1500)
    assert saving(masked, [small, masked]) == Saving(16, 9000 / 1500)  # its own row shows what it is


def test_a_downlink_that_is_most_of_the_traffic_is_told_in_one_line() -> None:
    average, masked, signed = row("fedavg", 8000, 8010), row("fedmrn", 500, 8000), row("fedmrn-s", 2000, 8000)
    option = f"--set method.down={SMALLER} makes it smaller"
    assert downlink_hint([]) is None
    assert downlink_hint([average]) is None  # its downlink is half
    assert downlink_hint([average, masked]) == f"the downlink is 94 % of the traffic of fedmrn: {option}"
    line = f"the downlink is 80 to 94 % of the traffic of fedmrn and fedmrn-s: {option}"
    assert downlink_hint([average, masked, signed]) == line
    many = [average, *[masked] * 2, *[signed] * 2]
    assert downlink_hint(many) == f"the downlink is 80 to 94 % of the traffic of 4 of 5 methods: {option}"


@pytest.mark.parametrize(("up", "told"), [(3999, True), (4000, False), (4001, False)])
def test_most_is_more_than_two_thirds(up: int, told: bool) -> None:
    assert (downlink_hint([row("topk", up, 8000)]) is not None) is told


@pytest.mark.parametrize("method", ["fedpm", "fedsparsify-global", "fedsparsify-local"])
def test_who_cannot_take_the_option_is_not_told(method: str) -> None:
    assert downlink_hint([row(method, 500, 8000)]) is None
    assert str(downlink_hint([row(method, 500, 8000), row("topk", 500, 8000)])).count(method) == 0


def test_who_has_the_option_is_not_told() -> None:
    """Whether this version takes the option's value or not: a summary may be of any run."""
    rows = [row("fedmrn", 500, 8000, down=SMALLER), row("fedmrn", 500, 8000, label="fedmrn, down eden4", down="eden4")]
    assert downlink_hint(rows[:1]) is None
    assert str(downlink_hint(rows)).startswith("the downlink is 94 % of the traffic of fedmrn, down eden4: ")
