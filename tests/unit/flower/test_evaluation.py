"""Evaluation on clients: the model travels as the broadcast does, and every byte of it is counted."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fake_grid import FakeGrid, reply_from
from flower_clients import NODES, context, grid, honest, initial, small_model, strategy
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedmrn.errors import (
    ConfigError,
    LimitError,
    WrongKindError,
    WrongLayoutError,
    WrongMessageError,
)
from fedmrn.federation.transport import MessageKind
from fedmrn.flower import records
from fedmrn.flower.client import attach, load
from fedmrn.methods import DOWN, METHODS
from fedmrn.torch import ModelLayout, load_model
from fedmrn.torch import attach as attach_frame
from fedmrn.wire.frame import Frame, Kind, Limits
from fedmrn.wire.layout import Group

F32 = np.ndarray[Any, np.dtype[np.float32]]


class Counting(FakeGrid):
    """Counts what goes through it, by kind of message, in the way of `docs/deployment.md`."""

    def __init__(self, nodes: dict[int, Any]) -> None:
        super().__init__(nodes)
        self.down: dict[str, int] = {}
        self.up: dict[str, int] = {}

    def sent(self, message: Message) -> Message:
        kind = message.metadata.message_type
        self.down[kind] = self.down.get(kind, 0) + size(message)
        return message

    def pull_messages(self, message_ids: Any) -> list[Message]:
        found = super().pull_messages(message_ids)
        for message in found:
            kind = message.metadata.message_type
            self.up[kind] = self.up.get(kind, 0) + size(message)
        return found


def size(message: Message) -> int:
    """Bytes of arrays; of metrics and configurations, names and 8 bytes a number; of an error, its text."""
    if message.has_error():
        return len((message.error.reason or "").encode())
    found = 0
    for record in message.content.values():
        for name, value in record.items():
            found += len(value.data) if isinstance(record, ArrayRecord) else len(name) + 8
    return found


def flat(arrays: ArrayRecord) -> F32:
    layout = ModelLayout.of(small_model()).layout
    return np.concatenate([arrays[t.name].numpy().reshape(-1) for t in layout.tensors])


@pytest.mark.parametrize("down", DOWN)
@pytest.mark.parametrize("evaluate", ["frame", "arrays"])
def test_every_byte_of_every_message_is_in_the_report(down: str, evaluate: str) -> None:
    """Two rounds, three nodes, Flower's default fraction_evaluate of 1.0."""
    nodes = Counting(with_stock_evaluation() if evaluate == "arrays" else grid().nodes)
    plan = strategy(down=down, evaluate=evaluate)
    result = plan.start(nodes, initial(), num_rounds=2)
    assert sum(r.total_down for r in plan.reports) == sum(nodes.down.values())
    assert sum(r.total_up for r in plan.reports) == sum(nodes.up.values())
    stages = [report.stages[MessageKind.EVALUATE] for report in plan.reports]
    assert (sum(s.down for s in stages), sum(s.up for s in stages)) == (nodes.down["evaluate"], nodes.up["evaluate"])
    last = result.evaluate_metrics_clientapp[2]
    assert last["evaluation-asked"] == last["evaluation-answered"] == 3
    assert last["evaluation-downlink-bytes"] == stages[1].down
    assert last["downlink-total-bytes"] == plan.reports[1].total_down
    assert last["uplink-total-bytes"] == plan.reports[1].total_up
    assert f"with evaluation {plan.reports[1].total_up:,} up, {plan.reports[1].total_down:,} down" in str(
        plan.reports[1]
    )


def with_stock_evaluation() -> dict[int, Any]:
    def node_of(node: int) -> Callable[[Message], Message]:
        train = honest(node)

        def answer(message: Message) -> Message:
            if message.metadata.message_type == "train":
                return train(message)
            small_model().load_state_dict(message.content["arrays"].to_torch_state_dict())  # type: ignore[union-attr]
            return reply_from(message, RecordDict({"metrics": MetricRecord({"num-examples": 1, "ok": 1.0})}), node)

        return answer

    return {node: node_of(node) for node in NODES}


