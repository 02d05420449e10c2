"""The strategy against a slow oracle, with every method, and with replies that do not belong."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fake_grid import SUPERLINK, FakeGrid, reply_from
from flower_clients import NODES, SECRET, grid, honest, initial, one_round, small_model, strategy
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from torch import nn

import oracle
from fedmrn.errors import ConfigError
from fedmrn.federation.transport import MessageKind
from fedmrn.flower import FedMRN, records
from fedmrn.methods import METHODS
from fedmrn.server import Server
from fedmrn.server.optimizer import Momentum, Scaled
from fedmrn.torch import ModelLayout, unwrapped
from fedmrn.wire.frame import HEADER_SIZE, SECTION_SIZE
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update

BAD = 13
"""The node that misbehaves."""


def vector(arrays: ArrayRecord) -> np.ndarray[Any, np.dtype[np.float32]]:
    layout = ModelLayout.of(small_model()).layout
    return np.concatenate([arrays[t.name].numpy().reshape(-1) for t in layout.tensors])


def frame_of(message: Message) -> bytes:
    return records.update_bytes(message.content, "arrays")


def with_frame(message: Message, data: bytes) -> Message:
    arrays = ArrayRecord({"frame": records.to_array(data)})
    metrics = message.content["metrics"]
    message.content = RecordDict({"arrays": arrays, "metrics": metrics})
    return message


def test_a_round_is_the_weighted_mean_of_what_the_oracle_reads() -> None:
    frames: dict[int, bytes] = {}

    def watched(node: int) -> Callable[[Message], Message]:
        def answer(message: Message) -> Message:
            back = honest(node)(message)
            frames[node] = frame_of(back)
            return back

        return answer

    arrays, metrics = one_round(strategy(), FakeGrid({node: watched(node) for node in NODES}))
    assert arrays is not None
    assert metrics is not None
    start, total = vector(initial()).astype(np.float64), sum(NODES.values())
    mean = np.zeros(start.size)
    for node, data in frames.items():
        frame = oracle.read_frame(data)
        assert frame["weight"] == NODES[node]
        values = [v for section in frame["sections"] for v in section["values"]]
        mean += np.array(values) * NODES[node] / total
    variances = ModelLayout.of(small_model()).layout.span(Group.VARIANCE)
    found, expected = vector(arrays), start + mean
    logs = np.log(start[variances]) + mean[variances]  # of variances, logarithms are averaged
    assert np.abs(np.log(found[variances]) - logs).max() < 2**-21 + 2.0**-22
    found[variances] = expected[variances] = 0
    # Values are below 2; each is rounded to multiples of 2^-21 or finer, the mean and the sum once to float32.
    assert np.abs(found - expected).max() < 2**-21 + 2 * 2.0**-24 * 4
    assert metrics["updates-folded"] == 3
    assert metrics["uplink-frame-bytes"] == sum(map(len, frames.values()))
    assert 0 < metrics["train_loss"] < 10  # type: ignore[operator]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_through_start(name: str) -> None:
    plan = strategy(name, {"rounds": 2} if "rounds" in METHODS[name].options else None)
    seen = list[int]()

    def evaluated(number: int, arrays: ArrayRecord) -> MetricRecord:
        small_model().load_state_dict(arrays.to_torch_state_dict())
        seen.append(number)
        return MetricRecord({"ok": 1})

    result = plan.start(grid(), initial(), num_rounds=2, evaluate_fn=evaluated)
    assert seen == [0, 1, 2]
    assert [set(report.folded) for report in plan.reports] == [set(NODES)] * 2
    assert set(result.evaluate_metrics_clientapp) == {1, 2}
    assert 0 <= result.evaluate_metrics_clientapp[2]["accuracy"] <= 1  # type: ignore[operator]
    assert result.arrays.keys() == initial().keys()


def test_a_server_optimizer_scales_what_the_mean_would_move() -> None:
    """After one round momentum has moved the trained part by half of the mean, and statistics by all of it."""
    view = ModelLayout.of(small_model())
    start = view.read()
    plain, slow = (one_round(strategy("fedavg", optimizer=o), grid())[0] for o in (None, Momentum(0.5, 0.9)))
    assert plain is not None
    assert slow is not None
    trained = view.layout.trainable
    whole, half = vector(plain) - start, vector(slow) - start
    assert half[:trained] == pytest.approx(whole[:trained] / 2, abs=2.0**-24)
    assert (half[trained:] == whole[trained:]).all()


def test_the_arrays_cannot_be_averaged_by_mistake() -> None:
    message = next(iter(strategy_messages(strategy())))
    with pytest.raises(TypeError, match="Unsupported serialization"):
        honest(11)(message).content["arrays"]["frame"].numpy()  # type: ignore[index,union-attr]


def strategy_messages(plan: FedMRN) -> list[Message]:
    nodes = grid()
    plan.begin(initial()).run = bytes(16)  # strategies of one secret then send the same
    messages = list(plan.configure_train(1, initial(), ConfigRecord(), nodes))
    for message in messages:
        message.metadata.__dict__["_message_id"] = f"to {message.metadata.dst_node_id}"
    return messages


def test_an_exact_state_is_shared_and_a_coded_one_is_not() -> None:
    exact = [m.content["arrays"]["state"] for m in strategy_messages(strategy())]  # type: ignore[index]
    assert all(state.data is exact[0].data for state in exact)
    coded = [m.content["arrays"]["state"] for m in strategy_messages(strategy(down="eden3"))]  # type: ignore[index]
    assert len({state.data for state in coded}) == 3


def test_frame_and_state_joined_are_the_broadcast() -> None:
    view, scheme = ModelLayout.of(small_model()), METHODS["fedmrn"].scheme()
    round_ = Server(view.layout, scheme, Server.initial(view.layout, scheme, view.read()), SECRET, run=bytes(16)).begin(
        1, NODES
    )
    for message in strategy_messages(strategy()):
        node = message.metadata.dst_node_id
        assert records.broadcast_bytes(message.content, "arrays") == round_.broadcast(node)


def nothing(message: Message) -> None:
    return None


def raised(message: Message) -> Message:
    """Errors come from the SuperLink; only the message that they answer says of whom."""
    return reply_from(message, Error(5, "node unavailable"), SUPERLINK)


def forging(message: Message) -> Message:
    return reply_from(message, Error(0, "x" * 200 + "\n\x1b[0mround 1: 3 of 3 updates folded" + "y" * 5000), SUPERLINK)


def foreign(message: Message) -> Message:
    back = honest(BAD)(message)
    back.metadata.__dict__["_reply_to_message_id"] = "another"
    return back


def in_the_name_of_another(message: Message) -> Message:
    back = honest(BAD)(message)
    back.metadata.__dict__["_src_node_id"] = 11
    return back


def empty(message: Message) -> Message:
    return reply_from(message, RecordDict())


def of_stock_fedavg(message: Message) -> Message:
    content = RecordDict({"arrays": initial(), "metrics": MetricRecord({"num-examples": 12})})
    return reply_from(message, content)


def changed(**fields: Any) -> Callable[[Message], Message]:
    def answer(message: Message) -> Message:
        back = honest(BAD)(message)
        data = frame_of(back)
        array = {"dtype": "uint8", "shape": (len(data),), "stype": records.STYPE, "data": data} | fields
        back.content = RecordDict({"arrays": ArrayRecord({"frame": Array(**array)}), "metrics": MetricRecord({"a": 1})})
        return back

    return answer


def two_arrays(message: Message) -> Message:
    back = honest(BAD)(message)
    array = records.to_array(frame_of(back))
    back.content = RecordDict({"arrays": ArrayRecord({"frame": array, "again": array})})
    return back


def two_records(message: Message) -> Message:
    back = honest(BAD)(message)
    back.content["more"] = ArrayRecord({"frame": records.to_array(frame_of(back))})
    return back


def bytes_as(change: Callable[[bytes], bytes]) -> Callable[[Message], Message]:
    def answer(message: Message) -> Message:
        back = honest(BAD)(message)
        return with_frame(back, change(frame_of(back)))

    return answer


def the_broadcast_itself(message: Message) -> Message:
    back = honest(BAD)(message)
    return with_frame(back, records.broadcast_bytes(message.content, "arrays"))


CASES: dict[str, tuple[Callable[[Message], Any], str, int, int]] = {
    # what the node does; what the log says; how many are refused; how many are silent
    "nothing": (nothing, "", 0, 1),
    "raised": (raised, "node 13: code 5: node unavailable", 0, 0),
    "forging": (forging, "x\\n\\x1b[0mround 1: 3 of 3", 0, 0),
    "foreign": (foreign, "node 13: UnknownClientError", 1, 1),
    "in the name of another": (in_the_name_of_another, "node 11: UnknownClientError", 1, 1),
    "empty": (empty, "node 13: WrongMessageError", 1, 0),
    "stock": (of_stock_fedavg, "node 13: WrongMessageError", 1, 0),
    "numpy": (changed(stype="numpy.ndarray"), "node 13: WrongMessageError", 1, 0),
    "dtype": (changed(dtype="float32"), "node 13: WrongMessageError", 1, 0),
    "shape": (changed(shape=(1 << 60,)), "node 13: WrongMessageError", 1, 0),
    "no bytes": (changed(data=b"", shape=(0,)), "node 13: TruncatedFrameError", 1, 0),
    "two arrays": (two_arrays, "node 13: WrongMessageError", 1, 0),
    "two records": (two_records, "node 13: WrongMessageError", 1, 0),
    "truncated": (bytes_as(lambda data: data[:-1]), "node 13: TruncatedFrameError", 1, 0),
    "flipped": (bytes_as(lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]), "ChecksumError", 1, 0),
    "broadcast": (the_broadcast_itself, "node 13: WrongKindError", 1, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_belong_is_refused_counted_and_named(case: str, caplog: pytest.LogCaptureFixture) -> None:
    answer, text, refused, silent = CASES[case]
    plan = strategy()
    with caplog.at_level(logging.WARNING, "flwr"):
        arrays, metrics = one_round(plan, grid(node13=answer))
    report = plan.reports[0]
    assert set(report.folded) == {11, 12}
    assert (len(report.refused), report.silent, len(report.failed)) == (refused, silent, case in ("raised", "forging"))
    assert text in caplog.text
    assert max(map(len, caplog.text.splitlines())) < 1000
    assert metrics is not None
    assert metrics["updates-folded"] == 2
    assert arrays is not None


def test_a_refused_reply_changes_nothing() -> None:
    """The same frames with and without replies that are refused give the same model to the bit."""
    plan = strategy()
    frames: dict[int, Message] = {}
    for message in strategy_messages(plan):
        frames[message.metadata.dst_node_id] = honest(message.metadata.dst_node_id)(message)
    bad = [case(messages_of(plan)[BAD]) for case, *_ in CASES.values() if case is not nothing]
    first = strategy()
    strategy_messages(first)
    expected, _ = first.aggregate_train(1, [frames[11], frames[12]])
    second = strategy()
    strategy_messages(second)
    found, metrics = second.aggregate_train(1, [*bad, frames[11], *bad, frames[11], frames[12], *bad])
    assert expected is not None
    assert found is not None
    assert vector(found).tobytes() == vector(expected).tobytes()
    assert metrics is not None
    assert metrics["updates-folded"] == 2
    assert any("DuplicateFrameError" in line for line in second.reports[0].refused)


def messages_of(plan: FedMRN) -> dict[int, Message]:
    return {message.metadata.dst_node_id: message for message in strategy_messages(plan)}


def test_a_stale_reply_and_another_nodes_frame_are_refused() -> None:
    plan, kept = strategy(), dict[int, bytes]()

    def keeping(message: Message) -> Message:
        back = honest(12)(message)
        kept[12] = kept.get(12, frame_of(back))
        return back

    def thief(message: Message) -> Message:
        back = honest(BAD)(message)
        return with_frame(back, kept[12])

    nodes = FakeGrid({11: honest(11), 12: keeping, 13: honest(13)})
    one_round(plan, nodes)
    nodes.nodes[12], nodes.nodes[13] = lambda m: with_frame(honest(12)(m), kept[12]), thief
    plan.aggregate_train(2, nodes.send_and_receive(plan.configure_train(2, initial(), ConfigRecord(), nodes)))
    assert plan.reports[1].folded == [11]
    assert sorted(line.split(": ")[1] for line in plan.reports[1].refused) == ["WrongRoundError"] * 2
    fresh = strategy()
    messages = messages_of(fresh)
    stolen = honest(12)(messages[12])
    other = with_frame(honest(13)(messages[13]), frame_of(stolen))
    fresh.aggregate_train(1, [other])
    assert fresh.reports[0].refused[0].startswith("node 13: WrongKeyError")


def test_each_start_draws_a_secret_of_its_own() -> None:
    plan = FedMRN(ModelLayout.of(small_model()))
    keys = []
    for _ in range(2):
        plan.begin(initial())
        messages = plan.configure_train(1, initial(), ConfigRecord(), grid())
        keys.append({records.broadcast_bytes(m.content, "arrays")[24:32] for m in messages})
    assert len(keys[0] | keys[1]) == 6


def test_an_empty_round_is_an_outcome_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def absent_first(node: int) -> Callable[[Message], Message | None]:
        def answer(message: Message) -> Message | None:
            return None if message.content["config"]["server-round"] == 1 else honest(node)(message)  # type: ignore[index]

        return answer

    plan = strategy(fraction_evaluate=0.0)
    with caplog.at_level(logging.WARNING, "flwr"):
        result = plan.start(FakeGrid({n: absent_first(n) for n in NODES}), initial(), num_rounds=2, timeout=0.1)
    assert "round 1: no update was folded: the model stays as it was" in caplog.text
    first, second = result.train_metrics_clientapp[1], result.train_metrics_clientapp[2]
    assert (first["updates-folded"], first["updates-silent"]) == (0, 3)
    assert (second["updates-folded"], second["updates-silent"]) == (3, 0)
    assert vector(result.arrays).tobytes() != vector(initial()).tobytes()


def test_a_round_that_leads_to_no_usable_model_is_lost_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    plan = strategy(fraction_evaluate=0.0, optimizer=Scaled(1e45))
    with caplog.at_level(logging.WARNING, "flwr"):
        result = plan.start(grid(), initial(), num_rounds=2)
    for number in (1, 2):
        assert f"round {number}: in the new model tensor" in caplog.text
        assert result.train_metrics_clientapp[number]["updates-folded"] == 3
    assert "the round is lost and the old model stays: lower the server's" in caplog.text
    assert vector(plan.model(2)).tobytes() == vector(initial()).tobytes()


def test_nothing_is_sent_where_training_is_off() -> None:
    plan = strategy(fraction_train=0.0)
    assert list(plan.configure_train(1, initial(), ConfigRecord(), grid())) == []
    assert plan.aggregate_train(1, []) == (None, None)


def metrics_as(node: int, record: MetricRecord | None) -> Callable[[Message], Message]:
    def answer(message: Message) -> Message:
        back = honest(node)(message)
        content = RecordDict({k: v for k, v in back.content.items() if not isinstance(v, MetricRecord)})
        if record is not None:
            content["metrics"] = record
        return reply_from(message, content, node)

    return answer


@pytest.mark.parametrize(
    "record",
    [
        None,
        MetricRecord({}),
        MetricRecord({"num-examples": 12, "train_loss": [1.0, 2.0]}),
        MetricRecord({"num-examples": float("nan"), "train_loss": 1e9}),
        MetricRecord({"num-examples": -1, "train_loss": 1e9}),
        MetricRecord({"num-examples": [1, 2], "train_loss": 1e9}),
        MetricRecord({"num-examples": 12, "other": 1e9}),
        MetricRecord({"num-examples": 12, "train_loss": float("nan")}),
        MetricRecord({"num-examples": 12, "train_loss": float("-inf")}),
        MetricRecord({"num-examples": 2**62, "train_loss": -7.0}),
        MetricRecord({"num-examples": 1.7e308, "train_loss": -7.0}),
        MetricRecord({"num-examples": 12, "train_loss": 1.0, "more": [0.0] * 10_001}),
    ],
)
def test_odd_metrics_are_left_out_and_the_update_counts(
    record: MetricRecord | None, caplog: pytest.LogCaptureFixture
) -> None:
    plan = strategy()
    good = {
        node: metrics_as(node, MetricRecord({"num-examples": n, "train_loss": float(n)})) for node, n in NODES.items()
    }
    arrays, metrics = one_round(plan, FakeGrid(good | {BAD: metrics_as(BAD, record)}))
    assert arrays is not None
    assert metrics is not None
    assert metrics["updates-folded"] == 3
    assert metrics["train_loss"] == pytest.approx((5 * 5 + 9 * 9) / 14, rel=1e-12)
    assert "of nodes [13]" in caplog.text


def test_odd_metrics_of_an_evaluation_do_not_stop_the_run() -> None:
    def odd(message: Message) -> Message:
        if message.metadata.message_type == "evaluate":
            return reply_from(message, RecordDict())
        return honest(BAD)(message)

    result = strategy().start(grid(node13=odd), initial(), num_rounds=1)
    assert 0 <= result.evaluate_metrics_clientapp[1]["accuracy"] <= 1  # type: ignore[operator]


def test_an_evaluation_is_counted_by_its_kind_and_beside_the_updates() -> None:
    def failing(message: Message) -> Message:
        if message.metadata.message_type == "evaluate":
            return reply_from(message, Error(2, "no test data"))
        return honest(BAD)(message)

    plan = strategy()
    plan.start(grid(node13=failing), initial(), num_rounds=1)
    (report,) = plan.reports
    stage, view = report.stages[MessageKind.EVALUATE], ModelLayout.of(small_model())
    header = HEADER_SIZE + len(Group) * SECTION_SIZE
    spans = {group.name.lower(): view.layout.span(group) for group in Group}
    bodies = {name: 3 * 4 * (span.stop - span.start) for name, span in spans.items()}
    assert stage.sent == {**bodies, "header": 3 * header, "checksum": 12, "config": 3 * (len("server-round") + 8)}
    assert stage.asked == dict.fromkeys(NODES, 1)
    assert stage.answered == set(NODES)
    assert (report.failed, report.failed_otherwise) == ([], ["node 13: evaluate: code 2: no test data"])
    assert report.metrics()["updates-failed"] == report.silent == 0
    assert report.down == 3 * len(records.broadcast_bytes(strategy_messages(strategy())[0].content, "arrays"))


class Tied(nn.Module):
    """An embedding that is the output layer too, a frozen layer, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Embedding(5, 4)
        self.norm = nn.BatchNorm1d(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.out = nn.Linear(4, 5, bias=False)
        self.out.weight = self.inner.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.frozen(self.norm(self.inner(x))))  # type: ignore[no-any-return]


