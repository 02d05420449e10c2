"""Simulated rounds with public models: what is evaluated, who is sent what, and runs that go on."""

from dataclasses import replace

import numpy as np
import pytest
from small_federation import federation, run, small_model

from fedmrn.federation.in_process import in_process
from fedmrn.federation.setting import Federation
from fedmrn.federation.simulation import RoundResult, simulate
from fedmrn.methods import method
from fedmrn.server import PublicGrid, Server
from fedmrn.server.publisher import Sent
from fedmrn.torch import ModelLayout, evaluate

ROUNDS = 5
LAYOUT = ModelLayout.of(small_model()).layout


def setting(name: str = "fedmrn", *, from_start: bool = True, **changes: object) -> Federation:
    scheme = method(name).scheme(down=PublicGrid(from_start=from_start))
    return federation(name, scheme=scheme, rounds=ROUNDS, **changes)


def told(results: list[RoundResult]) -> list[object]:
    """What a round leaves behind that a run that goes on must repeat."""
    return [(r.round, r.accuracy, r.loss, r.state.tobytes(), r.up, r.down, r.clients, r.public) for r in results]


@pytest.mark.parametrize("from_start", [True, False])
@pytest.mark.parametrize("name", ["fedavg", "fedmrn", "topk-ef"])
def test_a_run_goes_on_as_if_it_had_never_stopped(name: str, from_start: bool) -> None:
    whole = run(setting(name, from_start=from_start))
    memory: dict[int, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    for first in (2, 4):
        done = whole[first - 2]
        memory = {c: kept for r in whole[: first - 1] for c, kept in r.memory.items()}
        rest = run(setting(name, from_start=from_start), done.state, first=first, memory=memory, carried=done.carried)
        assert told(rest) == told(whole[first - 1 :])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_goes_on_with_the_model_object_that_it_trained(workers: int) -> None:
    """Numbers count from the weights that the run started with, which that object does not hold any more."""
    whole, model = run(setting()), small_model()
    first = list(simulate(replace(setting(), rounds=2), model, ModelLayout.of(model).read()))
    rest = simulate(setting(), model, first[-1].state, first=3, carried=first[-1].carried, workers=workers)
    assert told([*first, *rest]) == told(whole)


def test_newcomers_are_sent_whole_models_and_others_differences() -> None:
    seen = set[int]()
    for result in run(setting()):
        want = [Sent.DIFFERENCE if client in seen else Sent.NEW for client in result.clients]
        assert [Sent.DIFFERENCE if sent is Sent.SHORTER else sent for sent in result.public] == want
        seen |= set(result.clients)


def test_what_is_evaluated_is_the_public_model() -> None:
    here = setting()
    last = run(here)[-1]
    view = ModelLayout.of(model := small_model())
    server = Server(
        LAYOUT, here.scheme, last.state, b"sixteen letters!", run=bytes(16), round=ROUNDS, carried=last.carried
    )
    view.write(server.shown)
    assert server.shown.tobytes() != server.state.tobytes()
    assert evaluate(model, here.test_x, here.test_y) == (last.accuracy, last.loss)


def test_calibration_is_of_the_public_model_and_the_next_round_has_it() -> None:
    plain, calibrated = run(setting()), run(setting(calibrate="every"))
    assert calibrated[-1].calibrated is not None
    assert sum(calibrated[-1].calibrated.down.values()) < sum(calibrated[-1].down.values())
    coded = slice(0, LAYOUT.trainable)
    assert plain[0].state[coded].tobytes() == calibrated[0].state[coded].tobytes()
    assert plain[0].state.tobytes() != calibrated[0].state.tobytes()


def test_raw_bytes_are_those_of_an_exact_broadcast() -> None:
    exact, grid = run(federation(rounds=ROUNDS)), run(setting())
    for a, b in zip(exact, grid, strict=True):
        for one, other in zip(a.exchanges, b.exchanges, strict=True):
            assert one.raw_down["coded"] == other.raw_down["coded"] == one.down["coded"]
            assert other.down["coded"] <= one.down["coded"]


def test_worker_processes_change_nothing() -> None:
    here = setting()
    with in_process(here.client(small_model()), here.samples, 2) as transport:
        assert told(run(here, transport=transport)) == told(run(replace(here)))