def test_the_model_to_evaluate_is_coded_as_the_broadcast_is() -> None:
    """What was 28,536 bytes in plain arrays takes a fifth of it with eden4."""
    sizes = {}
    for down in DOWN:
        plan = strategy(down=down)
        plan.start(grid(), initial(), num_rounds=1)
        sent = plan.reports[0].stages
        assert sent[MessageKind.EVALUATE].down < sent[MessageKind.TRAIN].down  # it has no templates
        sizes[down] = sent[MessageKind.EVALUATE].down
    assert sizes["eden2"] < sizes["eden4"] < sizes["float16"]
    layout = ModelLayout.of(small_model()).layout
    halved = layout.size - sum(layout.sizes(Group.VARIANCE))  # variances are always exact
    assert sizes["float32"] - sizes["float16"] == len(NODES) * 2 * halved
    arrays = strategy(evaluate="arrays")
    arrays.start(FakeGrid(with_stock_evaluation()), initial(), num_rounds=1)
    assert arrays.reports[0].stages[MessageKind.EVALUATE].down > 2.5 * sizes["eden4"]


@pytest.mark.parametrize("name", METHODS)
def test_clients_evaluate_the_model_that_the_strategy_returns(name: str) -> None:
    """To the bit where the broadcast is exact: of FedPM a sampled model, no probabilities."""
    plan = strategy(name, {"rounds": 2} if "rounds" in METHODS[name].options else None)
    seen: list[F32] = []

    def answer(message: Message) -> Message:
        if message.metadata.message_type == "train":
            return honest(11)(message)
        model = small_model(99)
        load(model, message)
        seen.append(ModelLayout.of(model).read())
        return reply_from(message, RecordDict({"metrics": MetricRecord({"num-examples": 1, "ok": 1})}))

    result = plan.start(FakeGrid(dict.fromkeys(NODES, answer)), initial(), num_rounds=2)
    assert len(seen) == 6
    for values in seen[3:]:
        assert values.tobytes() == flat(result.arrays).tobytes()
    if name == "fedpm":
        coded = seen[5][: ModelLayout.of(small_model()).layout.span(0).stop]  # type: ignore[arg-type]
        assert 0.3 < np.count_nonzero(coded) / coded.size < 0.7
        assert coded.min() < 0 < coded.max()


def test_a_lossy_model_is_the_same_for_all_and_near() -> None:
    plan, seen = strategy(down="eden4"), list[F32]()

    def answer(message: Message) -> Message:
        if message.metadata.message_type == "train":
            return honest(11)(message)
        model = small_model(99)
        load(model, message)
        seen.append(ModelLayout.of(model).read())
        return reply_from(message, RecordDict({"metrics": MetricRecord({"num-examples": 1, "ok": 1})}))

    result = plan.start(FakeGrid(dict.fromkeys(NODES, answer)), initial(), num_rounds=1)
    assert len({values.tobytes() for values in seen}) == 1
    exact = flat(result.arrays)
    # 4 bits code a rotated vector with a squared error of 0.95 % (EDEN); dense values take 16 bits.
    assert 0 < np.square(seen[0] - exact).sum() / np.square(exact).sum() < 0.015


def evaluation(**more: Any) -> Message:
    plan = strategy(**more)
    plan.begin(initial())
    return next(iter(plan.configure_evaluate(1, initial(), ConfigRecord(), grid())))


def training() -> Message:
    plan = strategy()
    plan.begin(initial())
    return next(iter(plan.configure_train(1, initial(), ConfigRecord(), grid())))


def test_a_message_of_the_other_kind_says_what_to_write() -> None:
    model = small_model(3)
    before = ModelLayout.of(model).read().copy()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = context(11)
    with pytest.raises(WrongMessageError, match=r"fedmrn\.flower\.client\.load\(model, message\)"):
        attach(model, sgd, evaluation(), kept, steps=1)
    with pytest.raises(WrongMessageError, match=r"answer it in @app\.train\(\), by attach"):
        load(model, training())
    plain = evaluation(evaluate="arrays")
    with pytest.raises(WrongMessageError, match=r"strategy fedmrn\.flower\.FedMRN on the server"):
        attach(model, sgd, plain, kept, steps=1)
    with pytest.raises(WrongMessageError, match=r"model\.load_state_dict\(message.content"):
        load(model, plain)
    assert (ModelLayout.of(model).read() == before).all()


