"""Private masks on Flower: epsilon in the log and in the history, and a round of too few nodes is lost."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_grid import FakeGrid, Node, reply_from
from flower_clients import NODES, SECRET, context, samples, small_model
from flwr.app import ArrayRecord, Context, Error, Message
from flwr.serverapp.strategy import Result
from torch import nn
from torch.nn import functional as F

from fedmrn.errors import ConfigError, NoUpdatesError
from fedmrn.flower import FedMRN
from fedmrn.flower.client import attach, reply
from fedmrn.flower.member import secure_sum
from fedmrn.privacy import PrivateRounds, epsilon_of
from fedmrn.secure import SecureSum
from fedmrn.torch import ModelLayout

THETA = 0.1
OPTIONS = {"theta": THETA, "scale": 0.5, "noise_key": "round"}


def plain_model() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


D = ModelLayout.of(plain_model()).layout.trainable


def strategy(model: Callable[[], nn.Module] = plain_model, **more: Any) -> FedMRN:
    view, more = ModelLayout.of(model()), {"min_train_nodes": 3, "fraction_evaluate": 0.0, **more}
    return FedMRN(view, "fedmrn-s", OPTIONS, secret=SECRET, equal=True, **more)


def client(node: int, mine: Context | None = None, silent: tuple[int, ...] = ()) -> Node:
    """Trains privately, and fails in some of the rounds."""
    mine = context(node) if mine is None else mine

    def answer(message: Message) -> Message:
        if message.metadata.message_type == "train.secure":
            return reply_from(message, secure_sum(message, mine).content, node)
        if message.content["config"]["server-round"] in silent:
            return reply_from(message, Error(code=1, reason="no"), node)
        model, (x, y) = plain_model(), samples(node)
        optimizer = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), message, mine, steps=1, accept="private")
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        return reply_from(message, reply(optimizer, message, mine, weight=len(y)).content, node)

    return answer


def nodes(silent: tuple[int, ...] = ()) -> FakeGrid:
    return FakeGrid({node: client(node, silent=silent if node == 12 else ()) for node in NODES})


def start(plan: FedMRN, grid: FakeGrid, rounds: int = 3) -> Result:
    return plan.start(grid, ArrayRecord(plain_model().state_dict()), num_rounds=rounds)


def epsilon(rounds: int, clients: int = 3) -> float:
    return epsilon_of([PrivateRounds(THETA, clients, D, rounds)])


def test_epsilon_before_in_and_after_a_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flwr")
    result = start(strategy(), nodes())
    told = [line for line in caplog.messages if "epsilon" in line]
    assert f"with these settings epsilon will be {epsilon(3):.3g} (delta 1e-05)" in told[0]
    assert "sees single masks" in told[0]
    assert f"epsilon is {epsilon(3):.3g} (delta 1e-05) after 3 rounds" in told[-1]
    history = [result.train_metrics_clientapp[n]["epsilon"] for n in (1, 2, 3)]
    assert history == pytest.approx([epsilon(n) for n in (1, 2, 3)])


def test_a_round_of_fewer_nodes_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flwr")
    plan, models = strategy(), list[bytes]()

    def kept(number: int, arrays: ArrayRecord) -> None:
        now = arrays if number == 0 else plan.model(number)  # the server's own: what it broadcasts next
        models.append(b"".join(array.data for array in now.values()))

    initial = ArrayRecord(plain_model().state_dict())
    result = plan.start(nodes(silent=(2,)), initial, num_rounds=3, evaluate_fn=kept)
    assert models[1] == models[2], "the model stays"
    assert len({models[0], models[1], models[3]}) == 3
    assert [len(report.folded) for report in plan.reports] == [3, 0, 3]
    assert "2 clients answered, and the account of privacy is made for 3 or more" in caplog.text
    history = [result.train_metrics_clientapp[n]["epsilon"] for n in (1, 2, 3)]
    assert history == pytest.approx([epsilon(1), epsilon(1), epsilon(2)])
    assert f"epsilon is {epsilon(2):.3g} (delta 1e-05) after 2 rounds" in caplog.messages[-1]


def test_rounds_that_are_lost_end_a_run() -> None:
    with pytest.raises(NoUpdatesError, match="no update was folded in 2 rounds in a row"):
        start(strategy(give_up_after=2), nodes(silent=(2, 3, 4)), rounds=5)


def test_with_secure_sums_the_threshold_counts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flwr")
    plan = strategy(protect=SecureSum(threshold=2))
    start(plan, nodes(silent=(2,)), rounds=2)
    told = next(line for line in caplog.messages if "epsilon" in line)
    assert f"epsilon will be {epsilon(2, clients=2):.3g} " in told
    assert "single masks" not in told
    both = epsilon_of([PrivateRounds(THETA, 3, D), PrivateRounds(THETA, 2, D)])
    assert plan.reports[-1].epsilon == pytest.approx(both)


def test_a_run_that_goes_on_knows_what_was_spent(tmp_path: Path) -> None:
    start(strategy(checkpoint=tmp_path), nodes(silent=(1,)), rounds=2)
    plan = strategy(checkpoint=tmp_path)
    start(plan, nodes(), rounds=4)
    assert plan.reports[-1].epsilon == pytest.approx(epsilon(3)), "round 1 was lost"


def test_started_again_it_counts_anew() -> None:
    plan = strategy()
    for rounds in (2, 1):
        start(plan, nodes(), rounds=rounds)
        assert plan.reports[-1].epsilon == pytest.approx(epsilon(rounds))


@pytest.mark.parametrize(
    ("model", "more", "words"),
    [
        (small_model, {}, "normalisation layers"),
        (plain_model, {"min_train_nodes": 1}, "one client"),
        (plain_model, {"equal": False}, "count alike"),
    ],
)
def test_what_breaks_it_is_refused_before_anything_starts(
    model: Callable[[], nn.Module], more: dict[str, Any], words: str
) -> None:
    options = {"secret": SECRET, "equal": True, **more}
    with pytest.raises(ConfigError, match=words):
        FedMRN(ModelLayout.of(model()), "fedmrn-s", OPTIONS, **options)


def test_a_client_of_private_masks_alone_refuses_others() -> None:
    plain = FedMRN(ModelLayout.of(plain_model()), "fedmrn-s", secret=SECRET, give_up_after=1)

    def told(node: int) -> Node:
        def answer(message: Message) -> Message:
            try:
                return client(node)(message)  # type: ignore[return-value]
            except Exception as error:
                return reply_from(message, Error(code=1, reason=f"{type(error).__name__}: {error}"), node)

        return answer

    with pytest.raises(NoUpdatesError, match=r"MethodNotAcceptedError.*without theta"):
        start(plain, FakeGrid({node: told(node) for node in NODES}))


def test_a_private_client_does_not_tell_its_number_of_samples() -> None:
    """Its frame says weight 1, and so does what lies beside it."""
    said: list[object] = []

    def listening(node: int) -> Node:
        inner = client(node)

        def answer(message: Message) -> Message:
            back = inner(message)
            assert isinstance(back, Message)
            said.append(back.content["metrics"]["num-examples"])
            return back

        return answer

    start(strategy(), FakeGrid({node: listening(node) for node in NODES}), rounds=1)
    assert said == [1, 1, 1]
