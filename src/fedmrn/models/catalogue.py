"""The models of the experiments: the paper's CNN4, CNN8 and character LSTM, and smaller or further ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from fedmrn.data import Task
from fedmrn.errors import ConfigError
from fedmrn.models.bilateral import STRIDE, BilateralNetwork
from fedmrn.models.lstm import CharacterLSTM
from fedmrn.models.own import check_alike, own_model, timm_model
from fedmrn.numerics.rng import derive_key
from fedmrn.text import nearest

CNNS: Mapping[str, tuple[tuple[int, ...], ...]] = MappingProxyType(
    {
        "cnn-digits": ((32,), (64,), (128,)),
        "cnn4": ((32,), (64,), (128,), (256,)),
        "cnn8": ((32, 32), (64, 64), (128, 128), (256, 256)),
    }
)
"""Output channels of the convolutions, in stages; each stage ends in a 2x2 max pooling."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What a model predicts (None: whatever it is given), what builds it from the shape of a sample and the number of
    classes, and whether its first weights are trained already."""

    task: Task | None
    build: Callable[[tuple[int, ...], int], nn.Module]
    pretrained: bool = False


def build_model(
    name: str,
    *,
    shape: tuple[int, ...],
    classes: int,
    seed: int,
    init_std: float | None = None,
    task: Task = "images",
    folder: Path | None = None,
) -> nn.Module:
    """Return a freshly initialised model.

    Args:
        name: a key of `MODELS`, module:Class for one's own, or timm:NAME.
        shape: of a sample: (channels, height, width), or (length,) of a text.
        classes: outputs.
        seed: of the run; the same seed gives the same weights.
        init_std: standard deviation of normal weights (the published code: 0.01); None for the framework's default.
        task: what is to be predicted.
        folder: of the setting's file, beside which the module of one's own may be.

    Raises:
        ConfigError: the model does not exist, is for another task, or the image is too small for it; it is pretrained
            and `init_std` is set, or what it needs is not installed; it is one's own, and cannot be made, or is not the
            same each time.
        UnsupportedModelError: it is one's own, and cannot be trained.
    """
    row = _blueprint(name, folder)
    if row.task not in (task, None):
        fit = [n for n, other in MODELS.items() if other.task == task]
        cure = f"choose one of {', '.join(fit)}" if fit else "give one of your own, module:Class"
        what = task if fit else f"{task} of shape {shape}"
        raise ConfigError(f"model {name} is for {row.task}, the data set is {what}: {cure}")
    if init_std is not None and row.pretrained:
        raise ConfigError(f"model {name} is pretrained: model.init_std would overwrite its weights; leave it out")

    def built() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_key(seed, "model") >> 1)
            model = row.build(shape, classes)
            if init_std is not None:
                for module in model.modules():
                    if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding | nn.LSTM):
                        for weight in module.parameters():
                            nn.init.normal_(weight, 0.0, init_std)
        return model

    model = built()
    if row.task is None:
        check_alike(model, built(), name)
    return model


def _blueprint(name: str, folder: Path | None) -> Blueprint:
    if name in MODELS:
        return MODELS[name]
    if name.startswith("timm:"):
        return Blueprint(None, timm_model(name.removeprefix("timm:")))
    if ":" in name:
        return Blueprint(None, own_model(name, folder))
    raise ConfigError(f"model {name!r} does not exist{nearest(name, MODELS)} (one of your own is module:Class)")


def _cnn(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """3x3 convolutions without bias, each with batch norm and ReLU, and a linear layer without bias."""
    stages, (channels, height, width) = CNNS[name], shape
    places = (height >> len(stages)) * (width >> len(stages))
    if not places:
        least, side = 1 << len(stages), min(height, width)
        raise ConfigError(f"model {name} needs images of at least {least} pixels a side, these have {side}")
    layers = _stages(channels, stages)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(stages[-1][-1] * places, classes, bias=False))


def _stages(channels: int, stages: Sequence[Sequence[int]]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for stage in stages:
        for out in stage:
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        layers.append(nn.MaxPool2d(2))
    return layers


def _lstm(hidden: int, layers: int, dropout: float) -> Callable[[tuple[int, ...], int], nn.Module]:
    return lambda _, classes: CharacterLSTM(classes, hidden, layers, dropout)


def _minilm(lora: bool) -> Callable[[tuple[int, ...], int], nn.Module]:
    def build(_: tuple[int, ...], classes: int) -> nn.Module:
        from fedmrn.models.sentence import minilm  # noqa: PLC0415 - of an extra

        return minilm(classes, lora=lora)

    return build


def _bilateral(shape: tuple[int, ...], classes: int) -> nn.Module:
    channels, height, width = shape
    if height % STRIDE or width % STRIDE:
        raise ConfigError(f"model bilateral needs images whose sides are multiples of {STRIDE}, not {height}x{width}")
    return BilateralNetwork(channels, classes)


MODELS: Mapping[str, Blueprint] = MappingProxyType(
    {
        **{name: Blueprint("images", partial(_cnn, name)) for name in CNNS},
        "lstm": Blueprint("text", _lstm(256, 1, 0.5)),
        "lstm-leaf": Blueprint("text", _lstm(256, 2, 0.0)),
        "lstm-small": Blueprint("text", _lstm(128, 1, 0.0)),
        "minilm": Blueprint("sentences", _minilm(lora=False), pretrained=True),
        "minilm-lora": Blueprint("sentences", _minilm(lora=True), pretrained=True),
        "bilateral": Blueprint("segmentation", _bilateral),
    }
)
