"""A client's side: what it keeps between messages, and what it refuses."""

from typing import Any

import numpy as np
import pytest
import torch
from fake_grid import FakeGrid, reply_from
from flower_clients import context, grid, honest, initial, one_round, small_model, strategy
from flwr.app import Context, Message, MessageType, RecordDict
from torch import nn

from fedmrn.errors import WrongLayoutError, WrongMessageError
from fedmrn.flower import FedMRN
from fedmrn.flower.client import MEMORY, attach, update_reply
from fedmrn.torch import ModelLayout, Selection
from fedmrn.torch.rules.learned import LearnedSign


def state_of(kept: Context) -> np.ndarray[Any, np.dtype[np.float32]]:
    return kept.state.array_records[MEMORY]["memory"].numpy()


def test_what_a_client_keeps_lies_in_its_context() -> None:
    kept = context(11)
    plan, nodes = strategy("topk-ef"), grid(node11=honest(11, kept))
    one_round(plan, nodes)
    first = state_of(kept).copy()
    assert first.any()
    one_round(plan, nodes, 2)
    assert plan.reports[1].folded
    assert (state_of(kept) != first).any()
    plain = context(12)
    one_round(strategy(), grid(node12=honest(12, plain)))
    assert not plain.state


def test_a_message_of_another_strategy_is_refused() -> None:
    model = small_model()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for content in (RecordDict(), RecordDict({"arrays": initial()})):
        message = Message(content, 11, MessageType.TRAIN)
        with pytest.raises(WrongMessageError):
            attach(model, sgd, message, context(11), steps=1, accept="any")
    assert all((before[name] == value).all() for name, value in model.state_dict().items())


def test_a_broadcast_for_another_model_is_refused() -> None:
    def other(message: Message) -> Message:
        model = nn.Linear(6, 3)
        with pytest.raises(WrongLayoutError):
            attach(model, torch.optim.SGD(model.parameters(), lr=0.1), message, context(11), steps=1, accept="any")
        return reply_from(message, RecordDict())

    plan = strategy()
    one_round(plan, FakeGrid(dict.fromkeys((11, 12, 13), other)))
    assert len(plan.reports[0].refused) == 3


def test_a_choice_of_tensors_is_the_servers_and_the_clients() -> None:
    chosen, layouts = Selection(dense=["*.bias"]), []

    def client(message: Message) -> Message:
        model = small_model()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(WrongLayoutError, match="choose="):
            attach(model, sgd, message, context(11), steps=1)
        compiled = torch.compile(model, backend="eager")
        layouts.append(attach(compiled, sgd, message, context(11), steps=1, choose=chosen).view.layout)  # type: ignore[arg-type]
        return reply_from(message, RecordDict())

    plan = FedMRN(ModelLayout.of(small_model(), choose=chosen), "fedmrn")
    one_round(plan, FakeGrid(dict.fromkeys((11, 12, 13), client)))
    assert layouts == [plan.layout] * 3


@pytest.mark.parametrize(("options", "told"), [({}, (0.5, 6.0)), ({"rho": 2}, (0.5, 2.0)), ({"warmup": 1}, (1.0, 6.0))])
def test_clients_follow_the_options_that_the_strategy_was_given(
    options: dict[str, float], told: tuple[float, float]
) -> None:
    found = []

    def answer(message: Message) -> Message:
        model = small_model()
        rule = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), message, context(11), steps=1, accept="any")
        assert isinstance(rule, LearnedSign)
        found.append((rule.warmup, rule.rho))
        return honest(11)(message)

    plan = strategy("fedbat", options)
    one_round(plan, FakeGrid(dict.fromkeys((11, 12, 13), answer)))
    assert found == [told] * 3


def test_a_client_cannot_set_what_the_server_tells() -> None:
    def answer(message: Message) -> Message:
        model = small_model()
        with pytest.raises(TypeError, match="rho"):
            attach(
                model, torch.optim.SGD(model.parameters(), lr=0.1), message, context(11), steps=1, accept="any", rho=2.0
            )  # type: ignore[call-arg]
        return honest(11)(message)

    one_round(strategy("fedbat"), FakeGrid(dict.fromkeys((11, 12, 13), answer)))


def test_the_model_after_a_round_is_what_the_server_folds() -> None:
    """A reply leaves the client's model at w + n * mask, an ordinary model again."""
    plan = strategy()
    models: list[nn.Module] = []

    def answer(message: Message) -> Message:
        model = small_model()
        optimizer = attach(
            model, torch.optim.SGD(model.parameters(), lr=0.1), message, context(11), steps=1, accept="any"
        )
        optimizer.step()
        frame = optimizer.finish(weight=1)
        models.append(model)
        return reply_from(message, update_reply(frame.to_bytes(), message, {"num-examples": 1}, "arrays").content)

    nodes = FakeGrid({11: answer})
    plan.min_train_nodes = plan.min_available_nodes = 1
    arrays, _ = one_round(plan, nodes)
    assert arrays is not None
    layout = ModelLayout.of(models[0])
    found = np.concatenate([arrays[t.name].numpy().reshape(-1) for t in layout.layout.tensors])
    # One frame of weight 1: its values are rounded to the fold's unit, below 2^-21, and once to float32.
    assert np.abs(found - layout.read()).max() <= 2.0**-21 + 2.0**-23
