"""Rounds over real sockets come to the same bytes as a simulation in this process."""

from dataclasses import replace
from pathlib import Path

import pytest
import small_federation
from http_federation import Trainer, in_threads, join, of_many, plan_of, serving

from fedmrn.methods import method


def state_of(setting) -> bytes:  # type: ignore[no-untyped-def]
    return small_federation.run(setting)[-1].state.tobytes()


@pytest.mark.parametrize(("name", "options"), [("fedmrn-s", {}), ("fedavg", {}), ("fedmrn", {"down": "grid"})])
def test_fifty_clients_come_to_the_simulations_model(name: str, options: dict[str, str], tmp_path: Path) -> None:
    setting = of_many(50, name, rounds=2, local_epochs=1)
    if options:
        setting = replace(setting, scheme=method(name).scheme({"scale": 0.02}, down=options["down"]))
    with serving(setting, tmp_path, plan=plan_of(setting, evaluate_every=1)) as running:
        threads = in_threads(running, list(range(50)), Trainer(setting))
        join(threads)
    assert running.raised is None
    assert running.server.federation.state.tobytes() == state_of(setting)
