"""A run that gets nothing ends with an error, and the log says once for each cause what to write instead."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fake_grid import SUPERLINK, FakeGrid, reply_from
from flower_clients import NODES, context, grid, honest, initial, small_model, strategy
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from torch import nn

from fedmrn.errors import ConfigError, EmptyRoundError, MethodNotAcceptedError, NoUpdatesError
from fedmrn.flower import records
from fedmrn.flower.client import attach

Answer = Callable[[Message], Message | list[Message] | None]


def raising(work: Callable[[Message], object]) -> Answer:
    """A client whose exception becomes an error, as Flower's runtime does it."""

    def answer(message: Message) -> Message:
        try:
            work(message)
        except Exception as error:
            return reply_from(message, Error(2, f"{type(error)}:<'{error}'>"), SUPERLINK)
        raise AssertionError("it was to fail")

    return answer


def as_ray_does(work: Callable[[Message], object]) -> Answer:
    """The simulation engine hands over a traceback, of which the last line says what happened."""

    def answer(message: Message) -> Message:
        try:
            work(message)
        except Exception as error:
            trace = "\x1b[36mray::run()\x1b[39m (pid=1)\n" + '  File "/a/b.py", line 1, in run\n' * 60
            text = f"<class 'RayTaskError'>:<'{trace}ClientAppException: Exception occurred. Message: {error}'>"
            return reply_from(message, Error(2, text), SUPERLINK)
        raise AssertionError("it was to fail")

    return answer


def attached(model: nn.Module, **options: Any) -> Callable[[Message], object]:
    def work(message: Message) -> object:
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        return attach(model, sgd, message, context(11), steps=1, **options)

    return work


def stock_answer(message: Message) -> Message:
    content = RecordDict({"arrays": initial(), "metrics": MetricRecord({"num-examples": 12})})
    return reply_from(message, content)


def stock_reader(message: Message) -> object:
    return message.content["arrays"].to_torch_state_dict()  # type: ignore[union-attr]


def other_version(message: Message) -> object:
    data = bytearray(records.broadcast_bytes(message.content, "arrays"))
    data[4] = 9
    message.content["arrays"]["frame"] = records.to_array(bytes(data[:-4]) + bytes(data[-4:]))  # type: ignore[index]
    message.content["arrays"]["state"] = records.to_array(b"")  # type: ignore[index]
    return attached(small_model())(message)


def stale() -> Answer:
    kept: list[bytes] = []

    def answer(message: Message) -> Message:
        back = honest(11)(message)
        kept.append(records.update_bytes(back.content, "arrays"))
        back.content["arrays"]["frame"] = records.to_array(kept[0])  # type: ignore[index]
        return reply_from(message, back.content)

    return answer


CAUSES: dict[str, tuple[str, Answer, str]] = {
    "arrays": ("fedmrn", stock_answer, "return fedmrn.flower.client.reply(optimizer, message, context, weight=...)"),
    "nothing": ("fedmrn", lambda m: reply_from(m, RecordDict()), "clients do not answer by frames"),
    "reads arrays": ("fedmrn", raising(stock_reader), "leave out load_state_dict(...)"),
    "other model": ("fedmrn", raising(attached(nn.Linear(6, 3))), "clients build another model than the server"),
    "not accepted": ("fedavg", raising(attached(small_model())), "they pass accept=... to attach(...)"),
    "other version": ("fedmrn", raising(other_version), "different versions of fedmrn"),
    "as Ray tells it": ("fedavg", as_ray_does(attached(small_model())), "they pass accept=... to attach(...)"),
    "silent": ("fedmrn", lambda _: None, "no node answered in time"),
}


