"""A model's parameters and statistics as one flat vector, without editing the model.

What is masked is an explicit rule: every trained parameter is CODED, except those of normalisation layers, which are
DENSE. Of the buffers only statistics that training changes are sent: floats of batch norm, and those called
running_..., are STATS, except running variances, which are VARIANCE: those called `running_var` beside a
`running_mean`, and what is named as one. Other buffers (causal masks, position tables, `num_batches_tracked`) and
frozen parameters are not sent. A `Selection` changes all of this by name, and `describe` lists the outcome.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmrn.errors import ConfigError, UnsupportedModelError, WrongLayoutError
from fedmrn.text import nearest
from fedmrn.torch.modules import Owned, check_materialised, check_travels, names_of, tensors_of, unwrapped
from fedmrn.torch.selection import OTHERS, TRAINED, Selection, chosen, is_normalisation, is_statistic, is_variance
from fedmrn.wire.layout import Group, Layout, TensorSpec

Choose = Callable[[str, nn.Module, nn.Parameter], Group] | Selection
"""(name, the module that owns it, the parameter) -> CODED or DENSE; or a `Selection` by names."""

Variances = Collection[str] | Callable[[str, nn.Module, Tensor], bool]
"""Names of buffers that are variances beside those that `is_variance` finds; or a function of (name, the module that
owns it, the buffer) that decides in its place."""


def default_choice(name: str, owner: nn.Module, parameter: nn.Parameter) -> Group:
    """Return DENSE for the parameters of normalisation layers, CODED for all others (biases, embeddings, ...)."""
    return Group.DENSE if is_normalisation(name, owner, parameter) else Group.CODED


@dataclass(frozen=True, kw_only=True)
class ModelLayout:
    """The layout of a module, and what is left out of it.

    Attributes:
        model: the module, without wrappers.
        layout: the flat vector.
        places: where the module's own tensors hang, in flat order; a tied parameter appears once.
        frozen: names of parameters that do not require a gradient and are not sent.
        local: names of buffers of floats that are not sent.
        counters: names of buffers that are not floats.
        free: those of `frozen` and `local` that were chosen to be left out, and so may change in training.
        tied: further names of tensors, as in a state dict, and the name that the layout has for each.
    """

    model: nn.Module
    layout: Layout
    places: tuple[Owned, ...]
    frozen: tuple[str, ...]
    local: tuple[str, ...]
    counters: tuple[str, ...]
    free: frozenset[str] = frozenset()
    tied: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, choose: Choose = default_choice, variances: Variances = ()) -> "ModelLayout":
        """Return the layout of a model.

        Args:
            model: any module. Wrappers of `torch.compile`, DataParallel and DistributedDataParallel do not count: the
                layout is that of the model inside.
            choose: which trained parameters are coded; or a `Selection`, of buffers too.
            variances: which buffers hold variances, beside those of normalisation layers. They are never negative, and
                are averaged by their logarithms.

        Raises:
            ConfigError: `variances` or `choose` names what is not there, or one tensor twice.
            UnsupportedModelError: a tensor that is sent is not float32, bfloat16 or float16, is neither on the CPU nor
                on a CUDA device or on another one than the rest, or shares memory with another; or none is trained.
        """
        model = unwrapped(model)
        owned = list(tensors_of(model))
        for each in owned:
            check_materialised(each.name, each.tensor)
        selection = choose if isinstance(choose, Selection) else Selection()
        kinds = _kinds(model, owned, selection)
        group_of = default_choice if isinstance(choose, Selection) else choose
        decide = variances if callable(variances) else _named_or_known(variances)
        found: list[tuple[TensorSpec, Owned]] = []
        left: dict[str, list[str]] = {"frozen": [], "local": [], "counters": []}
        for each in owned:
            name, owner, _, tensor = each
            kind, trained = kinds.get(name), isinstance(tensor, nn.Parameter) and tensor.requires_grad
            if trained:
                group = Group[kind.upper()] if kind else group_of(name, owner, tensor)  # type: ignore[arg-type]
            elif kind == "local":
                group = None
            elif kind:
                group = Group.STATS if kind == "statistics" else Group.VARIANCE
            elif isinstance(tensor, nn.Parameter) or not tensor.is_floating_point():
                group = None
            elif decide(name, owner, tensor):
                group = Group.VARIANCE
            else:
                group = Group.STATS if is_statistic(name, owner) else None
            if group is None:
                left[_left_as(tensor)].append(name)
                continue
            check_travels(name, tensor)
            found.append((TensorSpec(name, tuple(tensor.shape), group), each))
        if not callable(variances):
            _check_names(variances, [o.name for o in owned if not o.is_parameter and o.tensor.is_floating_point()])
        _check_trained(model, found, left["frozen"])
        _check_device(found)
        _refuse_overlap(found)
        layout = Layout.of(spec for spec, _ in found)
        by_name = {spec.name: each for spec, each in found}
        return cls(
            model=model,
            layout=layout,
            places=tuple(by_name[t.name] for t in layout.tensors),
            frozen=tuple(left["frozen"]),
            local=tuple(left["local"]),
            counters=tuple(left["counters"]),
            free=frozenset(name for name, kind in kinds.items() if kind == "local"),
            tied=_tied(model, [each for _, each in found]),
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The module's own tensors in flat order; buffers are those that hang there now."""
        return tuple(each.now() for each in self.places)

    @property
    def device(self) -> torch.device:
        """The device that all of what is sent lies on."""
        return self.places[0].tensor.device

    @torch.no_grad()
    def read(self, group: Group | None = None) -> NDArray[np.float32]:
        """Return the model's values, float32, shape (layout.size,); or those of one group, which is not empty."""
        pairs = zip(self.tensors, self.layout.tensors, strict=True)
        parts = [tensor.detach().reshape(-1).float() for tensor, spec in pairs if group is None or spec.group is group]
        return torch.cat(parts).cpu().numpy()

    @torch.no_grad()
    def write(self, vector: NDArray[np.float32]) -> None:
        """Set the model's values from a float32 vector of shape (layout.size,), rounded to each tensor's type.

        Raises:
            WrongLayoutError: if the vector has another shape.
            UnsupportedModelError: a finite value is too large for a tensor of float16; nothing is written then.
        """
        if vector.shape != (self.layout.size,):
            raise WrongLayoutError(f"the model has {self.layout.size} values, the vector {vector.shape}")
        flat = torch.from_numpy(np.require(vector, requirements=("C", "W")))  # torch warns of read-only arrays
        flat = flat.to(self.device)
        for tensor, (name, where) in zip(self.tensors, self.layout.slices.items(), strict=True):
            if tensor.dtype == torch.float16 and bool((flat[where].half().isinf() & flat[where].isfinite()).any()):
                raise UnsupportedModelError(
                    f"tensor {name} is float16 and cannot hold a value of magnitude "
                    f"{float(flat[where].abs().max()):.4g}: use model.bfloat16() or model.float()"
                )
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
        lines.append(f"local, not sent: {', '.join(self.local) or 'none'}")
        lines.append(f"counters, not sent: {', '.join(self.counters) or 'none'}")
        return "\n".join(lines)


