"""What the library asks of torch by private names means what it should in this version of torch."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from fedmrn.torch.internals import (
    ANY_BATCH_NORM,
    added,
    before_loading,
    buffers,
    children,
    compiled_from,
    has_hooks,
    is_made_of_others,
    is_persistent,
    not_compiled,
    parameters,
    version,
    without_compiler,
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


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_an_optimiser_without_the_compiler_is_torchs(kind: type[torch.optim.Optimizer]) -> None:
    """Its steps and states, its groups, its hooks and what a closure returns: to the bit."""

    def trained(chosen: Callable[..., torch.optim.Optimizer]) -> tuple[Any, ...]:
        w, b = (nn.Parameter(torch.linspace(-1, 1, n)) for n in (7, 3))
        optimizer, seen = chosen([w], lr=0.1, weight_decay=0.01), []
        optimizer.add_param_group({"params": [b], "lr": 0.02})
        optimizer.register_step_post_hook(lambda *_: seen.append(torch.is_grad_enabled()))

        def closure() -> float:
            optimizer.zero_grad()
            with torch.enable_grad():
                loss = (w**3).sum() + (b**2).sum()
            loss.backward()
            return loss.item()

        losses = [optimizer.step(closure) for _ in range(3)]
        kept = optimizer.state_dict()
        optimizer.load_state_dict(kept)
        return w.tolist(), b.tolist(), losses, seen, repr(kept), repr(optimizer), torch.is_grad_enabled()

    quick = without_compiler(kind)
    assert trained(quick) == trained(kind)
    assert issubclass(quick, kind)
    assert quick is without_compiler(kind)
    assert quick.__module__ == kind.__module__


def test_training_loads_no_compiler() -> None:
    code = """
import sys, torch
from torch import Tensor, nn
from fedmrn.torch.internals import not_compiled, without_compiler
model = nn.Linear(2, 2)
optimizer = without_compiler(torch.optim.SGD)(model.parameters(), lr=0.1)
model(torch.ones(1, 2)).sum().backward()
optimizer.step()
optimizer.zero_grad()
not_compiled(optimizer.state_dict)()
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_called_before_a_state_is_loaded() -> None:
    model, found = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), []

    def hook(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
        found.append((module, prefix, prefix + "weight" in state))

    handles = [before_loading(model[0], hook), before_loading(model[0], hook), before_loading(model[1], hook)]
    state = model.state_dict()
    del state["1.weight"]
    model.load_state_dict(state, strict=False)
    assert found == [(model[0], "0.", True), (model[1], "1.", False)]
    for handle in handles:
        assert handle is not None
        handle.remove()
    model.load_state_dict(model.state_dict())
    assert len(found) == 2
    with pytest.warns(DeprecationWarning, match="script"):
        scripted = torch.jit.script(model)
    assert before_loading(scripted, hook) is None
