"""What may happen inside a step, or around it: a closure that writes weights, a failure, a compiler.

`as_plain` runs each loop through the wrapper with masks off and without it, and compares every bit.
"""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from any_optimiser import Hold, as_plain, loss_of, reader, sentences, server_for
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW

from fedmrn.errors import UnsupportedModelError
from fedmrn.torch import ModelLayout, attach

DATA = sentences(96)
OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "AdamW": lambda p: AdamW(p, lr=0.01),
    "SGD": lambda p: SGD(p, lr=0.1),
    "SGD with momentum": lambda p: SGD(p, lr=0.1, momentum=0.9),
}
any_optimiser = pytest.mark.parametrize("name", OPTIMISERS)


def closure_of(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = loss_of(model, DATA, step, 16)()
        loss.backward()
        return loss

    return closure


@torch.no_grad()
def shrink(model: nn.Module) -> None:
    for p in model.parameters():
        p.mul_(0.9)


def short_words() -> nn.Module:
    """An embedding whose forward shortens the rows that are longer than 0.5, in place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.EmbeddingBag(40, 8, max_norm=0.5), nn.Linear(8, 3))


@any_optimiser
@pytest.mark.parametrize("before", [True, False])
def test_weights_that_a_closure_writes(name: str, before: bool) -> None:
    def loop(model: nn.Module, hold: Hold) -> None:
        optimizer = hold(OPTIMISERS[name](model.parameters()))
        for step in range(4):
            usual = closure_of(model, optimizer, step)

            def closure(usual: Callable[[], Tensor] = usual) -> Tensor:
                if before:
                    shrink(model)
                loss = usual()
                if not before:
                    shrink(model)
                return loss

            optimizer.step(closure)  # type: ignore[arg-type]

    as_plain(loop)


@any_optimiser
def test_an_embedding_that_keeps_its_norm_in_a_closure(name: str) -> None:
    def loop(model: nn.Module, hold: Hold) -> None:
        optimizer = hold(OPTIMISERS[name](model.parameters()))
        for step in range(4):
            optimizer.step(closure_of(model, optimizer, step))  # type: ignore[arg-type]

    as_plain(loop, short_words)


def test_what_a_closure_writes_is_taken_over_under_masks() -> None:
    """A row that the last closure sets, and no batch reaches, is in the update: to within the noise of its mask."""
    model = reader()
    round_ = server_for(model, "fedmrn", {"scale": 2.0**-4, "noise": "bernoulli"}).begin(1, ["a"])
    optimizer = attach(model, SGD(model.parameters(), lr=0.1), round_.broadcast("a"), steps=2, sampling_key=3)
    row = optimizer.received[: model.embedding.weight.numel()].reshape(40, 8)[39].copy()
    for step in range(2):
        usual = closure_of(model, optimizer, step)

        def closure(usual: Callable[[], Tensor] = usual, step: int = step) -> Tensor:
            if step:
                with torch.no_grad():
                    model.embedding.weight[39] = torch.from_numpy(row) + 1.0  # beyond what a mask can say
            return usual()

        optimizer.step(closure)  # type: ignore[arg-type]
    where = ModelLayout.of(model).layout.slices["embedding.weight"]
    moved = optimizer.u[where].view(40, 8)[39]  # type: ignore[attr-defined]
    assert torch.allclose(moved, torch.ones(8), rtol=0, atol=1e-6)  # float32's rounding of w + 1 - w, |w| < 4


def test_fedpm_refuses_weights_that_a_closure_writes() -> None:
    model = short_words()
    broadcast = server_for(model, "fedpm", None).begin(1, ["a"]).broadcast("a")
    optimizer = attach(model, SGD(model.parameters(), lr=0.1), broadcast, steps=2, accept="any")
    with pytest.raises(UnsupportedModelError, match=r"0\.weight was written to"):
        optimizer.step(closure_of(model, optimizer, 0))  # type: ignore[arg-type]


@any_optimiser
def test_a_hook_writes_weights_before_the_closure_sees_them(name: str) -> None:
    def loop(model: nn.Module, hold: Hold) -> None:
        optimizer = hold(OPTIMISERS[name](model.parameters()))
        optimizer.register_step_pre_hook(lambda *_: shrink(model))
        for step in range(4):
            optimizer.step(closure_of(model, optimizer, step))  # type: ignore[arg-type]

    as_plain(loop)


@any_optimiser
@pytest.mark.parametrize("moved", [True, False])
def test_training_goes_on_after_an_interrupt(name: str, moved: bool) -> None:
    """Before or after the optimiser moved: the next forward sees the weights that are there."""

    def loop(model: nn.Module, hold: Hold) -> None:
        optimizer = hold(OPTIMISERS[name](model.parameters()))

        def interrupt(*_: object) -> None:
            if step % 2:
                raise KeyboardInterrupt

        (optimizer.register_step_post_hook if moved else optimizer.register_step_pre_hook)(interrupt)
        for step in range(5):
            optimizer.zero_grad()
            loss_of(model, DATA, step, 16)().backward()
            try:
                optimizer.step()
            except KeyboardInterrupt:
                assert step % 2

    as_plain(loop)


@any_optimiser
def test_a_closure_that_writes_and_fails(name: str) -> None:
    def loop(model: nn.Module, hold: Hold) -> None:
        optimizer = hold(OPTIMISERS[name](model.parameters()))
        for step in range(5):
            usual = closure_of(model, optimizer, step)

            def closure(usual: Callable[[], Tensor] = usual, step: int = step) -> Tensor:
                shrink(model)
                loss = usual()
                if step % 2:
                    raise KeyboardInterrupt
                return loss

            try:
                optimizer.step(closure)  # type: ignore[arg-type]
            except KeyboardInterrupt:
                assert step % 2

    as_plain(loop)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.distributed.reduce_op.*:FutureWarning")
@pytest.mark.parametrize("several", [False, True])
def test_a_compiled_step(several: bool) -> None:
    """Plain SGD, which a compiler does not round in another way."""

    def loop(model: Any, hold: Hold) -> None:
        parts = [model.head, model.embedding] if several else [model]
        held: Any = hold([SGD(part.parameters(), lr=0.1) for part in parts])  # type: ignore[arg-type]
        optimizers = getattr(held, "optimizers", held)

        def train_step(x: Tensor, y: Tensor) -> None:
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            for optimizer in optimizers:
                optimizer.step()

        compiled = torch.compile(train_step, backend="eager")
        for step in range(3):
            compiled(DATA[0][step * 16 :][:16], DATA[1][step * 16 :][:16])

    as_plain(loop)


def test_parameters_are_swapped() -> None:
    def loop(model: Any, hold: Hold) -> None:
        optimizer = hold(AdamW(model.parameters(), lr=0.01))
        for step in range(4):
            optimizer.zero_grad()
            loss_of(model, DATA, step, 16)().backward()
            optimizer.step()
            torch.utils.swap_tensors(model.head.weight, nn.Parameter(model.head.weight.detach() * 0.5))

    as_plain(loop)


def test_attach_and_finish_in_inference_mode() -> None:
    model = reader()
    broadcast = server_for(model, "fedmrn", None).begin(1, ["a"]).broadcast("a")
    with torch.inference_mode():
        optimizer = attach(model, AdamW(model.parameters(), lr=0.01), broadcast, steps=1)
    loss_of(model, DATA, 0, 16)().backward()
    optimizer.step()
    with torch.inference_mode():
        optimizer.finish(weight=1)
    loss_of(model, DATA, 1, 16)().backward()


@pytest.mark.parametrize("finished", [True, False])
def test_a_rule_is_gone_as_soon_as_nobody_has_it(finished: bool) -> None:
    """Its vectors are three times the model: they do not wait for the garbage collector, which counts objects."""
    model = reader()
    broadcast = server_for(model, "fedmrn", None).begin(1, ["a"]).broadcast("a")
    gc.collect()
    gc.disable()
    try:
        optimizer = attach(model, AdamW(model.parameters(), lr=0.01), broadcast, steps=1)
        loss_of(model, DATA, 0, 16)().backward()
        optimizer.step()
        if finished:
            optimizer.finish(weight=1)
        rule = weakref.ref(optimizer)
        del optimizer
        assert rule() is None
    finally:
        gc.enable()