def test_tied_weights_move_together_and_what_never_travels_stays() -> None:
    model = Tied()
    plan = FedMRN(ModelLayout.of(model), "fedavg")
    start = ArrayRecord(model.state_dict())
    round_ = plan.begin(start).begin(1, ["only"])
    broadcast, ones = round_.broadcast_frame("only"), np.ones(plan.layout.size, np.float32)
    round_.add("only", encode_update(broadcast, plan.layout, ones, weight=1, sampling_key=0).to_bytes())
    round_.finish()
    after = plan.model(1)
    assert after.keys() == start.keys()
    assert (after["inner.weight"].numpy() == start["inner.weight"].numpy() + np.float32(1)).all()
    assert after["out.weight"].data == after["inner.weight"].data
    assert after["frozen.weight"].data == start["frozen.weight"].data
    assert after["norm.num_batches_tracked"].data == start["norm.num_batches_tracked"].data
    model.load_state_dict(after.to_torch_state_dict())


def test_a_server_without_torch_gives_the_layout() -> None:
    layout = Layout.of([TensorSpec("w", (3, 2), Group.CODED)])
    plan = FedMRN(layout)
    plan.begin(ArrayRecord({"w": Array(np.ones((3, 2), np.float32))}))
    assert (plan.model(0)["w"].numpy() == 1).all()
    for wrong in (
        ArrayRecord(),
        ArrayRecord({"w": Array(np.ones((2, 3), np.float32))}),
        ArrayRecord({"w": Array(np.ones((3, 2)))}),
    ):
        with pytest.raises(ConfigError, match=r"state dict: w is .* must be float32 of shape \(3, 2\)"):
            plan.begin(wrong)
    with pytest.raises(ConfigError, match="call start"):
        FedMRN(layout).model(1)


