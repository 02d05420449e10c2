"""Metrics at the edges of numbers: NumPy's and torch's, beyond 64 bits, and near the largest double."""

import sys
from typing import Any

import numpy as np
import pytest
import torch
from fake_grid import FakeGrid, reply_from
from flower_clients import NODES, context, honest, initial, one_round, small_model, strategy
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedmrn.errors import ConfigError
from fedmrn.flower.client import attach, reply
from fedmrn.flower.metrics import Metrics, to_metrics

LARGEST = sys.float_info.max


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.int64(7), 7),
        (np.uint8(7), 7),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.array(3.5), 3.5),
        (torch.tensor(0.25), 0.25),
        (torch.tensor([2]), 2.0),
        (np.bool_(True), 1.0),
        (True, 1),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (2**63, 2.0**63),
        (-(2**63) - 1, -(2.0**63)),
        (10**300, 1e300),
        (LARGEST, LARGEST),
        ([np.int64(1), 2], [1, 2]),
        ([np.int64(1), 2.5], [1.0, 2.5]),
        ((1, 2**64), [1.0, 2.0**64]),
        ([], []),
    ],
)
def test_a_clients_numbers_become_flowers(value: Any, told: Any) -> None:
    record = to_metrics({"x": value})
    assert record["x"] == told
    assert type(record["x"]) is type(told)
    assert MetricRecord.inflate(record.deflate())["x"] == told  # what Flower makes of it on the wire


@pytest.mark.parametrize("value", [10**400, "much", None, [1, None], torch.ones(2), {}])
def test_what_is_no_number_is_told_by_name(value: Any) -> None:
    with pytest.raises(ConfigError, match="metric 'x' is no number that a double holds"):
        to_metrics({"x": value})


def test_a_reply_takes_numbers_of_numpy_and_refuses_others_before_it_finishes() -> None:
    plan = strategy()
    plan.begin(initial())
    message = next(iter(plan.configure_train(1, initial(), ConfigRecord(), FakeGrid(dict.fromkeys(NODES, honest(11))))))
    model = small_model()
    rule = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), message, context(11), steps=1)
    rule.step()
    with pytest.raises(ConfigError, match="metric 'x'"):
        reply(rule, message, context(11), weight=3, metrics={"x": 10**400})
    weight: Any = np.int64(3)
    back = reply(rule, message, context(11), weight=weight, metrics={"loss": np.float32(0.5), "n": np.int64(2)})
    record = back.content["metrics"]
    assert dict(record.items()) == {"num-examples": 3, "loss": 0.5, "n": 2}
    assert isinstance(record, MetricRecord)
    assert MetricRecord.inflate(record.deflate()) == record


def mean(*records: dict[str, Any], heaviest: float = 2**20) -> tuple[dict[str, Any], Metrics]:
    metrics = Metrics("num-examples", heaviest)
    for node, record in enumerate(records):
        metrics.add(node, RecordDict({"metrics": MetricRecord(record)}))
    found = metrics.mean(1, strategy().train_metrics_aggr_fn)
    return found, metrics


@pytest.mark.parametrize("value", [LARGEST, -LARGEST, 1e308, -1e308])
@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2**20, 7), (4, 31, 24), (33, 21, 5, 33, 12)])
def test_a_mean_of_the_largest_doubles_is_finite_and_between_them(value: float, weights: tuple[int, ...]) -> None:
    """With weights 4, 31 and 24 the shares round up, and Flower's own sum of the largest double is infinite."""
    found, _ = mean(*({"num-examples": w, "x": value, "row": [value, 1.0]} for w in weights))
    assert found["x"] == pytest.approx(value, rel=1e-15)
    assert found["row"] == pytest.approx([value, 1.0], rel=1e-15)
    assert np.isfinite([found["x"], *found["row"]]).all()
    MetricRecord(found).deflate()


def test_a_mean_is_flowers() -> None:
    found, _ = mean({"num-examples": 1, "x": 1, "y": -2.0}, {"num-examples": 3, "x": 2, "y": 6.0})
    assert found == {"x": 1.75, "y": 4.0}


@pytest.mark.parametrize("huge", [2**63, -(2**63) - 1, 10**400])
def test_whole_numbers_beyond_64_bits_are_left_out_and_do_not_stop_the_round(huge: int) -> None:
    """Flower's wire cannot carry them; a grid of another kind may."""
    good = {"num-examples": 2, "x": 1}
    for bad in ({"num-examples": 2, "x": huge}, {"num-examples": huge, "x": 1}, {"num-examples": 2, "x": [huge]}):
        found, metrics = mean(good, good, bad)
        assert found == {"x": 1.0}
        assert metrics.agreeing()[1] == [2]


def test_a_round_with_extreme_metrics_goes_on() -> None:
    def extreme(node: int, x: Any) -> Any:
        def answer(message: Message) -> Message:
            back = honest(node)(message)
            back.content["metrics"] = MetricRecord({"num-examples": NODES[node], "train_loss": x})
            return reply_from(message, back.content, node)

        return answer

    nodes = FakeGrid({node: extreme(node, LARGEST) for node in NODES})
    arrays, metrics = one_round(strategy(), nodes)
    assert arrays is not None
    assert metrics is not None
    assert metrics["train_loss"] == LARGEST
    metrics.deflate()


def test_a_custom_mean_is_asked_as_before() -> None:
    def count(contents: list[RecordDict], key: str) -> MetricRecord:
        return MetricRecord({"clients": len(contents), "key": len(key)})

    _, metrics = one_round(strategy(train_metrics_aggr_fn=count), FakeGrid({node: honest(node) for node in NODES}))
    assert metrics is not None
    assert (metrics["clients"], metrics["key"]) == (3, len("num-examples"))
