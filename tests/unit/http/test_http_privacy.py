"""Private masks over HTTP: epsilon in the log and in rounds.jsonl, after a restart too, and what is refused."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import small_federation
import torch
from http_federation import Trainer, in_threads, join, of_many, plan_of, server_of, serving
from torch import nn

from fedmrn.errors import ConfigError
from fedmrn.federation.setting import Federation
from fedmrn.http import HttpServer, Tokens, new_tokens
from fedmrn.http.rounds import folded_before
from fedmrn.methods import method
from fedmrn.privacy import PrivateRounds, epsilon_of
from fedmrn.torch import ModelLayout

THETA, CLIENTS = 0.1, 3


def plain_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 3))


D = ModelLayout.of(plain_model()).layout.trainable


@pytest.fixture(autouse=True)
def _a_model_of_masks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_federation, "small_model", plain_model)


def setting() -> Federation:
    scheme = method("fedmrn-s").scheme({"theta": THETA, "scale": 0.5, "noise_key": "round"}, equal=True)
    return replace(of_many(CLIENTS, "fedmrn-s", rounds=2, local_epochs=1), scheme=scheme)


def epsilon(rounds: int, clients: int = CLIENTS) -> float:
    return epsilon_of([PrivateRounds(THETA, clients, D, rounds)])


def test_epsilon_is_told_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fedmrn")
    tokens, mine = new_tokens(CLIENTS), setting()
    train = Trainer(mine)
    for rounds in (1, 2):
        plan = plan_of(mine, rounds=rounds, least=CLIENTS)
        with serving(mine, tmp_path, tokens=tokens, plan=plan) as running:
            join(in_threads(running, list(range(CLIENTS)), train))
        assert running.raised is None
    told = [line for line in caplog.messages if "epsilon" in line]
    assert f"with these settings epsilon will be {epsilon(1):.3g} (delta 1e-05)" in told[0]
    assert f"epsilon is {epsilon(2):.3g} (delta 1e-05) after 2 rounds" in told[-1]
    lines = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert [line["epsilon"] for line in lines] == pytest.approx([epsilon(1), epsilon(2)])
    assert running.server.federation.state.tobytes() == small_federation.run(mine)[-1].state.tobytes()


def test_lines_that_cannot_be_read_are_rounds_of_the_fewest(tmp_path: Path) -> None:
    lines = ['{"round": 1, "folded": [1, 2, 3, 4]}', '{"round": 2, "folded": 5}', "{", '{"round": 3, "folded": [1', ""]
    (tmp_path / "rounds.jsonl").write_text("\n".join(lines))
    assert list(folded_before(tmp_path)) == [(1, 4)]
    assert list(folded_before(tmp_path / "nothing")) == []


def test_a_plan_that_takes_any_number_is_refused(tmp_path: Path) -> None:
    mine = setting()
    with pytest.raises(ConfigError, match="one client: say how many it has at least"):
        HttpServer(server_of(mine, tmp_path), plan_of(mine), Tokens(new_tokens(CLIENTS)), tmp_path)


def test_normalisation_layers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def normed() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(32, 3), nn.BatchNorm1d(3))

    monkeypatch.setattr(small_federation, "small_model", normed)
    with pytest.raises(ConfigError, match="normalisation layers"):
        server_of(setting(), tmp_path)


def test_nothing_is_said_where_masks_are_not_private(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fedmrn")
    mine = of_many(CLIENTS, "fedmrn-s", rounds=1, local_epochs=1)
    with serving(mine, tmp_path) as running:
        join(in_threads(running, list(range(CLIENTS)), Trainer(mine)))
    assert running.raised is None
    assert "epsilon" not in caplog.text + (tmp_path / "rounds.jsonl").read_text()
