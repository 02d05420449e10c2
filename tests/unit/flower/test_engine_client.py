"""What Ray's processes run, without Ray: a client of the simulation engine, message by message."""

import pickle
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_grid import FakeGrid, reply_from
from flwr.app import ConfigRecord, Context, Error, Message, MessageType, RecordDict

from fedmrn.errors import ConfigError, EncodeError, WorkerError
from fedmrn.experiments.run.prepare import prepare
from fedmrn.experiments.settings import load_setting
from fedmrn.federation.engine import simulate
from fedmrn.flower import simulation as engine
from fedmrn.flower.simulation import simulate_on_flower
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


def make(method: str, lr: float = 0.1) -> partial[object]:
    changes = ["train.rounds=3", f"data.clients={CLIENTS}", "train.clients_per_round=3", f"method.lr={lr}"]
    changes += ["train.local_epochs=1", "train.batch_size=128"]
    return partial(prepare, load_setting("digits", changes).experiment(method, 1), Path("data"))


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def running(app: object, nodes: int, workers: int) -> object:  # type: ignore[misc]
        # Flower numbers nodes at random: neither the order nor the numbers are those of the partitions.
        mapping = {1000 + 7 * ((5 * p + 3) % nodes): p for p in range(nodes)}
        yield engine._Running(Grid(app, mapping).as_flower(), lambda: True)

    monkeypatch.setattr(engine, "_running", running)


@pytest.mark.parametrize("method", ["fedmrn", "topk-ef", "fedpm"])
def test_the_numbers_are_those_of_the_engine_in_this_process(method: str) -> None:
    """What clients keep (topk-ef) and states that are no models (fedpm) included."""
    build = make(method)
    one, other = build(), build()
    view = ModelLayout.of(one.model)
    state = Server.initial(view.layout, one.federation.scheme, view.read())
    expected = list(simulate(one.federation, one.model, state))
    seen: list[int] = []
    found = list(simulate_on_flower(build, other.federation, other.model, state, on_client=seen.append))
    assert seen == [1, 2, 3] * 3
    for a, b in zip(expected, found, strict=True):
        assert a.state.tobytes() == b.state.tobytes()
        assert (a.accuracy, a.loss, a.train_loss, a.clients) == (b.accuracy, b.loss, b.train_loss, b.clients)
        assert (a.exchanges, a.sample, a.bits_per_parameter) == (b.exchanges, b.sample, b.bits_per_parameter)
        assert {c: m.tobytes() for c, m in a.memory.items()} == {c: m.tobytes() for c, m in b.memory.items()}
    # A run that was stopped goes on from its state and memory.
    memory = {c: m for r in found[:2] for c, m in r.memory.items()}
    again = list(simulate_on_flower(build, other.federation, other.model, found[1].state, first=3, memory=memory))
    assert again[0].state.tobytes() == expected[2].state.tobytes()


def test_diverged_training_is_told_apart_from_a_failure() -> None:
    build = make("fedmrn", 1e30)
    prepared = build()
    state = ModelLayout.of(prepared.model).read()
    with pytest.raises(EncodeError, match="diverged"):
        list(simulate_on_flower(build, prepared.federation, prepared.model, state))


def test_a_client_that_fails_ends_the_run_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    build = make("fedmrn")
    prepared = build()
    app = engine._client_app(pickle.dumps(build), 1)

    def broken(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            return reply_from(message, Error(2, "out of memory"))
        return app(message, context)

    monkeypatch.setattr(engine, "_client_app", lambda told, threads: broken)
    with pytest.raises(WorkerError, match="out of memory"):
        list(simulate_on_flower(build, prepared.federation, prepared.model, ModelLayout.of(prepared.model).read()))


def test_flower_that_stopped_is_told() -> None:
    grid = FakeGrid({1: lambda message: None})
    running = engine._Running(grid, lambda: False)
    with pytest.raises(WorkerError, match="stopped"):
        list(running.answers([Message(RecordDict({"config": ConfigRecord()}), 1, MessageType.TRAIN)]))
    with pytest.raises(WorkerError, match="stopped"):
        engine._partitions(running, 2)


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    build = make("fedmrn")
    prepared = build()
    with pytest.raises(ConfigError, match=r"flwr\[simulation\]"):
        next(simulate_on_flower(build, prepared.federation, prepared.model, np.zeros(1, np.float32)))


def test_threads_are_set_in_the_process_that_trains() -> None:
    built = engine._built(pickle.dumps(make("fedmrn")), 2)
    assert torch.get_num_threads() == 2
    assert engine._built(pickle.dumps(make("fedmrn")), 2) is built  # built once


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
    one, other = build(), build()
    view = ModelLayout.of(one.model)
    state = Server.initial(view.layout, one.federation.scheme, view.read())
    (a,) = simulate(one.federation, one.model, state)
    (b,) = simulate_on_flower(build, other.federation, other.model, state)
    assert a.state.tobytes() == b.state.tobytes()
    assert (a.accuracy, a.loss, a.train_loss) == (b.accuracy, b.loss, b.train_loss)
