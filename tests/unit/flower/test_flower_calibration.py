"""The exchange after the last round: nodes find the statistics of the model that is kept."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fake_grid import SUPERLINK, reply_from
from flower_clients import NODES, context, grid, honest, initial, samples, small_model, strategy
from flwr.app import ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from test_evaluation import Counting, size

from fedmrn.errors import ConfigError, WrongMessageError
from fedmrn.federation.transport import MessageKind
from fedmrn.flower.client import calibrate
from fedmrn.flower.records import CALIBRATE
from fedmrn.torch import answer_calibration
from fedmrn.torch import calibrate as calibrate_model
from fedmrn.wire.frame import Kind

STATISTICS = {"1.running_mean", "1.running_var"}


def calibrating(node: int) -> Callable[[Message], Message]:
    """Trains, evaluates and calibrates, as an app with three functions does."""
    rest = honest(node)

    def answer(message: Message) -> Message:
        if message.metadata.message_type != CALIBRATE:
            return rest(message)
        x, y = samples(node)
        back = calibrate(small_model(node), message, [(x[:3], y[:3]), (x[3:], y[3:])])
        return reply_from(message, back.content, node)

    return answer


def nodes(**others: Any) -> Counting:
    return Counting({node: calibrating(node) for node in NODES} | {int(k[4:]): v for k, v in others.items()})


def values(arrays: ArrayRecord) -> dict[str, np.ndarray[Any, Any]]:
    return {name: array.numpy() for name, array in arrays.items()}


def differing(one: ArrayRecord, other: ArrayRecord) -> set[str]:
    a, b = values(one), values(other)
    return {name for name in a if not np.array_equal(a[name], b[name])}


def test_the_result_is_the_calibrated_model_and_so_is_what_is_evaluated_last() -> None:
    seen = []

    def evaluated(number: int, arrays: ArrayRecord) -> None:
        seen.append(arrays)

    plain = strategy("fedavg", clipping=None).start(grid(), initial(), num_rounds=2)  # it draws nothing
    plan = strategy("fedavg", clipping=None, calibrate=True)
    result = plan.start(nodes(), initial(), num_rounds=2, evaluate_fn=evaluated)
    assert differing(result.arrays, plain.arrays) == STATISTICS
    assert differing(seen[-1], result.arrays) == set()
    model = small_model()
    model.load_state_dict(result.arrays.to_torch_state_dict())
    calibrate_model(model, [torch.cat([samples(node)[0] for node in NODES])])
    # The first layer of statistics: their means are those of all samples together, each node's rounded to float32.
    found = values(result.arrays)
    np.testing.assert_allclose(found["1.running_mean"], model[1].running_mean.numpy(), rtol=1e-5, atol=1e-6)
    # Nodes divide by one less than their 5, 9 and 12 samples, the whole by one less than 26.
    assert np.abs(found["1.running_var"] / model[1].running_var.numpy() - 1).max() < 3 / 26 * 1.1


def test_every_byte_is_in_the_report_and_in_the_metrics() -> None:
    through, plan = nodes(), strategy(calibrate=True)
    result = plan.start(through, initial(), num_rounds=2)
    assert sum(r.total_down for r in plan.reports) == sum(through.down.values())
    assert sum(r.total_up for r in plan.reports) == sum(through.up.values())
    stage = plan.reports[1].stages[MessageKind.CALIBRATE]
    assert (stage.down, stage.up) == (through.down[CALIBRATE], through.up[CALIBRATE])
    assert MessageKind.CALIBRATE not in plan.reports[0].stages
    last = result.train_metrics_clientapp[2]
    assert (last["calibration-asked"], last["calibration-answered"]) == (3, 3)
    assert last["calibration-uplink-bytes"] == stage.up
    assert "calibration-asked" not in result.train_metrics_clientapp[1]


@pytest.mark.parametrize(("asked", "expected"), [(2, 2), (3, 3), (10, 3), (False, 0), (0, 0)])
def test_so_many_nodes_are_asked(asked: int, expected: int) -> None:
    plan = strategy(calibrate=asked)
    plan.start(nodes(), initial(), num_rounds=1)
    stage = plan.reports[0].stages.get(MessageKind.CALIBRATE)
    assert (len(stage.asked) if stage else 0) == expected


def test_all_of_them_are_those_of_the_round() -> None:
    plan = strategy(calibrate=True, fraction_train=0.7, min_train_nodes=2)
    plan.start(nodes(), initial(), num_rounds=1)
    assert sorted(plan.reports[0].stages[MessageKind.CALIBRATE].asked) == sorted(plan.reports[0].asked)


def test_what_does_not_belong_is_refused_and_the_others_count(caplog: pytest.LogCaptureFixture) -> None:
    """One node answers by an update's arrays, one fails, as an app without the function does; one is honest."""

    def stock(message: Message) -> Message:
        if message.metadata.message_type != CALIBRATE:
            return calibrating(12)(message)
        content = RecordDict({"arrays": initial(), "metrics": MetricRecord({"num-examples": 1})})
        return reply_from(message, content, 12)

    def without(message: Message) -> Message:
        if message.metadata.message_type != CALIBRATE:
            return calibrating(13)(message)
        try:
            ClientApp()(message, context(13))
        except Exception as error:
            return reply_from(message, Error(2, f"{type(error)}:<'{error}'>"), SUPERLINK)
        raise AssertionError

    plan = strategy(calibrate=True)
    with caplog.at_level(logging.INFO):
        result = plan.start(nodes(node12=stock, node13=without), initial(), num_rounds=1)
    assert result.train_metrics_clientapp[1]["calibration-answered"] == 1
    failed = plan.reports[0].failed_otherwise
    assert any("node 12: calibrate: WrongMessageError" in line for line in failed)
    assert any("node 13: calibrate: code 2" in line for line in failed)
    assert "calibrated by 1 of 3 nodes" in caplog.text
    assert 'add to them a function with @app.train("calibrate")' in caplog.text
    assert "fedmrn.flower.client.reply" not in caplog.text

    model = small_model()
    model.load_state_dict(result.arrays.to_torch_state_dict())
    calibrate_model(model, [samples(11)[0]])
    np.testing.assert_allclose(
        values(result.arrays)["1.running_mean"], model[1].running_mean.numpy(), rtol=1e-5, atol=1e-6
    )


