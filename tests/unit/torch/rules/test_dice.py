"""A step of one of several optimisers draws what it holds anew, and no graph is left with weights of another draw."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from any_optimiser import loss_of, reader, sentences, server_for, values
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW

from fedmrn.torch import LocalRule, attach

DATA = sentences(96)
METHODS = ("fedmrn", "fedmrn-s", "fedpm", "fedbat")
OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: SGD(p, lr=0.1),
    "AdamW": lambda p: AdamW(p, lr=0.02),
}


def gan() -> nn.ModuleDict:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 6))
        return nn.ModuleDict({"g": generator, "d": nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))})


def attached(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], name: str = "fedmrn", steps: int = 40, **options: float
) -> Any:
    broadcast = server_for(model, name, {**options}).begin(1, ["a"]).broadcast("a")
    given = optimizers[0] if len(optimizers) == 1 else optimizers
    return attach(model, given, broadcast, accept="any", steps=steps, sampling_key=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("name", METHODS)
def test_a_generators_graph_goes_backward_after_the_discriminators_step(
    name: str, optimiser: str, dtype: torch.dtype
) -> None:
    """As everybody trains a GAN: one pass forward, two steps. The oracle is the same pass by copies of the weights."""
    model, make = gan().to(dtype), OPTIMISERS[optimiser]
    for_d, for_g = attached(model, [make(model["d"].parameters()), make(model["g"].parameters())], name).optimizers
    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        z = torch.randn(8, 4, generator=generator).to(dtype)
        real = torch.randn(8, 6, generator=generator).to(dtype)
        fake, held = model["g"](z), values(model["g"])
        for_d.zero_grad()
        (F.softplus(-model["d"](real)).mean() + F.softplus(model["d"](fake.detach())).mean()).backward()
        for_d.step()
        assert all(torch.equal(held[n], p) for n, p in model["g"].named_parameters())
        for_g.zero_grad()
        F.softplus(-model["d"](fake)).mean().backward()
        copy = {n: v.requires_grad_() for n, v in held.items()}
        again = torch.func.functional_call(model["g"], copy, (z,))
        wanted = torch.autograd.grad(F.softplus(-model["d"](again)).mean(), [*copy.values()])
        for p, gradient in zip(model["g"].parameters(), wanted, strict=True):
            assert torch.equal(p.grad, gradient)  # type: ignore[arg-type]
        for_g.step()
        assert any(not torch.equal(held[n], p) for n, p in model["g"].named_parameters())


@pytest.mark.parametrize("name", METHODS)
def test_an_optimiser_a_parameter_that_steps_within_the_backward_pass(name: str) -> None:
    """Each gradient is that of the weights that were forwarded, whatever was stepped in the same pass before."""
    model: Any = reader()
    inner = {p: AdamW([p], lr=0.01) for p in model.parameters()}
    rule = attached(model, list(inner.values()), name, steps=10 * len(inner))
    wrappers = dict(zip(inner, rule.optimizers, strict=True))
    seen: dict[int, Tensor] = {}

    def step(p: nn.Parameter) -> None:
        assert p.grad is not None
        seen[id(p)] = p.grad.clone()
        wrappers[p].step()
        wrappers[p].zero_grad()

    for p in inner:
        p.register_post_accumulate_grad_hook(step)
    for _ in range(10):
        held = {n: v.requires_grad_() for n, v in values(model).items()}
        x, y = DATA[0][:16], DATA[1][:16]
        wanted = torch.autograd.grad(
            F.cross_entropy(torch.func.functional_call(model, held, (x,)), y), [*held.values()]
        )
        F.cross_entropy(model(x), y).backward()
        for p, gradient in zip(inner, wanted, strict=True):
            assert torch.equal(seen[id(p)], gradient)
    rule.finish(weight=1)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("several", [False, True])
def test_a_graph_of_former_weights_is_refused_as_in_plain_training(optimiser: str, several: bool) -> None:
    model = gan()
    make = OPTIMISERS[optimiser]
    given = [make(model["d"].parameters()), make(model["g"].parameters())] if several else [make(model.parameters())]
    rule = attached(model, given)
    loss = model["d"](model["g"](torch.ones(8, 4))).mean()
    loss.backward(retain_graph=True)
    for optimizer in rule.optimizers:
        optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_an_edit_of_what_another_optimiser_holds_is_seen() -> None:
    """Its weights are of an earlier step's dice, which are drawn again to tell what was written."""
    model = gan()
    rule = attached(model, [AdamW(model["d"].parameters(), lr=0.01), AdamW(model["g"].parameters(), lr=0.01)], steps=9)
    assert isinstance(rule, LocalRule)
    for_d, for_g = rule.optimizers
    for wrapper in (for_d, for_g, for_d, for_d):
        rule.zero_grad()
        model["d"](model["g"](torch.ones(8, 4))).mean().backward()
        wrapper.step()
    moved = rule.moved.clone()  # type: ignore[attr-defined]
    with torch.no_grad():
        model["g"][0].bias[3] = 0.75  # type: ignore[index]
    rule.look()
    changed = (rule.moved != moved).nonzero().flatten().tolist()  # type: ignore[attr-defined]
    (where,) = [w for n, w in rule.view.layout.slices.items() if n == "g.0.bias"]
    assert changed == [where.start + 3]


def test_what_no_optimiser_holds_is_drawn_with_the_first() -> None:
    model = reader()
    given = [SGD(model.hidden.parameters(), lr=0.1), SGD(model.head.parameters(), lr=0.1)]
    rule = attached(model, [*given], "fedmrn-s", steps=2, scale=0.1)
    held = values(model)
    for step, optimizer in enumerate(rule.optimizers):
        loss_of(model, DATA, step, 16)().backward()
        optimizer.step()
        now, held = {n for n, p in model.named_parameters() if not torch.equal(held[n], p)}, values(model)
        assert ("embedding.weight" in now) == (step == 0)
