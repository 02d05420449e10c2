"""What Ray's processes run, without Ray: a client of the simulation engine, message by message."""

import pickle
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_grid import FakeGrid, reply_from
from flwr.app import Context, Error, Message, RecordDict
from numpy.typing import NDArray

from fedmrn.errors import ConfigError, EncodeError, WorkerError
from fedmrn.experiments.run.prepare import prepare
from fedmrn.experiments.settings import load_setting
from fedmrn.federation import transport as asked
from fedmrn.federation.conduct import Conduct
from fedmrn.federation.secrets import run_of, secret_of
from fedmrn.federation.simulation import RoundResult, simulate
from fedmrn.flower import simulation as engine
from fedmrn.flower.simulation import on_flower
from fedmrn.server import Server
from fedmrn.torch import ModelLayout
from made_up import raw_document, texts, write_raw, write_voc

CLIENTS = 4


@dataclass
class Grid:
    """In place of Ray: the client app is called in this process."""

    app: object
    nodes: dict[int, int]
    fail: bool = False

    def as_flower(self) -> FakeGrid:
        def node(number: int) -> object:
            def answer(message: Message) -> Message:
                partition = {"partition-id": self.nodes[number], "num-partitions": CLIENTS}
                back = self.app(message, Context(1, number, partition, RecordDict(), {}))  # type: ignore[operator]
                back.metadata.__dict__["_src_node_id"] = number
                return back  # type: ignore[no-any-return]

            return answer

        return FakeGrid({number: node(number) for number in self.nodes})  # type: ignore[dict-item]


def make(method: str, lr: float = 0.1, *more: str) -> partial[object]:
    changes = ["train.rounds=3", f"data.clients={CLIENTS}", "train.clients_per_round=3", f"method.lr={lr}"]
    changes += ["train.local_epochs=1", "train.batch_size=128", *more]
    return partial(prepare, load_setting("digits", changes).experiment(method, 1), Path("data"))


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def running(app: object, nodes: int, workers: int) -> object:  # type: ignore[misc]
        # Flower numbers nodes at random: neither the order nor the numbers are those of the partitions.
        mapping = {1000 + 7 * ((5 * p + 3) % nodes): p for p in range(nodes)}
        yield engine.Engine(Grid(app, mapping).as_flower(), lambda: True)

    monkeypatch.setattr(engine, "running", running)


def simulate_on_flower(build: Any, state: NDArray[np.float32], **options: Any) -> list[RoundResult]:
    prepared = build()
    with on_flower(build, CLIENTS) as transport:
        return list(simulate(prepared.federation, prepared.model, state, transport=transport, **options))


@pytest.mark.parametrize("method", ["fedmrn", "topk-ef", "fedpm"])
def test_the_numbers_are_those_of_the_engine_in_this_process(method: str) -> None:
    """What clients keep (topk-ef) and states that are no models (fedpm) included."""
    build = make(method)
    one = build()
    view = ModelLayout.of(one.model)
    state = Server.initial(view.layout, one.federation.scheme, view.read())
    expected = list(simulate(one.federation, one.model, state))
    seen: list[int] = []
    found = simulate_on_flower(build, state, on_client=seen.append)
    assert seen == [1, 2, 3] * 3
    for a, b in zip(expected, found, strict=True):
        assert a.state.tobytes() == b.state.tobytes()
        assert (a.accuracy, a.loss, a.train_loss, a.clients) == (b.accuracy, b.loss, b.train_loss, b.clients)
        assert (a.exchanges, a.sample, a.bits_per_parameter) == (b.exchanges, b.sample, b.bits_per_parameter)
        assert {c: m.tobytes() for c, m in a.memory.items()} == {c: m.tobytes() for c, m in b.memory.items()}
    # A run that was stopped goes on from its state, what the server kept beside it, and memory.
    memory = {c: m for r in found[:2] for c, m in r.memory.items()}
    again = simulate_on_flower(build, found[1].state, first=3, memory=memory, carried=found[1].carried)
    assert again[0].state.tobytes() == expected[2].state.tobytes()


def test_models_are_calibrated_as_in_this_process() -> None:
    """In a broadcast's message state and head are cut apart; a model's are as well, and answers are statistics."""
    build = make("fedmrn", 0.1, "train.calibrate=every", "train.rounds=2", "method.down=float16")
    one = build()
    view = ModelLayout.of(one.model)
    state = Server.initial(view.layout, one.federation.scheme, view.read())
    expected = list(simulate(one.federation, one.model, state))
    found = simulate_on_flower(build, state)
    assert [r.state.tobytes() for r in found] == [r.state.tobytes() for r in expected]
    assert [r.calibrated for r in found] == [r.calibrated for r in expected] != [None, None]


