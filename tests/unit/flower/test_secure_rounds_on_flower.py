"""Secure sums on Flower: the plain round's model to the bit, drop-outs, lost rounds, and secrets that are deleted."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_grid import FakeGrid, Node, reply_from
from flower_clients import NODES, SECRET, context, samples
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from secure_sums_on_flower import OPTIONS
from secure_sums_on_flower import model as plain_model
from torch.nn import functional as F

from fedmrn.errors import ConfigError, NoUpdatesError, RefusedRevealError, WrongMessageError
from fedmrn.federation.transport import MessageKind
from fedmrn.flower import FedMRN
from fedmrn.flower.client import attach, reply
from fedmrn.flower.member import secure_sum
from fedmrn.flower.records import to_array
from fedmrn.methods import method
from fedmrn.secure import SecureSum
from fedmrn.secure.update import shape_of
from fedmrn.torch import ModelLayout


def member(
    node: int,
    mine: Context,
    *,
    dies_at: str = "",
    secure: bool = False,
    colluding: float | None = None,
    metrics: dict[str, float] | None = None,
) -> Node:
    """A client as an app would have it; it is silent from a message on: of type train, or the record's kind."""

    def answer(message: Message) -> Message | None:
        kind = message.metadata.message_type
        if kind == "train.secure":
            record = message.content["arrays"]["frame"].data
            if str(record[5]) == dies_at:
                return None
            return reply_from(message, secure_sum(message, mine, colluding=colluding).content, node)
        if kind == dies_at:
            return None
        model, (x, y) = plain_model(), samples(node)
        optimizer = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), message, mine, steps=1)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        back = reply(optimizer, message, mine, weight=len(y), secure=secure, metrics=metrics)
        return reply_from(message, back.content, node)

    return answer


def strategy(protect: SecureSum | None = None, down: str = "float32", fraction: float = 1, **more: Any) -> FedMRN:
    view, how = ModelLayout.of(plain_model()), {"down": down, "fraction_evaluate": fraction}
    return FedMRN(view, "fedmrn-s", {**OPTIONS, **more}, secret=SECRET, equal=True, protect=protect, **how)


def one_round(plan: FedMRN, nodes: dict[int, Node]) -> bytes | None:
    grid, initial = FakeGrid(nodes), ArrayRecord(plain_model().state_dict())
    plan.begin(initial)
    messages = list(plan.configure_train(1, initial, ConfigRecord(), grid))
    arrays, _ = plan.aggregate_train(1, grid.send_and_receive(messages) if messages else [])
    return None if arrays is None else b"".join(array.data for array in arrays.values())


@pytest.fixture(autouse=True)
def _same_dice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask is a client's own draw; here it is the same in both rounds."""
    monkeypatch.setattr("secrets.randbits", lambda bits: bits)
    monkeypatch.setattr("fedmrn.server.server.os", SimpleNamespace(urandom=bytes))  # the run's id


def contexts() -> dict[int, Context]:
    return {node: context(node) for node in NODES}


def test_the_model_is_the_plain_sum_to_the_bit() -> None:
    mine = contexts()
    plan = strategy(SecureSum(threshold=2))
    secure = one_round(plan, {node: member(node, mine[node], secure=True) for node in NODES})
    plain = one_round(strategy(), {node: member(node, context(node)) for node in NODES})
    assert secure == plain is not None
    assert not any(mine[node].state for node in NODES), "secrets are deleted"
    stages = plan.reports[0].stages
    assert stages[MessageKind.KEYS].received == {"keys": 3 * 224}
    assert stages[MessageKind.UNMASK].received == {"unmasking": 3 * (32 + 3 * 18)}
    assert stages[MessageKind.SHARES].received == {"shares": 3 * (32 + 2 * 50)}
    assert "shares" in stages[MessageKind.TRAIN].sent
    assert sorted(plan.reports[0].folded) == sorted(NODES)


@pytest.mark.parametrize("dies_at", ["1", "3", "train"])
def test_one_that_drops_out_is_left_out(dies_at: str) -> None:
    nodes = {node: member(node, context(node), dies_at=dies_at if node == 12 else "") for node in NODES}
    secure = one_round(strategy(SecureSum(threshold=2)), nodes)
    silent = member(12, context(12), dies_at="train")
    plain = one_round(strategy(), {**{node: member(node, context(node)) for node in NODES}, 12: silent})
    assert secure == plain is not None