def test_a_start_of_float16_and_names_of_a_wrapper() -> None:
    model = nn.Linear(3, 2)
    layout = ModelLayout.of(model).layout
    plan = FedMRN(layout)
    plan.begin(ArrayRecord({name: value.half() for name, value in model.state_dict().items()}))
    after = plan.model(0)
    assert after["weight"].dtype == "float32"
    assert (after["weight"].numpy() == model.weight.detach().half().float().numpy()).all()
    for wrapped in (torch.compile(model, backend="eager"), nn.DataParallel(model)):
        with pytest.raises(ConfigError, match=r"weight is there by the name of a wrapper .*unwrapped\(model\)"):
            plan.begin(ArrayRecord(wrapped.state_dict()))
        plan.begin(ArrayRecord(unwrapped(wrapped).state_dict()))


def test_a_wrong_method_or_option_is_told() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fedmrn'"):
        strategy("fedmnr")
    with pytest.raises(ConfigError, match="no option"):
        strategy("fedmrn", {"sacle": 0.1})


def test_it_is_a_fedavg() -> None:
    assert issubclass(FedMRN, FedAvg)
    plan = strategy(fraction_train=0.5, min_train_nodes=1)
    assert len(list(plan.configure_train(1, initial(), ConfigRecord(), grid()))) == 1


def test_clipping_and_equal_weights_reach_the_server() -> None:
    """A hundred times the weight counts four times, or once; without clipping in full."""
    shares = {}
    for name, options in {"clipped": {}, "equal": {"equal": True}, "bare": {"clipping": None}}.items():
        plan = FedMRN(ModelLayout.of(small_model()), "fedavg", **options)  # type: ignore[arg-type]
        server = plan.begin(initial())
        before, round_ = server.state, server.begin(1, ["a", "b", "c"])
        for client, weight in (("a", 1), ("b", 1), ("c", 100)):
            update = np.full(plan.layout.size, float(client == "c"), np.float32)
            frame = encode_update(round_.broadcast_frame(client), plan.layout, update, weight=weight, sampling_key=0)
            round_.add(client, frame.to_bytes())
        shares[name] = float((round_.finish() - before)[0])
    assert shares == pytest.approx({"clipped": 4 / 6, "equal": 1 / 3, "bare": 100 / 102}, abs=1e-6)
