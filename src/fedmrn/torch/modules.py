"""A module's own tensors: their names without wrappers around it, and which of them cannot travel."""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedmrn.errors import UnsupportedModelError
from fedmrn.torch.internals import buffers, children, compiled_from, is_made_of_others, is_persistent

DEVICES = ("cpu", "cuda")
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
"""Types of tensors that travel, as float32 on the wire."""


class Owned(NamedTuple):
    """A parameter or a persistent buffer, and where it hangs."""

    name: str
    owner: nn.Module
    attribute: str
    tensor: Tensor

    @property
    def is_parameter(self) -> bool:
        """Whether it is a parameter, and not a buffer."""
        return isinstance(self.tensor, nn.Parameter)

    def now(self) -> Tensor:
        """Return the tensor; of a buffer the one that hangs there now."""
        found = None if self.is_parameter else buffers(self.owner).get(self.attribute)
        return self.tensor if found is None else found


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside of `torch.compile`, DataParallel and DistributedDataParallel, however they are nested.

    Its names in a state dict are those of the model as it was written, without `_orig_mod.` and `module.`.
    """
    while (inside := _inside(model)) is not None:
        model = inside
    return model


def modules_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module once with the prefix of its names ("" or "layer.0."), in torch's order, without wrappers.

    Raises:
        UnsupportedModelError: a part is sharded by FSDP.
    """
    seen: set[nn.Module] = set()

    def visit(prefix: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        module = unwrapped(module)
        if module in seen:
            return
        if _is(module, "torch.distributed.fsdp", "FullyShardedDataParallel"):
            raise UnsupportedModelError(f"{prefix[:-1] or 'the model'} is sharded by FSDP; {_WHOLE}")
        seen.add(module)
        yield prefix, module
        for name, child in module.named_children():
            yield from visit(f"{prefix}{name}.", child)

    return visit("", model)


def tensors_of(model: nn.Module) -> Iterator[Owned]:
    """Yield every parameter and persistent buffer once, by its first name."""
    seen: set[int] = set()
    for prefix, module in modules_of(model):
        buffers = ((n, b) for n, b in module.named_buffers(recurse=False) if is_persistent(module, n))
        for name, tensor in (*module.named_parameters(recurse=False), *buffers):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield Owned(prefix + name, module, name, tensor)


def names_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every name of every parameter and persistent buffer, as in a state dict: tied ones come several times."""

    def visit(prefix: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            yield prefix + name, parameter
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            if is_persistent(module, name):
                yield prefix + name, buffer
        for name, child in children(module).items():
            if child is not None:
                yield from visit(f"{prefix}{name}.", unwrapped(child))

    return visit("", unwrapped(model))


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is an ordinary one whose bytes can be read: not quantised, sharded, sparse or on meta."""
    special = tensor.is_quantized or is_made_of_others(tensor) or tensor.layout is not torch.strided
    return tensor.device.type in DEVICES and not special


def check_materialised(name: str, tensor: Tensor) -> None:
    """Refuse a lazy tensor.

    Raises:
        UnsupportedModelError: it has no shape yet.
    """
    if nn.parameter.is_lazy(tensor):
        raise UnsupportedModelError(
            f"tensor {name} has no shape yet, as its layer is lazy: run one batch through the model first"
        )


def check_travels(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that cannot be trained or averaged, with what to do about it.

    Raises:
        UnsupportedModelError: it is sharded, quantised, sparse, on meta, on another kind of device, complex, or of a
            type that is none of `FLOATS`.
    """
    fault = _fault(tensor)
    if fault is not None:
        raise UnsupportedModelError(f"tensor {name} is {fault}")


_WHOLE = "a client trains a whole model: use DistributedDataParallel, or one device, in place of FSDP"


def _fault(tensor: Tensor) -> str | None:
    if _is(tensor, "torch.distributed.tensor", "DTensor"):
        return f"sharded over devices (DTensor); {_WHOLE}"
    if tensor.is_quantized or is_made_of_others(tensor):
        return (
            f"a {type(tensor).__name__}, whose values cannot be trained or averaged one by one; freeze it by "
            "requires_grad_(False) and train a layer or an adapter beside it"
        )
    if tensor.layout is not torch.strided:
        return f"sparse ({tensor.layout}); use tensor.to_dense()"
    if tensor.device.type not in DEVICES:
        return _FAR.get(tensor.device.type, f"on {tensor.device}; fedmrn trains on the CPU or on CUDA: use model.cpu()")
    return None if tensor.dtype in FLOATS else _wrong_type(tensor.dtype)


_FAR = {
    "meta": 'on meta, without values; call model.to_empty(device="cpu"), then load or initialise the weights',
}


def _wrong_type(dtype: torch.dtype) -> str:
    if dtype.is_complex:
        return (
            f"{dtype}; keep it as a real parameter, nn.Parameter(torch.view_as_real(w)), and take "
            "torch.view_as_complex of that in forward"
        )
    return f"{dtype}; fedmrn trains float32, bfloat16 and float16: call model.float() first"


def _inside(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner: nn.Module = module.module
        return inner
    return compiled_from(module)


def _is(thing: object, module: str, kind: str) -> bool:
    """Whether it is of a class that need not be imported: nobody has one of a module that was not."""
    found = getattr(sys.modules.get(module), kind, None)
    return found is not None and isinstance(thing, found)
