"""The models of the experiments: the paper's CNN4 and CNN8, and a small one for digits."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import nn

from fedmrn.errors import ConfigError
from fedmrn.rng import derive_key
from fedmrn.text import nearest

MODELS: Mapping[str, tuple[tuple[int, ...], ...]] = MappingProxyType(
    {
        "cnn-digits": ((32,), (64,), (128,)),
        "cnn4": ((32,), (64,), (128,), (256,)),
        "cnn8": ((32, 32), (64, 64), (128, 128), (256, 256)),
    }
)
"""Output channels of the convolutions, in stages; each stage ends in a 2x2 max pooling."""


def build_model(
    name: str, *, channels: int, size: int, classes: int, seed: int, init_std: float | None = None
) -> nn.Module:
    """Return a freshly initialised model: 3x3 convolutions without bias, each with batch norm and ReLU, and a linear
    layer without bias.

    Args:
        name: a key of `MODELS`.
        channels: of the input.
        size: height and width of the input.
        classes: outputs.
        seed: of the run; the same seed gives the same weights.
        init_std: standard deviation of normal weights (the published code: 0.01); None for the framework's default.

    Raises:
        ConfigError: the model does not exist, or the image is too small for it.
    """
    if name not in MODELS:
        raise ConfigError(f"model {name!r} does not exist{nearest(name, MODELS)}")
    stages = MODELS[name]
    side = size >> len(stages)
    if side < 1:
        raise ConfigError(f"model {name} needs images of at least {1 << len(stages)} pixels a side, these have {size}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_key(seed, "model") >> 1)
        layers = _stages(channels, stages)
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(stages[-1][-1] * side * side, classes, bias=False))
        if init_std is not None:
            for module in model.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    nn.init.normal_(module.weight, 0.0, init_std)
    return model


def _stages(channels: int, stages: Sequence[Sequence[int]]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for stage in stages:
        for out in stage:
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        layers.append(nn.MaxPool2d(2))
    return layers
