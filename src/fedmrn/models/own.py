"""Models of a person's own, module:Class, and of timm: built, and tried on two samples before anything is trained.

A class, or a function that returns a module, is called with those of `classes` (how many), `num_classes` (the same) and
`shape` (of a sample) that it has as arguments; one of `**kwargs` and no `classes` gets `num_classes`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedmrn.data.own import call, find_object, told
from fedmrn.errors import ConfigError, UnsupportedModelError, UsageError
from fedmrn.text import nearest, printable
from fedmrn.torch import ModelLayout
from fedmrn.torch.loop import channels_last

Build = Callable[[tuple[int, ...], int], nn.Module]
"""(shape of a sample, classes) -> a model."""


def own_model(name: str, folder: Path | None) -> Build:
    """Return what builds the model that module:Class names, found beside a setting's file or installed.

    Raises:
        ConfigError: as `find_object`. What is returned raises it too, where the class raises an error or is none of
            models.
    """
    what = f"model.name = {printable(name)!r}"
    target = find_object(name, folder, "model.name")

    def build(shape: tuple[int, ...], classes: int) -> nn.Module:
        offered: dict[str, Any] = {"classes": classes, "num_classes": classes, "shape": shape}
        model = _built(lambda: call(target, offered, what, otherwise="num_classes"), what, folder)
        if not isinstance(model, nn.Module):
            raise ConfigError(f"{what} made a {type(model).__name__}: it must make a torch.nn.Module")
        return model

    return build


def timm_model(name: str) -> Build:
    """Return what builds a model of timm's, with initial weights and not with trained ones.

    Raises:
        ConfigError: timm is not installed, or has no model of this name. What is returned raises it where the samples
            are not images, or the model cannot be made for them.
    """
    what = f"model.name = {printable(f'timm:{name}')!r}"
    try:
        import timm  # noqa: PLC0415 - an extra, and seconds to import
    except ModuleNotFoundError as error:
        raise ConfigError(f'{what} needs timm: pip install "fedmrn[timm]"') from error
    except Exception as error:  # of another torch than the one that is installed, for example
        raise ConfigError(f"{what}: timm cannot be imported: {told(error, None)}") from error
    if not timm.is_model(name):
        raise ConfigError(f"{what}: timm has no model {printable(name)}{_close(name, timm.list_models())}")

    def build(shape: tuple[int, ...], classes: int) -> nn.Module:
        if len(shape) != 3:
            raise ConfigError(f"{what} is for images, and samples are of shape {shape}")
        options: dict[str, Any] = {"pretrained": False, "num_classes": classes, "in_chans": shape[0]}
        fixed = timm.get_pretrained_cfg(name)
        if fixed is not None and fixed.fixed_input_size:
            options["img_size"] = shape[1:]
        model: nn.Module = _built(lambda: timm.create_model(name, **options), what, None)
        return model

    return build


def check_alike(one: nn.Module, other: nn.Module, name: str) -> None:
    """Refuse a model whose first weights are not a function of torch's seed: processes would not build the same.

    Raises:
        ConfigError: two that were built by one seed differ.
        UnsupportedModelError: as `ModelLayout.of`.
    """
    what = f"model.name = {printable(name)!r}"
    try:
        layouts = [ModelLayout.of(model).layout for model in (one, other)]
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{what}: {error}") from error
    tensors = [{k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)} for model in (one, other)]
    if layouts[0] == layouts[1] and tensors[0].keys() == tensors[1].keys():
        wrong = next((k for k, v in tensors[0].items() if not torch.equal(v, tensors[1][k])), None)
        if wrong is None:
            return
        raise ConfigError(
            f"{what}: its first weights differ each time that it is built "
            f"({printable(wrong)}): draw them with torch, which the run seeds, and not with NumPy or random"
        )
    raise ConfigError(f"{what} has other tensors each time that it is built: make it the same")


def check_outputs(model: nn.Module, x: Tensor, classes: int, name: str, folder: Path | None) -> bool:
    """Try a model on some samples, in training too; return whether it takes images with channels-last strides as well.

    Args:
        model: its state is left as it is.
        x: samples on its device, as training has them; at least one.
        classes: how many outputs a sample it must have.
        name: of the model, for messages.
        folder: of the setting's file, for messages.

    Raises:
        ConfigError: it raises an error on them, its outputs are not logits of shape (n, classes), or no trained
            parameter has a gradient.
    """
    what, given = f"model.name = {printable(name)!r}", f"samples of shape {tuple(x.shape)}, {_kind(x)}"
    try:
        out = _outputs(model, x)
    except Exception as error:  # a model of anybody's
        raise ConfigError(f"{what} fails on {given}: {told(error, folder)}") from error
    if not isinstance(out, Tensor):
        raise ConfigError(f"{what} returns a {type(out).__name__}: it must return logits, a tensor (n, {classes})")
    if out.shape != (len(x), classes) or not out.is_floating_point():
        raise ConfigError(
            f"{what} returns {_kind(out)} of shape {tuple(out.shape)} for {given}: it must return logits of shape "
            f"({len(x)}, {classes}), one for each of the {classes} classes of the data"
        )
    try:
        learns = _learns(model, x)
    except Exception as error:  # a model of anybody's
        raise ConfigError(f"{what} fails in training on {given}: {told(error, folder)}") from error
    if not learns:
        raise ConfigError(
            f"{what} cannot learn: no trained parameter has a gradient; look for no_grad or detach in its forward"
        )
    if x.dim() != 4:
        return False
    try:
        _outputs(model, channels_last(x))
    except Exception:  # `view` refuses such strides; `reshape` and `flatten` do not
        return False
    return True


def _outputs(model: nn.Module, x: Tensor) -> Any:
    """Run a model forward in evaluation mode."""
    with _left_as_it_is(model, x), torch.no_grad():
        return model.eval()(x)


def _learns(model: nn.Module, x: Tensor) -> bool:
    """Run a model forward in training mode and backward, and return whether a trained parameter has a gradient."""
    trained = [p for p in model.parameters() if p.requires_grad]
    with _left_as_it_is(model, x), torch.enable_grad():
        total = model.train()(x).float().sum()
        return total.requires_grad and any(
            g is not None for g in torch.autograd.grad(total, trained, allow_unused=True)
        )


@contextmanager
def _left_as_it_is(model: nn.Module, x: Tensor) -> Iterator[None]:
    """Put back whatever running a model changes of it, and random numbers."""
    training, before = model.training, {k: v.clone() for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    devices = [x.device] if x.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        model.train(training)
        with torch.no_grad():
            for name, now in model.state_dict().items():
                if name in before:
                    now.copy_(before[name])


def _built(make: Callable[[], Any], what: str, folder: Path | None) -> Any:
    try:
        return make()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{what} cannot be made: {told(error, folder)}") from error


def _close(name: str, models: list[str]) -> str:
    hint = nearest(name, models)
    return hint if "did you mean" in hint else "; see timm.list_models()"


def _kind(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