def test_where_nobody_answers_the_model_stays(caplog: pytest.LogCaptureFixture) -> None:
    def silent(node: int) -> Callable[[Message], Message | None]:
        return lambda message: None if message.metadata.message_type == CALIBRATE else honest(node)(message)

    plain = strategy("fedavg").start(grid(), initial(), num_rounds=1)
    plan = strategy("fedavg", calibrate=True)
    quiet = Counting({node: silent(node) for node in NODES})
    result = plan.start(quiet, initial(), num_rounds=1, timeout=0.0)
    assert differing(plain.arrays, result.arrays) == set()
    assert "nobody calibrated the model after round 1" in caplog.text


@pytest.mark.parametrize("calibrate", [-1, 0.5, "all", None])
def test_what_the_option_can_be(calibrate: Any) -> None:
    with pytest.raises(ConfigError, match="a number of nodes, or False"):
        strategy(calibrate=calibrate)


def test_the_reply_is_one_frame_of_statistics_with_the_samples_as_its_weight() -> None:
    seen: list[Message] = []

    def noting(message: Message) -> Message:
        if message.metadata.message_type == CALIBRATE:
            seen.append(message)
        return calibrating(13)(message)

    strategy(calibrate=True).start(nodes(node13=noting), initial(), num_rounds=1)
    frame = bytes(seen[0].content["arrays"]["frame"].data)  # type: ignore[union-attr,call-overload,index]
    found = answer_calibration(small_model(), frame, [samples(13)])
    assert (found.kind, found.weight) == (Kind.STATISTICS, NODES[13])
    assert answer_calibration(small_model(), frame, [samples(13)], weight=3).weight == 3
    assert answer_calibration(small_model(), frame, [{"input": samples(13)[0]}]).weight == NODES[13]
    with pytest.raises(ConfigError, match="pass weight="):
        answer_calibration(small_model(), frame, ["text"], forward=lambda _: None)
    assert size(seen[0]) > len(frame)
    with pytest.raises(WrongMessageError, match="plain arrays"):
        calibrate(small_model(), Message(RecordDict({"arrays": initial()}), 1, CALIBRATE), [samples(13)])
