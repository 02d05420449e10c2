"""Compute the running statistics of normalisation layers anew, for the weights that a model has now.

In training, batch norm keeps a moving average over the last batches, and the weights move meanwhile. Evaluation wants
the statistics of the weights that are evaluated: of their inputs' mean and variance in each layer.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fedmrn.errors import ConfigError, EncodeError, UnsupportedModelError
from fedmrn.torch.internals import ANY_BATCH_NORM
from fedmrn.torch.modules import unwrapped

Forward = Callable[[Any], object]
"""Runs the model on what an iterable of batches yields."""
_INSTANCES = ((nn.InstanceNorm1d, 3), (nn.InstanceNorm2d, 4), (nn.InstanceNorm3d, 5))
"""Instance normalisation, and the dimensions of a batch."""


def calibrate(model: nn.Module, batches: Iterable[Any], *, forward: Forward | None = None) -> None:
    """Set the running statistics of all batch and instance normalisation layers to those of these inputs.

    The model runs forward once over the batches, without gradients: normalisation layers as in training, all else
    (dropout) as in evaluation. A layer's mean and variance are then those of all its inputs together. Weights, modes
    and counters stay as they were. A model without such layers runs nothing, and takes no batch.

    A layer without running statistics has nothing to set. One that is in evaluation mode while the model is in training
    mode was frozen on purpose, and keeps its statistics; so does one that the forward pass does not reach.

    Args:
        model: any module.
        batches: of inputs: tensors, or tuples whose first part is one, such as a loader yields, or mappings to call the
            model with by keyword. They are moved to the model's device. Batches of one size are best; batch norm
            cannot take one that has a single value a channel.
        forward: how to run the model on a batch, for anything else.

    Raises:
        ConfigError: there is no batch, or one that the model cannot be called with.
        UnsupportedModelError: the forward pass reached no normalisation layer.
        EncodeError: statistics are not finite: inputs or weights are not. The old ones stay.
    """
    model = unwrapped(model)  # nothing is compiled anew, and processes need not take the same number of batches
    layers = _layers(model)
    if not layers:
        return
    found = {name: _Moments(layer) for name, layer in layers.items()}
    run = forward or _caller(model, next(iter(layers.values())).running_mean.device)
    before = [(buffer, buffer.clone()) for layer in layers.values() for buffer in layer.buffers(recurse=False)]
    count = 0
    try:
        with _only_normalisation_trains(model, layers), _noted(found), torch.no_grad():
            for batch in batches:
                run(batch)
                count += 1
    finally:  # counters too: a layer without momentum goes on from where training left it
        with torch.no_grad():
            for buffer, values in before:
                buffer.copy_(values)
    if not count:
        raise ConfigError(
            "there is no batch to calibrate with: give an iterable that yields at least one, anew each time"
        )
    reached = {name: moments for name, moments in found.items() if moments.count}
    if not reached:
        raise UnsupportedModelError(
            f"the forward pass reached no normalisation layer ({next(iter(layers))}, ...): forward=... must run the "
            "module that is calibrated, not a copy or a compiled form of it"
        )
    for name, moments in reached.items():
        moments.check(name)
    for moments in reached.values():
        moments.write()


def samples_in(batch: object) -> int:
    """Return how many samples a batch has, in one of the forms that `calibrate` takes.

    Raises:
        ConfigError: it is none of these.
    """
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else [batch]
    found = next((part for part in parts if isinstance(part, Tensor)), None)
    if found is None or not found.dim():
        raise ConfigError("a batch of this form does not say how many samples it has: pass weight=...")
    return len(found)


def _layers(model: nn.Module) -> dict[str, Any]:
    """The layers to calibrate, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, ANY_BATCH_NORM)
        and "running_mean" in dict(module.named_buffers(recurse=False))
        and (module.training or not model.training)
    }


class _Moments:
    """The mean and variance of all that a layer was given: exact, however it was cut into batches.

    Batches are pooled in float64 (Chan, Golub and LeVeque, 1979): the variance of the whole is that within batches and
    that of their means. Instance normalisation keeps the mean of its instances' variances, as in training.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self._instances = next((dims for kind, dims in _INSTANCES if isinstance(layer, kind)), 0)
        self.mean = torch.zeros_like(layer.running_mean, dtype=torch.float64)
        self.squares = torch.zeros_like(self.mean)
        self.count = 0

    def note(self, x: Tensor) -> None:
        """Take in a batch, whose mean and variance the layer has just written into its buffers."""
        mean, variance = self.layer.running_mean.double(), self.layer.running_var.double()
        if self._instances:
            more = x.shape[0] if x.dim() == self._instances else 1
            within, between = variance * more, 0.0
        else:
            more = x.numel() // len(mean)
            within, between = variance * (more - 1), self.count * more / (self.count + more)
        apart = mean - self.mean
        self.count += more
        self.mean += apart * (more / self.count)
        self.squares += within + apart.square() * between

    @property
    def variance(self) -> Tensor:
        """Unbiased, as torch keeps it."""
        return self.squares / (self.count if self._instances else max(1, self.count - 1))

    def check(self, name: str) -> None:
        """Raise EncodeError unless all is finite."""
        if not (torch.isfinite(self.mean) & torch.isfinite(self.variance)).all():
            raise EncodeError(
                f"the statistics of layer {name} are not finite: training diverged, or the inputs are not finite; "
                "lower the learning rate, or scale the inputs"
            )

    @torch.no_grad()
    def write(self) -> None:
        """Put the statistics into the layer."""
        self.layer.running_mean.copy_(self.mean)
        self.layer.running_var.copy_(self.variance)


@contextmanager
def _only_normalisation_trains(model: nn.Module, layers: Mapping[str, Any]) -> Iterator[None]:
    """Put the layers in training mode, where each writes its batch's own statistics, and all else in evaluation."""
    modes = [(module, module.training) for module in model.modules()]
    momenta = [(layer, layer.momentum) for layer in layers.values()]
    try:
        model.eval()
        for layer in layers.values():
            layer.training, layer.momentum = True, 1.0
            layer.reset_running_stats()  # what is not finite there would survive a factor of 0
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for layer, momentum in momenta:
            layer.momentum = momentum


@contextmanager
def _noted(found: Mapping[str, _Moments]) -> Iterator[None]:
    """Note what goes through the layers."""

    def noting(moments: _Moments) -> Callable[..., None]:
        return lambda _, args, named, __: moments.note(args[0] if args else named["input"])

    hooks = [m.layer.register_forward_hook(noting(m), with_kwargs=True) for m in found.values()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _caller(model: nn.Module, device: torch.device) -> Forward:
    """What calls the model on a tensor, the first part of a tuple, or a mapping by keyword."""

    def moved(value: object) -> object:
        return value.to(device) if isinstance(value, Tensor) else value

    def call(batch: object) -> object:
        if isinstance(batch, Mapping):
            return model(**{str(name): moved(value) for name, value in batch.items()})
        x = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(x, Tensor):
            raise ConfigError(
                f"a batch to calibrate with is a tensor, a tuple that begins with one, or a mapping; got "
                f"{type(x).__name__}: pass forward=..., which runs the model on it"
            )
        return model(moved(x))

    return call
