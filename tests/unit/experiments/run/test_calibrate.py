"""The model of a run folder, calibrated: its statistics are of training samples, and the run stays as it is."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_disk import files
from torch import nn

from fedmrn.errors import ConfigError, RunError
from fedmrn.experiments.run.calibrate import FILE, KeptModel, calibrate_run
from fedmrn.experiments.run.folder import read_experiment
from fedmrn.experiments.run.prepare import prepare
from fedmrn.experiments.run.runner import run
from fedmrn.experiments.settings import load_setting
from fedmrn.server import Server
from fedmrn.torch import ModelLayout, calibrate, evaluate, load_model
from fedmrn.wire.frame import Frame, Kind
from silent import Silent

SHORT = ["train.rounds=1", "train.local_epochs=1", "data.clients=4", "train.clients_per_round=2", "train.threads=1"]


def finished_run(folder: Path, method: str = "fedmrn", *changes: str) -> Path:
    experiment = load_setting("digits", [*SHORT, *changes]).experiment(method, 1)
    run(experiment, folder, data_dir=folder, resume=False, progress=Silent())
    return folder


def calibrated(folder: Path, samples: int = 20_000) -> KeptModel:
    return calibrate_run(folder, data_dir=folder, samples=samples, wait=lambda _: nullcontext())


def test_the_file_holds_the_model_with_statistics_of_all_training_samples(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "run")
    before = files(folder)
    found = calibrated(folder)
    assert {name: data for name, data in files(folder).items() if name != FILE} == before
    assert (found.round, found.path) == (1, folder / FILE)
    prepared = prepare(read_experiment(folder), folder)
    federation, model = prepared.federation, prepared.model
    assert found.samples == len(federation.train_x)
    view = ModelLayout.of(model)
    frame = Frame.from_bytes(found.path.read_bytes(), kind=Kind.MODEL)
    load_model(model, frame)
    written = view.read()
    assert evaluate(model, federation.test_x, federation.test_y)[0] == found.after
    shown = Server.load(folder, view.layout, federation.scheme).shown
    trained = view.layout.trainable
    assert np.array_equal(written[:trained], shown[:trained])
    view.write(shown)
    assert evaluate(model, federation.test_x, federation.test_y)[0] == found.before
    with torch.no_grad():
        calibrate(model, federation.train_x[np.concatenate(federation.parts)].split(500))
    first = next(i for i, t in enumerate(view.layout.tensors) if "running_mean" in t.name)
    where = view.layout.slices[view.layout.tensors[first].name]
    # The first layer's are exact over all samples, in whatever order they come; float32 rounds each batch's.
    np.testing.assert_allclose(written[where], view.read()[where], rtol=1e-4, atol=1e-6)
    assert not np.allclose(written[where], shown[where], rtol=1e-4)


def test_samples_are_a_limit_and_the_same_ones_each_time(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "run")
    first = calibrated(folder, 50)
    data = first.path.read_bytes()
    assert first.samples == 50
    assert calibrated(folder, 50) == first
    assert first.path.read_bytes() == data
    assert calibrated(folder, 51).path.read_bytes() != data


def test_a_model_of_probabilities_and_a_folder_that_cannot_be(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "run", "fedpm")
    load_model(prepare(read_experiment(folder), folder).model, calibrated(folder, 50).path.read_bytes())
    (folder / "checkpoint.bin").unlink()
    with pytest.raises(RunError, match="no server was saved"):
        calibrated(folder)
    with pytest.raises(RunError, match="holds no run"):
        calibrated(tmp_path)


def test_a_model_without_batch_norm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished_run(tmp_path / "run")
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    monkeypatch.setattr("fedmrn.experiments.run.calibrate.prepare", lambda *where: replace(prepare(*where), model=bare))
    with pytest.raises(ConfigError, match="cnn-digits has no batch norm"):
        calibrated(folder)
    assert not (folder / FILE).exists()