@pytest.mark.parametrize("dies_at", ["1", "3", "train", "7"])
def test_below_the_threshold_the_round_is_lost_and_the_model_stays(
    dies_at: str, caplog: pytest.LogCaptureFixture
) -> None:
    plan = strategy(SecureSum(threshold=3))
    nodes = {node: member(node, context(node), dies_at=dies_at if node == 12 else "") for node in NODES}
    assert one_round(plan, nodes) is None
    assert (plan.reports[0].folded, plan.reports[0].up) == ([], 0), "of what was folded"
    assert "round 1 is lost: 2 of 3 clients answered with" in caplog.text


def test_a_client_may_insist() -> None:
    with pytest.raises(WrongMessageError, match="with pads alone"):
        one_round(strategy(), {11: member(11, context(11), secure=True), **{n: lambda _: None for n in (12, 13)}})


def test_too_few_nodes_and_wrong_settings() -> None:
    assert one_round(strategy(SecureSum(threshold=4)), {n: member(n, context(n)) for n in NODES}) is None
    with pytest.raises(ConfigError, match="noise_key"):
        strategy(SecureSum(), noise_key="client")


def test_messages_that_ask_nothing() -> None:
    asked = Message(content=RecordDict({"arrays": ArrayRecord()}), message_type="train.secure", dst_node_id=1)
    with pytest.raises(WrongMessageError):
        secure_sum(asked, context(1))


def plain_beside(plan: FedMRN, **said: Any) -> list[dict[str, Any]]:
    """What the server gets beside the arrays of each update."""
    found: list[dict[str, Any]] = []

    def node(index: int) -> Node:
        inner = member(index, context(index), **said)

        def answer(message: Message) -> Message | None:
            back = inner(message)
            if isinstance(back, Message) and message.metadata.message_type == "train":
                assert set(back.content) == {"arrays", "metrics"}
                found.append(dict(back.content["metrics"]))
            return back if isinstance(back, Message) else None

        return answer

    assert one_round(plan, {index: node(index) for index in NODES}) is not None
    return found


def test_what_travels_beside_an_update_can_be_switched_off() -> None:
    """No number of samples, and no metrics where the client returns none."""
    assert plain_beside(strategy(SecureSum(threshold=2))) == 3 * [{"num-examples": 1}]
    told = plain_beside(strategy(SecureSum(threshold=2)), metrics={"train_loss": 2.5})
    assert told == 3 * [{"num-examples": 1, "train_loss": 2.5}]
    assert sorted(one["num-examples"] for one in plain_beside(strategy())) == sorted(NODES.values())


def test_clients_that_are_not_equal_count_alike() -> None:
    """Of 5, 9 and 12 samples: a strategy that weighs them is refused, and `equal` makes the mean of the updates."""
    with pytest.raises(ConfigError, match="count all clients alike"):
        FedMRN(ModelLayout.of(plain_model()), "fedmrn-s", OPTIONS, protect=SecureSum())


def test_nothing_is_asked_for_that_was_switched_off() -> None:
    """Without evaluation and calibration, a round's messages are those of its secure sum; with a scale, no wishes."""
    plan, kinds = strategy(SecureSum(threshold=2), fraction=0.0), []
    mine = contexts()

    def node(index: int) -> Node:
        inner = member(index, mine[index])

        def answer(message: Message) -> Message | list[Message] | None:
            kinds.append(message.metadata.message_type)
            return inner(message)

        return answer

    nodes = {index: node(index) for index in NODES}
    assert one_round(plan, nodes) is not None
    assert not list(plan.configure_evaluate(1, ArrayRecord(), ConfigRecord(), FakeGrid(nodes)))
    assert kinds == 6 * ["train.secure"] + 3 * ["train"] + 3 * ["train.secure"]
    told, auto = (
        method("fedmrn-s").scheme({"noise_key": "round", "scale": scale}, equal=True) for scale in (0.02, "auto")
    )
    layout = ModelLayout.of(plain_model()).layout
    assert (shape_of(told, layout)[1], shape_of(auto, layout)[1]) == (0, 4)


def test_few_neighbours_on_flower() -> None:
    """The same model, if the clients accept it; those that do not are left out."""
    setting = SecureSum(threshold=4, colluding=0.0)
    nodes = range(11, 17)
    assert setting.neighbours(len(nodes)) == (4, 2)
    models = [
        one_round(strategy(protect), {node: member(node, context(node), colluding=0.0) for node in nodes})
        for protect in (setting, SecureSum(threshold=4), None)
    ]
    assert models[0] == models[1] == models[2] is not None
    plan = strategy(setting)
    with pytest.raises(RefusedRevealError, match="this one shares with all"):
        one_round(plan, {node: member(node, context(node)) for node in nodes})


