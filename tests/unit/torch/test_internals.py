"""What the library asks of torch by private names means what it should in this version of torch."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from fedmrn.torch.internals import (
    ANY_BATCH_NORM,
    added,
    buffers,
    children,
    compiled_from,
    has_hooks,
    is_made_of_others,
    is_persistent,
    not_compiled,
    parameters,
    version,
)

NORMS = [
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.LazyBatchNorm1d, nn.LazyBatchNorm2d),
    *(nn.LazyBatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LazyInstanceNorm1d),
    *(nn.LazyInstanceNorm2d, nn.LazyInstanceNorm3d),
]


@pytest.mark.parametrize("kind", NORMS)
def test_every_batch_norm_has_the_common_class(kind: type[nn.Module]) -> None:
    assert issubclass(kind, ANY_BATCH_NORM)


def test_the_common_class_is_of_nothing_else() -> None:
    kinds = [kind for kind in vars(nn).values() if isinstance(kind, type) and issubclass(kind, ANY_BATCH_NORM)]
    assert {*kinds} == {*NORMS}, "torch has other normalisation layers than those known here: are they DENSE rightly?"


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1)


REGISTER: dict[str, Callable[[torch.optim.Optimizer], torch.utils.hooks.RemovableHandle]] = {
    "before, one": lambda o: o.register_step_pre_hook(lambda *_: None),
    "after, one": lambda o: o.register_step_post_hook(lambda *_: None),
    "before, all": lambda _: register_optimizer_step_pre_hook(lambda *_: None),
    "after, all": lambda _: register_optimizer_step_post_hook(lambda *_: None),
}


@pytest.mark.parametrize("register", REGISTER.values(), ids=REGISTER)
def test_every_kind_of_hook_is_found(
    register: Callable[[torch.optim.Optimizer], torch.utils.hooks.RemovableHandle],
) -> None:
    optimizer = sgd()
    assert not has_hooks(optimizer)
    handle = register(optimizer)
    try:
        assert has_hooks(optimizer)
    finally:
        handle.remove()
    assert not has_hooks(optimizer)


def test_buffers_that_are_saved() -> None:
    module = nn.Module()
    module.register_buffer("kept", torch.zeros(1))
    module.register_buffer("lost", torch.zeros(1), persistent=False)
    assert {name for name, _ in module.named_buffers() if is_persistent(module, name)} == module.state_dict().keys()
    module.register_buffer("lost", torch.zeros(1), persistent=True)
    assert is_persistent(module, "lost")


def test_several_tensors_are_added_as_sgd_does() -> None:
    """To the bit: SGD with foreach moves by -lr * gradient in this operation."""
    generator = torch.Generator().manual_seed(1)
    values, gradients = ([torch.randn(n, generator=generator) for n in (1, 37)] for _ in range(2))
    parameters = [nn.Parameter(v.clone()) for v in values]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g.clone()
    torch.optim.SGD(parameters, lr=0.3, foreach=True).step()
    for found, p in zip(added(values, gradients, -0.3), parameters, strict=True):
        assert torch.equal(found, p.detach())


def test_what_was_compiled() -> None:
    module = nn.Linear(2, 2)
    assert compiled_from(module) is None
    assert compiled_from(torch.compile(module, backend="eager")) is module  # type: ignore[arg-type]
    module.compile(backend="eager")
    assert compiled_from(module) is None


def test_what_a_module_holds_under_every_name() -> None:
    module = nn.Module()
    module.one = module.two = nn.ReLU()
    module.weight = module.again = nn.Parameter(torch.zeros(1))
    module.register_buffer("table", torch.zeros(1))
    module.register_buffer("later", None)
    assert dict(children(module)) == {"one": module.one, "two": module.one}
    assert dict(parameters(module)) == {"weight": module.weight, "again": module.weight}
    assert dict(buffers(module)) == {"table": module.table, "later": None}


def test_writes_are_counted() -> None:
    x = nn.Parameter(torch.zeros(3))
    seen = version(x)
    with torch.no_grad():
        x[0] = 1
    assert version(x) > seen
    seen = version(x)
    x.data[1] = 1
    assert version(x) == seen, "the guard may then look at versions alone, at the end of training too"
    with torch.inference_mode():
        made = torch.zeros(3)
    assert made.is_inference()
    with pytest.raises(RuntimeError, match="version counter"):
        version(made)


def test_a_tensor_made_of_others() -> None:
    assert not is_made_of_others(nn.Parameter(torch.zeros(2)))
    assert is_made_of_others(torch.nested.nested_tensor([torch.zeros(2)], layout=torch.jagged))


def test_a_function_is_left_out_of_what_is_compiled() -> None:
    @not_compiled
    def seen() -> bool:
        return torch.compiler.is_compiling()

    assert torch.compile(lambda x: (x + 1, seen()), backend="eager")(torch.zeros(1))[1] is False
    assert torch.compile(lambda x: (x + 1, torch.compiler.is_compiling()), backend="eager")(torch.zeros(1))[1] is True