def _kinds(model: nn.Module, owned: list[Owned], selection: Selection) -> dict[str, str]:
    """Return which field of a selection names each tensor, where one does."""
    names: dict[int, list[str]] = {}
    for name, tensor in names_of(model):
        names.setdefault(id(tensor), []).append(name)
    trained: dict[str, list[str]] = {}
    others: dict[str, list[str]] = {}
    faults: dict[str, str] = {}
    sent: dict[str, str] = {}
    for each in owned:
        everything = names[id(each.tensor)]
        if each.is_parameter and each.tensor.requires_grad:
            trained[each.name] = everything
            sent |= dict.fromkeys(everything, "is trained, and so is always sent; freeze it, or name buffers alone")
        else:
            what = "is frozen: unfreeze it first" if each.is_parameter else "is a buffer and not trained"
            faults |= dict.fromkeys(everything, what)
            others[each.name] = everything
    kinds = chosen(selection, TRAINED, trained, "trained parameter", faults)
    kinds |= chosen(selection, OTHERS, others, "buffer or frozen parameter", sent)
    for pattern in selection.local:
        for name, fault in sent.items():
            if fnmatchcase(name, pattern):
                raise ConfigError(f"Selection(local=[{pattern!r}]) matches {name}, which {fault}")
    return kinds


def _left_as(tensor: Tensor) -> str:
    if isinstance(tensor, nn.Parameter):
        return "frozen"
    return "local" if tensor.is_floating_point() or tensor.is_complex() else "counters"


def _named_or_known(names: Collection[str]) -> Callable[[str, nn.Module, Tensor], bool]:
    return lambda name, owner, buffer: name in names or is_variance(name, owner, buffer)


def _check_names(variances: Collection[str], buffers: list[str]) -> None:
    for name in [variances] if isinstance(variances, str) else variances:
        if isinstance(variances, str) or name not in buffers:
            hint = ": give a list of names" if isinstance(variances, str) else nearest(name, buffers)
            raise ConfigError(f"variances names {name!r}, which is no buffer of floats of the model{hint}")


def _check_trained(model: nn.Module, found: list[tuple[TensorSpec, Owned]], frozen: list[str]) -> None:
    if any(spec.group is Group.CODED and spec.size for spec, _ in found):
        return
    dense = [spec.name for spec, _ in found if spec.group is Group.DENSE]
    if dense:
        why = f"all that is trained travels as floats ({dense[0]}, ...): choose=Selection(coded=[...]) names others"
    elif any(spec.group is Group.CODED for spec, _ in found):
        why = "all its trained parameters are empty"
    elif frozen:
        why = f"all its parameters are frozen ({frozen[0]}, ...): unfreeze some by requires_grad_(True) first"
    else:
        why = f"{type(model).__name__} has no parameters: pass the module that holds them"
    raise UnsupportedModelError(f"the model has no trained parameter to compress; {why}")


def _check_device(found: list[tuple[TensorSpec, Owned]]) -> None:
    first, device = found[0][1].name, found[0][1].tensor.device
    for _, (name, _, _, tensor) in found:
        if tensor.device != device:
            raise UnsupportedModelError(
                f"tensor {name} is on {tensor.device}, but {first} on {device}; all that is sent must lie on one "
                "device: call model.cpu() or model.cuda()"
            )


def _tied(model: nn.Module, found: list[Owned]) -> dict[str, str]:
    names = {id(each.tensor): each.name for each in found}
    return {other: names[id(t)] for other, t in names_of(model) if id(t) in names and names[id(t)] != other}


def _refuse_overlap(found: list[tuple[TensorSpec, Owned]]) -> None:
    """Two parameters over the same memory would each be given a place of its own, and so be untied."""
    tensors = [(name, tensor) for _, (name, _, _, tensor) in found if tensor.numel()]
    places = sorted((t.data_ptr(), t.data_ptr() + t.numel() * t.element_size(), name) for name, t in tensors)
    for (_, end, name), (start, _, other) in pairwise(places):
        if start < end:
            raise UnsupportedModelError(
                f"{name} and {other} share memory but are two parameters; tie them as one: a.weight = b.weight"
            )
