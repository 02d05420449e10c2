"""The experiments' models: their sizes, their starts, and what is refused."""

import pytest
import torch
from torch import nn

from fedmrn.errors import ConfigError
from fedmrn.models.catalogue import CNNS, build_model
from fedmrn.torch import ModelLayout
from fedmrn.wire.layout import Group

CNN4, CNN8 = (32, 64, 128, 256), (32, 32, 64, 64, 128, 128, 256, 256)


def build(name: str = "cnn4", channels: int = 1, size: int = 28, classes: int = 10, **more: object) -> nn.Module:
    return build_model(name, shape=(channels, size, size), classes=classes, **({"seed": 1} | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "channels", "size", "classes", "coded", "norms"),
    [
        ("cnn4", 1, 28, 10, 389_920, 480),
        ("cnn4", 3, 32, 10, 398_176, 480),
        ("cnn8", 3, 32, 10, 1_181_536, 960),
        ("cnn8", 3, 32, 100, 1_273_696, 960),
    ],
)
def test_parameters_are_those_of_the_paper(
    name: str, channels: int, size: int, classes: int, coded: int, norms: int
) -> None:
    model = build(name, channels, size, classes)
    layout = ModelLayout.of(model).layout
    assert layout.span(Group.CODED) == slice(0, coded)
    assert layout.trainable == coded + 2 * norms
    assert layout.size == coded + 4 * norms
    assert not any(n.endswith("bias") for t in layout.tensors if t.group is Group.CODED for n in [t.name])
    outs = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert outs == list(CNN4 if name == "cnn4" else CNN8)


@pytest.mark.parametrize("name", CNNS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_goes_through(name: str, channels: int) -> None:
    size = 1 << len(CNNS[name])
    out = build(name, channels, size, 7)(torch.randn(2, channels, size, size))
    assert out.shape == (2, 7)
    assert out.requires_grad


def test_the_digits_model() -> None:
    model = build("cnn-digits", 1, 8)
    coded = ModelLayout.of(model).layout.span(Group.CODED).stop
    assert coded == 9 * (32 + 32 * 64 + 64 * 128) + 128 * 10
    assert [type(m).__name__ for m in model] == [
        *["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"] * 3,
        "Flatten",
        "Linear",
    ]


def test_pooling_comes_after_each_pair_in_cnn8() -> None:
    kinds = [type(m) for m in build("cnn8", 3, 32)]
    pair = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2 + [nn.MaxPool2d]
    assert kinds == pair * 4 + [nn.Flatten, nn.Linear]


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_draws_alone() -> None:
    torch.manual_seed(7)
    first = ModelLayout.of(build()).read()
    drawn = torch.rand(2)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(2), drawn)
    assert first.tobytes() == ModelLayout.of(build()).read().tobytes()
    assert first.tobytes() != ModelLayout.of(build(seed=2)).read().tobytes()


@pytest.mark.parametrize("std", [0.01, 0.1])
def test_normal_weights_of_the_asked_deviation(std: float) -> None:
    model = build(init_std=std)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight.detach()
            # The standard error of a deviation is std / sqrt(2 n), of a mean std / sqrt(n); five of each.
            assert abs(float(weight.std()) - std) <= 5 * std / (2 * weight.numel()) ** 0.5
            assert abs(float(weight.mean())) <= 5 * std / weight.numel() ** 0.5
        elif isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all())
    again = build(init_std=std)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_without_a_deviation_the_frameworks_start_is_kept() -> None:
    weight = build()[0].weight.detach()  # type: ignore[index]
    # Uniform within 1 / sqrt(fan-in) = 1/3.
    assert 0.3 < float(weight.abs().max()) <= 1 / 3


@pytest.mark.parametrize(("wrong", "meant"), [("cnn-4", "cnn4"), ("CNN8", "cnn8"), ("cnn-digit", "cnn-digits")])
def test_an_unknown_model_suggests_the_nearest(wrong: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"model '{wrong}' does not exist.*{meant}"):
        build(wrong)


@pytest.mark.parametrize(("name", "least"), [("cnn-digits", 8), ("cnn4", 16), ("cnn8", 16)])
def test_an_image_that_is_too_small_is_refused(name: str, least: int) -> None:
    build(name, size=least)
    with pytest.raises(ConfigError, match=f"at least {least} pixels a side, these have {least - 1}"):
        build(name, size=least - 1)
