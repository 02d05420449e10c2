"""Every preset, for every method: what it says resolves, its model fits its data, and a client of it trains."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_encoder import tiny_encoder

from fedmrn.data import DATASETS, Dataset, FolderSource
from fedmrn.experiments.config import Experiment
from fedmrn.experiments.run import prepare
from fedmrn.experiments.settings import load_setting, presets
from fedmrn.federation.simulation import simulate
from fedmrn.methods import METHODS
from fedmrn.models import sentence
from fedmrn.models.catalogue import MODELS
from fedmrn.server import Server
from fedmrn.torch import ModelLayout

PUBLISHED = {
    f"{short}-{partition}": (data, partition, model, rounds, share)
    for short, data, model, rounds, share in (
        ("fmnist", "fashion-mnist", "cnn4", 100, 0.3),
        ("svhn", "svhn", "cnn4", 100, 0.3),
        ("cifar10", "cifar10", "cnn8", 200, 0.3),
        ("cifar100", "cifar100", "cnn8", 200, 0.2),
    )
    for partition in ("iid", "dirichlet", "labels")
}


def test_all_twelve_settings_of_the_paper_are_there() -> None:
    assert presets().keys() >= PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_setting_is_the_published_one(name: str) -> None:
    data, partition, model, rounds, share = PUBLISHED[name]
    setting = load_setting(name)
    assert (setting.data.name, setting.data.partition, setting.data.clients) == (data, partition, 100)
    assert (setting.data.alpha, setting.data.share, setting.data.min_size) == (share, share, 10)
    assert (setting.model.name, setting.model.init_std) == (model, 0.01)
    train = setting.train
    assert (train.rounds, train.clients_per_round, train.local_epochs, train.batch_size) == (rounds, 10, 10, 64)
    assert train.weight_by == "batches"
    experiments = {method: setting.experiment(method, 1).options for method in METHODS}
    tuned = {"fedmrn", "fedmrn-s", "fedmrn-no-pm", "fedmrn-no-sm", "fedmrn-post", "fedmrn-mrc", "fedmrn-s-mrc"}
    tuned |= {"fedbat", "fedpm"}
    assert {m: o.lr for m, o in experiments.items()} == {m: 0.1 if m in tuned else 0.03 for m in METHODS}
    assert {m: o.specific["scale"] for m, o in experiments.items() if "scale" in o.specific} == {
        m: 0.005 if m.startswith("fedmrn-s") else 0.01 for m in tuned - {"fedbat", "fedpm"}
    }
    assert experiments["fedpm"].optimizer == "adam"


@pytest.mark.parametrize("name", presets())
def test_a_preset_resolves_for_every_method(name: str) -> None:
    setting = load_setting(name)
    for method in METHODS:
        experiment = setting.experiment(method, 1)
        assert Experiment.from_dict(experiment.as_dict(), name) == experiment
    assert setting.data.name in DATASETS


@cache
def made_up(name: str) -> Dataset:
    """Random samples of a data set's shape and types; each role has as many as the presets ask for."""
    source, rng = DATASETS[name], np.random.default_rng(1)
    train, test = 60 if source.task == "segmentation" else 2000, 4

    def samples(n: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(0, 80, (n, *source.shape), np.uint8))

    def targets(n: int) -> torch.Tensor:
        if source.task == "segmentation":
            return torch.from_numpy(rng.integers(0, source.classes, (n, *source.shape[1:]), np.uint8))
        return torch.from_numpy(rng.permutation(np.arange(n) % source.classes))

    if isinstance(source, FolderSource):
        constants, augment = (source.mean, source.std) * 2, False
    else:
        constants, augment = (source.mean_train, source.std_train, source.mean_test, source.std_test), source.augment
    roles = tuple(np.arange(2 * i, 2 * i + 2) for i in range(1000)) if source.task == "text" else ()
    parts = (samples(train), targets(train), samples(test), targets(test))
    return Dataset(name, *parts, source.classes, *constants, augment, source.task, roles)


def _trained_by() -> list[tuple[str, str]]:
    """Each preset with fedmrn, and the other methods dealt out among the presets: every method is trained by some."""
    names = list(presets())
    return [
        (p, m) for i, p in enumerate(names) for m in ("fedmrn", *[m for m in METHODS if m != "fedmrn"][i :: len(names)])
    ]


@pytest.mark.parametrize(("name", "method"), _trained_by())
def test_a_client_of_it_trains_a_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, method: str) -> None:
    monkeypatch.setattr(prepare, "load_source", lambda source, _: made_up(source.name))
    if MODELS[load_setting(name).model.name].pretrained:
        pytest.importorskip("transformers", reason='transformers is not installed: pip install "fedmrn[finetune]"')
        pytest.importorskip("peft", reason='peft is not installed: pip install "fedmrn[finetune]"')
        monkeypatch.setattr(sentence, "pretrained_encoder", tiny_encoder)
    cut = ["data.max_samples=2", "data.min_size=1", "train.local_epochs=1", "train.clients_per_round=1"]
    setting = load_setting(name, cut)
    setting = replace(setting, train=replace(setting.train, rounds=1, threads=1))
    built = prepare.prepare(setting.experiment(method, 1), tmp_path)
    assert len(built.federation.parts) == load_setting(name).data.clients
    view = ModelLayout.of(built.model)
    state = Server.initial(view.layout, built.federation.scheme, view.read())
    (result,) = simulate(built.federation, built.model, state)
    assert np.isfinite([result.loss, result.train_loss]).all()
    assert np.isfinite(result.state).all()
