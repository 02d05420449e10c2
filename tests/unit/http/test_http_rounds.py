"""Rounds over real sockets come to the same bytes as a simulation in this process, whatever the method."""

from dataclasses import replace
from pathlib import Path

import pytest
import small_federation
from http_federation import Trainer, in_threads, join, of_many, plan_of, serving

from fedmrn.methods import method


@pytest.mark.parametrize(
    ("clients", "name", "down"),
    [(50, "fedmrn-s", "grid"), (8, "fedavg", "float32"), (8, "fedpm", "float32"), (8, "fedmrn-s-mrc", "eden2")],
)
def test_clients_come_to_the_simulations_model(clients: int, name: str, down: str, tmp_path: Path) -> None:
    setting = of_many(clients, name, rounds=2, local_epochs=1)
    setting = replace(setting, scheme=method(name).scheme(down=down))
    with serving(setting, tmp_path, plan=plan_of(setting, evaluate_every=1)) as running:
        join(in_threads(running, list(range(clients)), Trainer(setting)))
    assert running.raised is None
    assert running.server.federation.state.tobytes() == small_federation.run(setting)[-1].state.tobytes()
    mean = sum(client / 10 for client in range(clients)) / clients
    assert [outcome.evaluation["accuracy"] for outcome in running.outcomes] == pytest.approx([mean, mean])


def test_some_of_the_clients_are_drawn_as_in_a_simulation(tmp_path: Path) -> None:
    setting = replace(of_many(6, rounds=3, local_epochs=1), clients_per_round=2)
    with serving(setting, tmp_path) as running:
        join(in_threads(running, list(range(6)), Trainer(setting)))
    assert [list(outcome.clients) for outcome in running.outcomes] == [setting.sampled(n) for n in (1, 2, 3)]
    assert running.server.federation.state.tobytes() == small_federation.run(setting)[-1].state.tobytes()