@pytest.mark.parametrize("case", CAUSES)
def test_three_rounds_without_an_update_end_the_run(case: str, caplog: pytest.LogCaptureFixture) -> None:
    method, answer, advice = CAUSES[case]
    plan = strategy(method, fraction_evaluate=0.0)
    nodes = FakeGrid(dict.fromkeys(NODES, answer))  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "flwr"), pytest.raises(NoUpdatesError) as caught:
        plan.start(nodes, initial(), num_rounds=10, timeout=0.05)
    assert len(plan.reports) == 3
    assert caplog.text.count(advice) == 1
    text = str(caught.value)
    assert "in 3 rounds in a row, of which round 3 is the last" in text
    assert "\n" not in text
    assert "give_up_after=None" in text
    assert isinstance(caught.value, EmptyRoundError)


def test_a_frame_of_another_round_is_told(caplog: pytest.LogCaptureFixture) -> None:
    plan = strategy(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    with caplog.at_level(logging.WARNING, "flwr"), pytest.raises(NoUpdatesError, match="round 4 is the last"):
        plan.start(FakeGrid({11: stale()}), initial(), num_rounds=10)
    assert caplog.text.count("call attach(...) on each message") == 1


def test_rounds_in_which_nobody_was_there_count() -> None:
    plan = strategy(min_train_nodes=0, min_available_nodes=0, fraction_evaluate=0.0)
    with pytest.raises(NoUpdatesError, match="no node was there to ask"):
        plan.start(FakeGrid({}), initial(), num_rounds=10)
    assert [len(report.asked) for report in plan.reports] == [0, 0, 0]


def absent_in(*rounds: int) -> FakeGrid:
    def node_of(node: int) -> Answer:
        def answer(message: Message) -> Message | None:
            return None if message.content["config"]["server-round"] in rounds else honest(node)(message)  # type: ignore[index]

        return answer

    return FakeGrid({node: node_of(node) for node in NODES})  # type: ignore[arg-type]


def test_only_rounds_in_a_row_count() -> None:
    plan = strategy(fraction_evaluate=0.0)
    plan.start(absent_in(1, 2, 4, 5), initial(), num_rounds=6, timeout=0.05)
    assert [len(report.folded) for report in plan.reports] == [0, 0, 3, 0, 0, 3]
    with pytest.raises(NoUpdatesError, match="in 2 rounds in a row, of which round 2 "):
        strategy(fraction_evaluate=0.0, give_up_after=2).start(absent_in(1, 2), initial(), num_rounds=6, timeout=0.05)


def test_one_update_of_many_is_enough() -> None:
    plan = strategy(fraction_evaluate=0.0)
    plan.start(grid(node12=stock_answer, node13=stock_answer), initial(), num_rounds=4)
    assert [report.folded for report in plan.reports] == [[11]] * 4


@pytest.mark.parametrize("never", [None, 0])
def test_it_can_be_switched_off(never: int | None) -> None:
    plan = strategy(fraction_evaluate=0.0, give_up_after=never)
    plan.start(FakeGrid(dict.fromkeys(NODES, stock_answer)), initial(), num_rounds=5)
    assert len(plan.reports) == 5


def test_a_new_start_counts_and_speaks_anew(caplog: pytest.LogCaptureFixture) -> None:
    plan, nodes = strategy(fraction_evaluate=0.0), FakeGrid(dict.fromkeys(NODES, stock_answer))
    with caplog.at_level(logging.WARNING, "flwr"):
        for _ in range(2):
            plan.start(nodes, initial(), num_rounds=2)
    assert caplog.text.count("clients do not answer by frames") == 2


def test_a_run_without_training_is_none_that_gets_nothing() -> None:
    strategy(fraction_train=0.0).start(grid(), initial(), num_rounds=5)


@pytest.mark.parametrize("wrong", [-1, 1.5, "three"])
def test_a_number_of_rounds_that_cannot_be_is_told(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="give_up_after"):
        strategy(give_up_after=wrong)


def test_a_client_answers_by_masked_noise_unless_it_says_otherwise() -> None:
    plan = strategy("fedavg")
    plan.begin(initial())
    message = next(iter(plan.configure_train(1, initial(), ConfigRecord(), grid())))
    model = small_model(3)
    with pytest.raises(MethodNotAcceptedError, match=r"accept=\('masked', 'fedavg'\)"):
        attached(model)(message)
    attached(model, accept="fedavg")(message)
