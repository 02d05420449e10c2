"""Plain SGD in the pass that draws the next weights: what is moved is read once for both.

Which optimisers qualify is decided at each step, so that schedulers, clipping and a change of the settings mean what
they mean to torch. The result is the one of torch to the bit: weight - lr * gradient in float32, rounded once.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedmrn.torch.internals import added, has_hooks, without_compiler

_LARGEST = float(np.finfo(np.float32).max)


class Move(NamedTuple):
    """What a step does to one tensor: the gradient (float32, flat, logical C order; empty for no move) and the rate."""

    gradient: Tensor
    rate: float


STAY = Move(torch.empty(0, dtype=torch.float32, device="cpu"), 0.0)


@cache
def _rounds_once(device: str = "cpu") -> bool:
    """Whether this build of torch rounds u + alpha * g once (fused multiply-add) on a kind of device: in vectors and
    beside them, and for several tensors at a time, which is how its SGD does it on CUDA."""
    u = torch.full((37,), -1.0, dtype=torch.float32, device=device)  # whatever the defaults are
    g = torch.full_like(u, 1.0 + 2.0**-12)
    alpha = 1.0 + 2.0**-12  # the product is 1 + 2^-11 + 2^-24: the last term is lost if it is rounded by itself
    exact = 2.0**-11 + 2.0**-24
    moved = [a.add(b, alpha=alpha) for a, b in ((u, g), (u[::2], g[::2]), (u[:1], g[:1]))]
    moved += added([u, u[:1]], [g, g[:1]], alpha)
    return all(bool((a == exact).all()) for a in moved)


def _is_bare_sgd(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimiser is torch's SGD itself, and nothing looks at its steps."""
    return type(optimizer) in (torch.optim.SGD, without_compiler(torch.optim.SGD)) and not has_hooks(optimizer)


def is_plain_sgd(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimiser's step is plain SGD for some of what it holds, and nothing looks at it."""
    return _is_bare_sgd(optimizer) and any(_rate(group) is not None for group in optimizer.param_groups)


def sgd_moves(optimizer: torch.optim.Optimizer, tensors: Sequence[Tensor]) -> list[Move] | None:
    """Return what the optimiser's step does to each tensor, if that is plain SGD and nothing else; otherwise None."""
    if not _is_bare_sgd(optimizer) or not _rounds_once(tensors[0].device.type):
        return None
    moves = {id(t): STAY for t in tensors}
    for group in optimizer.param_groups:
        rate = _rate(group)
        for p in group["params"]:
            if id(p) not in moves or p.grad is None:
                continue
            if rate is None:
                return None
            if p.grad.dtype != torch.float32 or p.grad.layout != torch.strided:
                return None
            moves[id(p)] = Move(p.grad.detach().resolve_neg().reshape(-1).contiguous(), rate)
    return [moves[id(t)] for t in tensors]


def _rate(group: dict[str, Any]) -> float | None:
    """Return the rate of a parameter group, if its step is plain SGD; otherwise None."""
    rate = group["lr"]
    more = any(group[k] for k in ("momentum", "weight_decay", "maximize", "differentiable", "foreach", "fused"))
    plain = not more and isinstance(rate, float | int) and abs(rate) <= _LARGEST
    return float(rate) if plain else None


def plain_sgd(optimizer: torch.optim.Optimizer) -> Hashable | None:
    """Return what fixes an optimiser's step, if that is plain SGD for all it holds and nothing else; otherwise None.

    Two optimisers with the same value do the same to the same memory, given the same gradients there.
    """
    if not _is_bare_sgd(optimizer):
        return None
    rates = [_rate(group) for group in optimizer.param_groups]
    places = [tuple((id(p), p.data_ptr()) for p in group["params"]) for group in optimizer.param_groups]
    return None if None in rates else tuple(zip(rates, places, strict=True))


@contextmanager
def without_gradients(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Take the gradients away, so that the optimiser's own step leaves these tensors alone; then give them back."""
    gradients = [t.grad for t in tensors]
    for t in tensors:
        t.grad = None
    try:
        yield
    finally:
        for t, gradient in zip(tensors, gradients, strict=True):
            t.grad = gradient
