"""A model's parameters and statistics as one flat vector, without editing the model.

What is masked is an explicit rule: every trained parameter is CODED, except those of normalisation layers, which are
DENSE. Persistent floating-point buffers (running statistics) are STATS, except running variances, which are VARIANCE:
those called `running_var` beside a `running_mean`, and what is named as one. A parameter that does not require a
gradient is frozen and not sent; integer buffers (`num_batches_tracked`) are not sent. `describe` names each of them.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmrn.errors import ConfigError, UnsupportedModelError, WrongLayoutError
from fedmrn.text import nearest
from fedmrn.torch.internals import ANY_BATCH_NORM, is_persistent
from fedmrn.wire.layout import Group, Layout, TensorSpec

_NORMALISATION = (
    ANY_BATCH_NORM,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)

DEVICES = ("cpu", "cuda")

Choose = Callable[[str, nn.Module, nn.Parameter], Group]
"""(name, the module that owns it, the parameter) -> CODED or DENSE."""

Variances = Collection[str] | Callable[[str, nn.Module, Tensor], bool]
"""Names of buffers that are variances beside those that `is_variance` finds; or a function of (name, the module that
owns it, the buffer) that decides in its place."""


def default_choice(name: str, owner: nn.Module, parameter: nn.Parameter) -> Group:
    """Return DENSE for the parameters of normalisation layers, CODED for all others (biases, embeddings, ...)."""
    return Group.DENSE if isinstance(owner, _NORMALISATION) else Group.CODED


def is_variance(name: str, owner: nn.Module, buffer: Tensor) -> bool:
    """Return whether a buffer is called `running_var` and stands beside a `running_mean` of its shape."""
    buffers = dict(owner.named_buffers(recurse=False))
    mean = buffers.get("running_mean")
    return buffers.get("running_var") is buffer and mean is not None and mean.shape == buffer.shape


@dataclass(frozen=True)
class ModelLayout:
    """The layout of a module, and what is left out of it.

    Attributes:
        layout: the flat vector.
        tensors: the module's own tensors in flat order; a tied parameter appears once.
        frozen: names of parameters that do not require a gradient.
        counters: names of buffers that are not floats.
        tied: further names of tensors, as in a state dict, and the name that the layout has for each.
    """

    layout: Layout
    tensors: tuple[Tensor, ...]
    frozen: tuple[str, ...]
    counters: tuple[str, ...]
    tied: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, choose: Choose = default_choice, variances: Variances = ()) -> "ModelLayout":
        """Return the layout of a model.

        Args:
            model: any module.
            choose: which trained parameters are coded.
            variances: which buffers hold variances, beside those of normalisation layers. They are never negative, and
                are averaged by their logarithms.

        Raises:
            ConfigError: `variances` names what is no buffer of floats.
            UnsupportedModelError: a tensor is not float32, is neither on the CPU nor on a CUDA device or on another one
                than the rest, or shares memory with another; or none is trained.
        """
        found: list[tuple[TensorSpec, Tensor]] = []
        frozen, counters = [], []
        first: tuple[str, torch.device] | None = None
        decide = variances if callable(variances) else _named_or_known(variances)
        for name, owner, tensor in _tensors(model):
            first = first or (name, tensor.device)
            _check_device(name, tensor, *first)
            shape = tuple(tensor.shape)
            if isinstance(tensor, nn.Parameter):
                if tensor.requires_grad:
                    found.append((TensorSpec(name, shape, choose(name, owner, tensor)), tensor))
                else:
                    frozen.append(name)
            elif tensor.is_floating_point():
                group = Group.VARIANCE if decide(name, owner, tensor) else Group.STATS
                found.append((TensorSpec(name, shape, group), tensor))
            else:
                counters.append(name)
        if not callable(variances):
            _check_names(variances, [spec.name for spec, _ in found if not spec.group.trained])
        if not any(spec.group is Group.CODED for spec, _ in found):
            raise UnsupportedModelError("the model has no trained parameter to compress")
        for spec, tensor in found:
            if tensor.dtype != torch.float32:
                raise UnsupportedModelError(
                    f"tensor {spec.name} is {tensor.dtype}; fedmrn trains float32: call model.float() first"
                )
        _refuse_overlap(found)
        layout = Layout.of(spec for spec, _ in found)
        by_name = {spec.name: tensor for spec, tensor in found}
        tensors = tuple(by_name[t.name] for t in layout.tensors)
        return cls(layout, tensors, tuple(frozen), tuple(counters), _tied(model, by_name))

    @property
    def device(self) -> torch.device:
        """The device that all of the model lies on."""
        return self.tensors[0].device

    @torch.no_grad()
    def read(self, group: Group | None = None) -> NDArray[np.float32]:
        """Return the model's values, float32, shape (layout.size,); or those of one group, which is not empty."""
        pairs = zip(self.tensors, self.layout.tensors, strict=True)
        parts = [tensor.detach().reshape(-1) for tensor, spec in pairs if group is None or spec.group is group]
        return torch.cat(parts).cpu().numpy()

    @torch.no_grad()
    def write(self, vector: NDArray[np.float32]) -> None:
        """Set the model's values from a float32 vector of shape (layout.size,).

        Raises:
            WrongLayoutError: if the vector has another shape.
        """
        if vector.shape != (self.layout.size,):
            raise WrongLayoutError(f"the model has {self.layout.size} values, the vector {vector.shape}")
        flat = torch.from_numpy(np.require(vector, requirements=("C", "W")))  # torch warns of read-only arrays
        flat = flat.to(self.device)
        for tensor, where in zip(self.tensors, self.layout.slices.values(), strict=True):
            tensor.copy_(flat[where].view(tensor.shape))

    def describe(self) -> str:
        """Return a few lines that say how many values are coded, dense, averaged and left out, by name."""
        lines = []
        for group in Group:
            tensors = [t for t in self.layout.tensors if t.group is group]
            names = "" if group is Group.CODED else ": " + (", ".join(t.name for t in tensors) or "none")
            size = sum(t.size for t in tensors)
            lines.append(f"{group.name.lower()}: {size:,} values in {len(tensors)} tensors{names}")
        lines.append(f"frozen, not sent: {', '.join(self.frozen) or 'none'}")
        lines.append(f"counters, not sent: {', '.join(self.counters) or 'none'}")
        return "\n".join(lines)


