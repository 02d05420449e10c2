"""The pass that moves and draws at once gives the bits of the two passes it replaces."""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from federating import broadcast_of
from torch import Tensor, nn
from torch.nn import functional as F

from fedmrn.codecs import MaskedNoise
from fedmrn.numerics.rng import Stream
from fedmrn.torch import MaskedTraining, attach
from fedmrn.torch.fast.fused import _rounds_once, sgd_moves
from fedmrn.torch.loop import channels_last
from fedmrn.torch.rules import masked_noise as through

STEPS = 25


class Mixed(nn.Module):
    """Coded and dense tensors of odd sizes, one that gets a gradient at every other step, one that never does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 37, 3), nn.BatchNorm2d(37)
        self.sometimes, self.never = nn.Parameter(torch.randn(1501)), nn.Parameter(torch.randn(3))
        self.last = nn.Linear(37 * 36, 5)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = self.last(self.norm(self.conv(x)).relu().flatten(1))
        return y + self.sometimes.tanh().sum() * y if self.calls % 2 else y


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    slow = [*model.last.parameters(), model.sometimes]  # type: ignore[union-attr]
    fast = [p for p in model.parameters() if not any(p is s for s in slow)]
    return torch.optim.SGD([{"params": fast}, {"params": slow, "lr": 0.013}], lr=0.07)


def strided(model: nn.Module) -> None:
    """Give gradients other strides, as channels-last convolutions may."""
    for p in model.parameters():
        if p.grad is not None and p.dim() == 4:
            p.grad = p.grad.contiguous(memory_format=torch.channels_last)


def trained(
    name: str,
    wrap: Callable[[torch.optim.Optimizer], torch.optim.Optimizer],
    between: Callable[[nn.Module], None],
    scale: float | str = 0.01,
) -> Iterator[tuple[bytes, ...]]:
    """Yield, after each step, what is moved, the weights shown and the tensors left dense."""
    torch.manual_seed(0)
    model = Mixed()
    optimizer = wrap(sgd(model))
    rule = attach(model, optimizer, broadcast_of(model, name, scale=scale), accept="any", steps=STEPS, sampling_key=3)
    assert isinstance(rule, MaskedTraining)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    rng = torch.Generator().manual_seed(5)
    for _ in range(STEPS):
        x, y = channels_last(torch.randn(4, 3, 8, 8, generator=rng)), torch.randint(5, (4,), generator=rng)
        rule.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        between(model)
        before = [p.grad for p in model.parameters()]
        rule.step()
        assert all(p.grad is g for p, g in zip(model.parameters(), before, strict=True))
        schedule.step()
        yield (rule.moved.numpy().tobytes(), *(p.detach().numpy().tobytes() for p in model.parameters()))


@pytest.mark.parametrize("scale", [0.01, "auto"])
@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s", "fedmrn-no-sm", "fedmrn-no-pm"])
@pytest.mark.parametrize("between", [lambda _: None, strided], ids=["as they come", "strided"])
def test_bits_of_the_general_path(
    name: str, between: Callable[[nn.Module], None], scale: float | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    with monkeypatch.context() as watch:
        watch.setattr(through, "sgd_moves", lambda *a: taken.append(sgd_moves(*a)) or taken[-1])
        fused = list(trained(name, lambda o: o, between, scale))
    assert [moves is not None for moves in taken] == [_rounds_once()] * STEPS
    monkeypatch.setattr(through, "sgd_moves", lambda *_: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fused == list(trained(name, lambda o: o, between, scale))
    assert len({step[0] for step in fused}) == STEPS


needs_fma = pytest.mark.skipif(not _rounds_once(), reason="this build of torch rounds products: nothing is fused")


@needs_fma
def test_u_moves_as_torch_rounds() -> None:
    """Against torch's own step on a copy of u: many sizes, rates and magnitudes, also beside the vectors."""
    rng = np.random.default_rng(1)
    for size in (1, 2, 7, 8, 9, 31, 1023, 1024, 1025, 5000):
        noise = rng.uniform(0.5, 1, size).astype(np.float32)
        u = (rng.standard_normal(size) * 10.0 ** rng.uniform(-20, 20, size)).astype(np.float32)
        g = (rng.standard_normal(size) * 10.0 ** rng.uniform(-20, 20, size)).astype(np.float32)
        rate = float(10.0 ** rng.uniform(-5, 1))
        expected = nn.Parameter(torch.from_numpy(u.copy()))
        expected.grad = torch.from_numpy(g)
        torch.optim.SGD([expected], lr=rate).step()
        stream, mask = Stream(1, 2), MaskedNoise.from_params(bytes(2) + b"\0\0\x80\x3f").mask
        out, plain = np.empty_like(u), np.empty_like(u)
        through.progressive_weights(u, noise, noise, 0.5, stream, mask, out, start=37, gradient=g, rate=rate)
        assert np.array_equal(u, expected.detach().numpy())
        through.progressive_weights(u, noise, noise, 0.5, stream, mask, plain, start=37)
        assert np.array_equal(out, plain)


def one(**settings: object) -> tuple[torch.optim.SGD, Tensor]:
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.full((3,), 2.0)
    return torch.optim.SGD([p], **{"lr": 0.1, **settings}), p  # type: ignore[arg-type]


def test_a_torch_that_rounds_products_takes_its_own_step(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer, p = one()
    monkeypatch.setattr("fedmrn.torch.fast.fused._rounds_once", lambda _: False)
    assert sgd_moves(optimizer, [p]) is None


def test_the_look_at_torch_does_not_depend_on_its_defaults() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert _rounds_once.__wrapped__() is _rounds_once()
    finally:
        torch.set_default_dtype(before)


@needs_fma
def test_negative_views_are_gradients_too() -> None:
    optimizer, p = one()
    p.grad = torch._neg_view(torch.full((3,), -2.0))
    assert [m.gradient.tolist() for m in sgd_moves(optimizer, [p]) or []] == [[2.0] * 3]


@needs_fma
def test_what_is_plain_sgd() -> None:
    optimizer, p = one()
    assert [(m.gradient.tolist(), m.rate) for m in sgd_moves(optimizer, [p]) or []] == [([2.0] * 3, 0.1)]
    p.grad = None
    assert [m.gradient.numel() for m in sgd_moves(optimizer, [p, torch.ones(2)]) or []] == [0, 0]


@pytest.mark.parametrize(
    "settings",
    [{"momentum": 0.9}, {"maximize": True}, {"weight_decay": 0.1}, {"lr": torch.tensor(0.1)}, {"foreach": True},
     {"fused": True}, {"lr": 1e300}, {"differentiable": True}],
)  # fmt: skip
def test_what_is_not(settings: dict[str, object]) -> None:
    optimizer, p = one(**settings)
    assert sgd_moves(optimizer, [p]) is None


def test_hooks_subclasses_and_other_gradients_are_left_to_torch() -> None:
    optimizer, p = one()
    optimizer.register_step_pre_hook(lambda *_: None)
    assert sgd_moves(optimizer, [p]) is None
    assert sgd_moves(torch.optim.Adam([p]), [p]) is None
    optimizer, p = one()
    p.grad = p.grad.to_sparse()  # type: ignore[union-attr]
    assert sgd_moves(optimizer, [p]) is None


def test_threads_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmrn.numerics.threads.PIECE", 1000)
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    many = list(trained("fedmrn", lambda o: o, lambda _: None))
    monkeypatch.setattr(through, "in_parallel", lambda work, size, threads: work(0, size))
    assert many == list(trained("fedmrn", lambda o: o, lambda _: None))