def test_what_is_no_model_to_evaluate_is_refused_and_changes_nothing() -> None:
    model = small_model(3)
    before = ModelLayout.of(model).read().copy()
    data = records.model_bytes(evaluation().content, "arrays")
    frame = Frame.from_bytes(data, kind=Kind.MODEL)
    broadcast = records.broadcast_bytes(training().content, "arrays")
    for wrong, error in ((broadcast, WrongKindError), (Frame.from_bytes(broadcast), WrongKindError)):
        with pytest.raises(error):
            load_model(model, wrong)
    with pytest.raises(LimitError):
        load(model, evaluation(), limits=Limits(max_bytes=len(data) - 1))
    with pytest.raises(WrongLayoutError):
        load_model(torch.nn.Linear(3, 3), data)
    for rule in ("masked", "any"):
        with pytest.raises(WrongKindError):
            attach_bytes(model, data, rule)
        with pytest.raises(WrongKindError):
            attach_bytes(model, frame, rule)
    assert (ModelLayout.of(model).read() == before).all()
    load_model(model, frame)
    assert ModelLayout.of(model).read().tobytes() == ModelLayout.of(small_model()).read().tobytes()


def attach_bytes(model: torch.nn.Module, data: Frame | bytes, accept: str) -> None:
    attach_frame(model, torch.optim.SGD(model.parameters(), lr=0.1), data, steps=1, accept=accept)


def test_a_stock_client_function_is_told_what_to_write(caplog: pytest.LogCaptureFixture) -> None:
    def stock(message: Message) -> Message:
        if message.metadata.message_type == "train":
            return honest(11)(message)
        try:
            message.content["arrays"].to_torch_state_dict()  # type: ignore[union-attr]
        except TypeError as error:
            return reply_from(message, Error(2, f"{type(error)}:<'{error}'>"), 1)
        raise AssertionError("a frame is no state dict")

    plan = strategy()
    with caplog.at_level(logging.WARNING, "flwr"):
        result = plan.start(FakeGrid(dict.fromkeys(NODES, stock)), initial(), num_rounds=2)
    assert caplog.text.count('write load(model, message) in its place, or give the strategy evaluate="arrays"') == 1
    assert result.evaluate_metrics_clientapp[2]["evaluation-answered"] == 0
    assert [line.split(": ")[:2] for line in plan.reports[0].failed_otherwise] == [
        [f"node {node}", "evaluate"] for node in plan.reports[0].stages[MessageKind.EVALUATE].asked
    ]


def test_replies_that_answer_nothing_are_counted_and_not_averaged() -> None:
    def twice(message: Message) -> Any:
        back = honest(13)(message)
        if message.metadata.message_type == "train":
            return back
        foreign = honest(13)(message)
        foreign.metadata.__dict__["_reply_to_message_id"] = "another"
        return [back, foreign, honest(13)(message)]

    nodes = Counting(grid(node13=twice).nodes)
    plan = strategy()
    result = plan.start(nodes, initial(), num_rounds=1)
    (report,) = plan.reports
    errors = [line.split(": ")[2] for line in report.failed_otherwise]
    assert errors == ["UnknownClientError", "DuplicateFrameError"]
    assert result.evaluate_metrics_clientapp[1]["evaluation-answered"] == 3
    assert report.total_up == sum(nodes.up.values())


def test_evaluation_alone_is_counted_too() -> None:
    nodes = Counting(grid().nodes)
    plan = strategy(fraction_train=0.0)
    plan.start(nodes, initial(), num_rounds=5)
    assert [report.round for report in plan.reports] == [1, 2, 3, 4, 5]
    assert sum(report.total_down for report in plan.reports) == nodes.down["evaluate"]
    assert nodes.down.keys() == {"evaluate"}


def test_an_evaluation_of_a_round_of_its_own_is_not_added_to_another() -> None:
    plan = strategy()
    plan.begin(initial())
    nodes = grid()
    messages = plan.configure_train(1, initial(), ConfigRecord(), nodes)
    plan.aggregate_train(1, nodes.send_and_receive(messages))
    asked = plan.configure_evaluate(2, initial(), ConfigRecord(), nodes)
    plan.aggregate_evaluate(2, nodes.send_and_receive(asked))
    first, second = plan.reports
    assert (first.evaluation, second.round) == (None, 2)
    assert second.total_down == second.stages[MessageKind.EVALUATE].down > 0


def test_nobody_is_asked_where_evaluation_is_off() -> None:
    plan = strategy(fraction_evaluate=0.0)
    result = plan.start(grid(), initial(), num_rounds=1)
    assert dict(result.evaluate_metrics_clientapp) == {}
    assert MessageKind.EVALUATE not in plan.reports[0].stages
    assert "evaluation" not in str(plan.reports[0])


def test_a_word_that_does_not_exist_is_told() -> None:
    with pytest.raises(ConfigError, match="did you mean 'frame'"):
        strategy(evaluate="frames")
