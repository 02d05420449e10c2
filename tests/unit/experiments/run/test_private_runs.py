"""A run of private masks says its epsilon first, and a report says what it came to."""

from pathlib import Path

import pytest

from fedmrn.errors import ConfigError
from fedmrn.experiments.run.private import after
from fedmrn.experiments.run.record import read_records
from fedmrn.experiments.run.runner import run
from fedmrn.experiments.settings import load_setting
from fedmrn.privacy import PrivateRounds, epsilon_of
from fedmrn.wire.layout import Layout
from silent import Silent

CHANGES = [
    "method.fedmrn-s.theta=0.1",
    "method.fedmrn-s.scale=0.2",
    "method.fedmrn-s.noise_key=round",
    "train.weight_by=equal",
    "train.rounds=2",
    "train.local_epochs=1",
    "train.clients_per_round=4",
]
MODEL = "from torch import nn\n\n\ndef linear():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"


class Told(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_epsilon_before_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "private_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    experiment = load_setting("digits", [*CHANGES, "model.name=private_model:linear"]).experiment("fedmrn-s", 1)
    told = Told()
    run(experiment, tmp_path / "run", data_dir=tmp_path, resume=False, progress=told)
    epsilon = epsilon_of([PrivateRounds(0.1, 4, 650, 2)])
    assert len(told.notes) == 1
    assert f"epsilon will be {epsilon:.3g} (delta 1e-05)" in told.notes[0]
    records = read_records(tmp_path / "run")
    layout = Layout.from_json((tmp_path / "run" / "layout.json").read_text())
    assert f"epsilon is {epsilon:.3g} " in after(experiment, layout, records)
    assert f"epsilon is {epsilon_of([PrivateRounds(0.1, 4, 650, 1)]):.3g} " in after(experiment, layout, records[:1])


def test_a_model_with_batch_norm_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    experiment = load_setting("digits", CHANGES).experiment("fedmrn-s", 1)
    with pytest.raises(ConfigError, match="normalisation layers"):
        run(experiment, tmp_path / "run", data_dir=tmp_path, resume=False, progress=Silent())
    assert not (tmp_path / "run").exists()