def _tensors(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Every parameter and persistent buffer once, with the module that owns it."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        buffers = ((n, b) for n, b in module.named_buffers(recurse=False) if is_persistent(module, n))
        for name, tensor in (*module.named_parameters(recurse=False), *buffers):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield dot + name, module, tensor


def _named_or_known(names: Collection[str]) -> Callable[[str, nn.Module, Tensor], bool]:
    return lambda name, owner, buffer: name in names or is_variance(name, owner, buffer)


def _check_names(variances: Collection[str], buffers: list[str]) -> None:
    for name in [variances] if isinstance(variances, str) else variances:
        if isinstance(variances, str) or name not in buffers:
            hint = ": give a list of names" if isinstance(variances, str) else nearest(name, buffers)
            raise ConfigError(f"variances names {name!r}, which is no buffer of floats of the model{hint}")


def _check_device(name: str, tensor: Tensor, first: str, device: torch.device) -> None:
    if tensor.device.type not in DEVICES:
        raise UnsupportedModelError(
            f"tensor {name} is on {tensor.device}; fedmrn trains on the CPU or on CUDA: move it with model.cpu()"
        )
    if tensor.device != device:
        raise UnsupportedModelError(
            f"tensor {name} is on {tensor.device}, but {first} on {device}; the whole model must lie on one device: "
            "call model.cpu() or model.cuda()"
        )


def _tied(model: nn.Module, by_name: Mapping[str, Tensor]) -> dict[str, str]:
    names = {id(tensor): name for name, tensor in by_name.items()}
    everything = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return {other: names[id(t)] for other, t in everything if id(t) in names and names[id(t)] != other}


def _refuse_overlap(found: list[tuple[TensorSpec, Tensor]]) -> None:
    """Two parameters over the same memory would each be given a place of its own, and so be untied."""
    places = sorted((t.data_ptr(), t.data_ptr() + t.numel() * t.element_size(), s.name) for s, t in found if t.numel())
    for (_, end, name), (start, _, other) in pairwise(places):
        if start < end:
            raise UnsupportedModelError(
                f"{name} and {other} share memory but are two parameters; tie them as one: a.weight = b.weight"
            )
