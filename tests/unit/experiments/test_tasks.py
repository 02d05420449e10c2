"""The character LSTMs and the bilateral network: sizes, what they take, and federations of them on made-up files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedmrn.errors import ConfigError
from fedmrn.experiments.run.prepare import Prepared, prepare
from fedmrn.experiments.settings import load_setting
from fedmrn.federation.simulation import RoundResult, simulate
from fedmrn.models.catalogue import MODELS, build_model
from fedmrn.server import Server
from fedmrn.torch import ModelLayout
from fedmrn.wire.layout import Group
from made_up import raw_document, texts, write_raw, write_voc

TEXT = ("data.clients=3", "data.min_size=100", "data.max_samples=20", "data.max_test=30", "model.name=lstm-small")
VOC = ("data.clients=2", "train.batch_size=2", "train.local_epochs=1")


def build(name: str, **more: object) -> nn.Module:
    shape, classes = ((3, 64, 64), 21) if name == "bilateral" else ((80,), 80)
    task = MODELS[name].task
    return build_model(name, **({"shape": shape, "classes": classes, "seed": 1, "task": task} | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "layers", "hidden"), [("lstm", 1, 256), ("lstm-leaf", 2, 256), ("lstm-small", 1, 128)]
)
def test_sizes_of_the_character_models(name: str, layers: int, hidden: int) -> None:
    layout = ModelLayout.of(build(name)).layout
    lstm = 4 * hidden * (8 + hidden) + (layers - 1) * 4 * hidden * 2 * hidden
    assert layout.span(Group.CODED) == slice(0, layout.size)  # the embedding is masked too, and there are no biases
    assert layout.size == 80 * 8 + lstm + 80 * hidden


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.int64])
def test_characters_may_be_of_any_integer_type(kind: torch.dtype) -> None:
    model = build("lstm-small")
    codes = torch.arange(160).view(2, 80) % 80
    assert torch.equal(model(codes.to(kind)), model(codes))
    assert model(codes).shape == (2, 80)


def test_normal_weights_in_every_layer_of_the_character_model() -> None:
    for weight in build("lstm", init_std=0.01).parameters():
        deviation = float(weight.detach().std())
        assert abs(deviation - 0.01) <= 5 * 0.01 / (2 * weight.numel()) ** 0.5  # five standard errors


def test_the_bilateral_network_returns_a_class_for_each_pixel() -> None:
    model = build("bilateral")
    images = torch.randn(1, 3, 64, 96).contiguous(memory_format=torch.channels_last)
    assert model(images).shape == (1, 21, 64, 96)  # in training, a batch of one included
    view = ModelLayout.of(model)
    assert view.layout.trainable < 500_000
    norms = sum(2 * m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert view.layout.trainable - view.layout.span(Group.CODED).stop == norms


def test_both_branches_of_the_bilateral_network_learn() -> None:
    model = build("bilateral")
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_sides_that_are_no_multiples_are_refused() -> None:
    with pytest.raises(ConfigError, match="sides are multiples of 32, not 40x64"):
        build("bilateral", shape=(3, 40, 64))


@pytest.mark.parametrize(
    ("preset", "model", "fit"),
    [("shakespeare", "cnn4", "lstm, lstm-leaf, lstm-small"), ("voc", "cnn8", "bilateral"), ("digits", "lstm", "cnn4")],
)
def test_a_model_for_another_task_is_refused_before_the_data_are_read(
    tmp_path: Path, preset: str, model: str, fit: str
) -> None:
    experiment = load_setting(preset, [f"model.name={model}"]).experiment("fedmrn", 1)
    with pytest.raises(ConfigError, match=rf"model {model} is for .*: choose one of .*{fit}"):
        prepare(experiment, tmp_path)


def prepared(tmp_path: Path, preset: str, method: str, *changes: str) -> Prepared:
    if preset == "voc":
        write_voc(tmp_path, train=4, val=2)
        changes = (*VOC, *changes)
    else:
        write_raw(tmp_path, raw_document(texts(6)))
        changes = (*TEXT, *changes)
    setting = load_setting(preset, ["train.rounds=2", "train.clients_per_round=2", *changes])
    return prepare(setting.experiment(method, 1), tmp_path)


def run(built: Prepared) -> list[RoundResult]:
    view = ModelLayout.of(built.model)
    state = Server.initial(view.layout, built.federation.scheme, view.read())
    return list(simulate(built.federation, built.model, state))


def test_roles_are_clients_with_a_cap_on_samples(tmp_path: Path) -> None:
    built = prepared(tmp_path, "shakespeare", "fedmrn")
    federation = built.federation
    assert [len(part) for part in federation.parts] == [20] * 3
    for part in federation.parts:
        assert sum(np.isin(part, role).all() for role in built.dataset.roles) == 1
    assert len(federation.test_x) == 30
    x, y = federation.samples(0)
    assert (x.shape, x.dtype, y.dtype) == ((20, 80), np.uint8, np.int64)


def test_texts_can_be_shared_out_like_images(tmp_path: Path) -> None:
    parts = prepared(tmp_path, "shakespeare", "fedmrn", "data.partition=iid", "data.max_samples=0").federation.parts
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert len(np.unique(np.concatenate(parts))) == sum(sizes) > 100


@pytest.mark.parametrize("partition", ["dirichlet", "labels"])
def test_segmented_images_are_shared_out_by_their_main_label(tmp_path: Path, partition: str) -> None:
    changes = (f"data.partition={partition}", "data.min_size=1", "data.share=0.5", "data.alpha=1.0")
    parts = prepared(tmp_path, "voc", "fedmrn", *changes).federation.parts
    assert sorted(np.concatenate(parts).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("preset", ["shakespeare", "voc"])
@pytest.mark.parametrize("method", ["fedavg", "fedmrn"])
def test_a_federation_of_it_repeats_to_the_byte(tmp_path: Path, preset: str, method: str) -> None:
    first, again = (run(prepared(tmp_path, preset, method)) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert a.state.tobytes() == b.state.tobytes()
        assert (a.accuracy, a.loss, a.train_loss) == (b.accuracy, b.loss, b.train_loss)
        assert np.isfinite(a.state).all()
        assert 0 <= a.accuracy <= 1
    assert first[0].state.tobytes() != first[1].state.tobytes()
    ratio = first[0].bits_per_parameter
    assert ratio > 32 if method == "fedavg" else 1 < ratio < 2