def test_public_models_and_two_rounds() -> None:
    """With a downlink of differences the second round is summed as well."""
    plan = strategy(SecureSum(threshold=2), down="grid")
    mine, initial = contexts(), ArrayRecord(plain_model().state_dict())
    grid = FakeGrid({node: member(node, mine[node]) for node in NODES})
    plan.begin(initial)
    for number in (1, 2):
        messages = list(plan.configure_train(number, initial, ConfigRecord(), grid))
        arrays, _ = plan.aggregate_train(number, grid.send_and_receive(messages))
        assert arrays is not None
        assert sorted(plan.reports[-1].folded) == sorted(NODES)
    assert not any(context.state for context in mine.values())


def fails(node: int, reason: str, kinds: tuple[str, ...] = ("1",)) -> Node:
    """A client that says an error to records of these kinds."""
    inner = member(node, context(node))

    def answer(message: Message) -> Message | list[Message] | None:
        if message.metadata.message_type == "train.secure" and str(message.content["arrays"]["frame"].data[5]) in kinds:
            return reply_from(message, Error(code=1, reason=reason), node)
        return inner(message)

    return answer


def test_clients_without_the_function_are_told_of_it(caplog: pytest.LogCaptureFixture) -> None:
    """The commonest mistake: what nodes said is in the log and in the error, and what to write."""
    plan = strategy(SecureSum(threshold=2), fraction=0.0)
    said = "ValueError: No train function registered with name 'secure'"
    with pytest.raises(NoUpdatesError, match=r"The last round: node 1\d: keys: .*registered with name 'secure'"):
        plan.start(FakeGrid({n: fails(n, said) for n in NODES}), ArrayRecord(plain_model().state_dict()), num_rounds=5)
    assert caplog.text.count("round 1: node 11: keys: code 1: ValueError") == 1
    assert caplog.text.count('@app.train("secure")') == 1


def test_silence_while_keys_are_exchanged_is_told(caplog: pytest.LogCaptureFixture) -> None:
    plan = strategy(SecureSum(threshold=2), fraction=0.0)
    grid = FakeGrid({n: member(n, context(n), dies_at="1") for n in NODES})
    plan.begin(ArrayRecord(plain_model().state_dict()))
    for number in (1, 2):
        assert not list(plan.configure_train(number, ArrayRecord(), ConfigRecord(), grid))
        assert plan.aggregate_train(number, []) == (None, None)
        assert caplog.text.count(f"round {number} is lost: 0 of 3 clients answered with keys") == 1
    assert not list(plan.configure_train(3, ArrayRecord(), ConfigRecord(), grid))
    with pytest.raises(NoUpdatesError, match="0 of 3 clients answered with keys"):
        plan.aggregate_train(3, [])
    assert "longer timeout" in caplog.text


def test_what_one_node_says_in_an_exchange_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    nodes: dict[int, Node] = {n: member(n, context(n)) for n in NODES}
    assert one_round(strategy(SecureSum(threshold=2)), {**nodes, 12: fails(12, "disk full", ("7",))}) is not None
    assert caplog.text.count("round 1: node 12: unmask: code 1: disk full") == 1


def test_more_nodes_than_can_be_summed_lose_the_round(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fedmrn.secure.session.MOST_MEMBERS", 2)
    assert one_round(strategy(SecureSum(threshold=2)), {n: member(n, context(n)) for n in NODES}) is None
    assert "round 1 is lost: a secure sum is of 2 to 2 clients, got 3" in caplog.text


def test_a_client_asks_for_a_sum_of_so_many() -> None:
    """Through the one line of a client."""
    mine = context(11)
    setup = SecureSum(threshold=2).begin(1, 3, strategy().scheme, ModelLayout.of(plain_model()).layout).setup(0)
    content = RecordDict({"arrays": ArrayRecord({"frame": to_array(setup)})})
    message = Message(content=content, message_type="train.secure", dst_node_id=11)
    with pytest.raises(RefusedRevealError, match="of 3 or more"):
        secure_sum(message, mine, least=3)
    assert not mine.state, "no secret is made"
    secure_sum(message, mine, least=2)


def test_fewer_nodes_than_the_threshold_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """As it is where Flower begins with the first two nodes: the error says what to set."""
    plan = strategy(SecureSum(threshold=7), fraction=0.0)
    grid = FakeGrid({n: member(n, context(n)) for n in NODES})
    with pytest.raises(NoUpdatesError, match=r"threshold 7 cannot be of 3 clients: .*min_train_nodes="):
        plan.start(grid, ArrayRecord(plain_model().state_dict()), num_rounds=5)
    assert caplog.text.count("> round 1: round 1 is lost: a secure sum with threshold 7") == 1