def test_diverged_training_is_told_apart_from_a_failure() -> None:
    build = make("fedmrn", 1e30)
    state = ModelLayout.of(build().model).read()
    with pytest.raises(EncodeError, match="diverged"):
        simulate_on_flower(build, state)


def test_a_client_that_fails_ends_the_run_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    build = make("fedmrn")
    app = engine.client_app(pickle.dumps(build), 1)

    def broken(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            return reply_from(message, Error(2, "out of memory"))
        return app(message, context)

    monkeypatch.setattr(engine, "client_app", lambda told, threads: broken)
    with pytest.raises(WorkerError, match="out of memory"):
        simulate_on_flower(build, ModelLayout.of(build().model).read())


def test_flower_that_stopped_is_told() -> None:
    grid = FakeGrid({1: lambda message: None})
    stopped = engine.Engine(grid, lambda: False)
    message = asked.Message(client=0, kind=asked.MessageKind.TRAIN, content=b"")
    with pytest.raises(WorkerError, match="stopped"):
        list(engine.OnFlower(stopped, {0: 1}).ask([message]))
    with pytest.raises(WorkerError, match="stopped"):
        stopped.partitions(2)


def test_a_message_that_clients_do_not_answer_is_an_error_of_its_own() -> None:
    build = make("fedmrn")
    message = asked.Message(client=2, kind=asked.MessageKind.EVALUATE, content=b"how good is it?")
    with on_flower(build, CLIENTS) as transport:
        (reply,) = transport.ask([message])
    assert (reply.client, reply.kind, reply.data) == (2, asked.MessageKind.EVALUATE, b"")
    assert "answers messages of kind train" in str(reply.error)


def test_more_can_be_asked_while_replies_are_pending() -> None:
    """Two asks of one round, their replies taken in turn, give the round that one ask gives."""
    build = make("fedmrn")
    prepared = build()
    federation, layout = prepared.federation, ModelLayout.of(prepared.model).layout
    state = ModelLayout.of(prepared.model).read()
    expected = next(simulate(federation, prepared.model, state)).state
    server = Server(layout, federation.scheme, state, secret_of(1), run=run_of(1))
    round_ = server.begin(1, federation.sampled(1))
    conduct, (one, *others) = Conduct(round_, layout.trainable), federation.sampled(1)
    with on_flower(build, CLIENTS) as transport:
        first = transport.ask([conduct.train(one)])
        for reply in transport.ask(map(conduct.train, others)):
            conduct.take(reply)
        for reply in first:
            conduct.take(reply)
    assert conduct.finish().tobytes() == expected.tobytes()


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"flwr\[simulation\]"), on_flower(make("fedmrn"), CLIENTS):
        pass


def test_threads_are_set_in_the_process_that_trains() -> None:
    built = engine.built(pickle.dumps(make("fedmrn")), 2)
    assert torch.get_num_threads() == 2
    assert engine.built(pickle.dumps(make("fedmrn")), 2) is built  # built once


@pytest.mark.parametrize("preset", ["shakespeare", "voc"])
def test_so_are_those_of_texts_and_of_segmented_images(tmp_path: Path, preset: str) -> None:
    """Samples are integers there, targets a class for each pixel here."""
    if preset == "voc":
        write_voc(tmp_path, train=4, val=2)
        changes = ["train.batch_size=1", "train.local_epochs=1"]
    else:
        write_raw(tmp_path, raw_document(texts(6)))
        changes = ["data.min_size=100", "data.max_samples=8", "data.max_test=8", "model.name=lstm-small"]
    changes += ["train.rounds=1", f"data.clients={CLIENTS}", "train.clients_per_round=2"]
    build = partial(prepare, load_setting(preset, changes).experiment("fedmrn", 1), tmp_path)
    one = build()
    view = ModelLayout.of(one.model)
    state = Server.initial(view.layout, one.federation.scheme, view.read())
    (a,) = simulate(one.federation, one.model, state)
    (b,) = simulate_on_flower(build, state)
    assert a.state.tobytes() == b.state.tobytes()
    assert (a.accuracy, a.loss, a.train_loss) == (b.accuracy, b.loss, b.train_loss)
