"""Any optimiser through a mask: with masks off plain training bit for bit, with masks on the server's own model.

An optimiser joins by one line in `CASES`. Plain training of the same seed is the oracle throughout.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from any_optimiser import (
    NEVER,
    Case,
    attached,
    by_closure,
    differing,
    federated,
    loss_on,
    reader,
    sentences,
    sharp_by_closure,
    sharp_by_two_calls,
    uphill,
    walk,
    without_masks,
)
from torch import nn
from torch.optim import (
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Muon,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
)

from fedmrn.torch import ModelLayout
from one_thread import one_thread

__all__ = ["one_thread"]

WIDTH = 64


def matrices(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    return [p for p in parameters if p.ndim == 2]


def the_rest(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    return [p for p in parameters if p.ndim != 2]


def of(package: str, name: str, **options: Any) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    """A factory of an optimiser that need not be installed; the test is skipped where it is not."""

    def make(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        kinds = pytest.importorskip(package, reason=f"{package} is not installed: pip install 'fedmrn[dev]'")
        return getattr(kinds, name)(parameters, **options)

    return make


def sharp(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    kinds = pytest.importorskip("pytorch_optimizer", reason="pytorch_optimizer is not installed")
    return kinds.SAM(parameters, SGD, rho=0.05, lr=0.2, momentum=0.9)


def looking_ahead(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    kinds = pytest.importorskip("pytorch_optimizer", reason="pytorch_optimizer is not installed")
    return kinds.Lookahead(AdamW(parameters, lr=0.01), k=5, alpha=0.5)


FIXED = (*Case.scales, ("fedmrn-s", {"scale": 0.2}))
# These take such unequal steps that one client alone, with no other to average its dice, learns better by narrow noise.
NARROW = (("fedmrn", {"scale": "auto"}), ("fedmrn-s", {"scale": "auto", "noise": "uniform"}))
CASES = {
    "sgd": Case(make=lambda p: SGD(p, lr=0.3), scales=FIXED),
    "sgd momentum": Case(make=lambda p: SGD(p, lr=0.05, momentum=0.9, dampening=0.1)),
    "sgd nesterov": Case(make=lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True)),
    "sgd decay": Case(make=lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3)),
    "sgd foreach": Case(
        make=lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3, foreach=True), same="sgd decay"
    ),
    "sgd fused": Case(make=lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3, fused=True), same="sgd decay"),
    "sgd closure": Case(make=lambda p: SGD(p, lr=0.05, momentum=0.9), drive=by_closure, same="sgd momentum"),
    "sgd maximize": Case(make=lambda p: SGD(p, lr=0.3, maximize=True), drive=uphill, same="sgd"),
    "adam": Case(make=lambda p: Adam(p, lr=0.01)),
    "adam amsgrad, coupled decay": Case(
        make=lambda p: Adam(p, lr=0.01, amsgrad=True, weight_decay=1e-3), scales=NARROW
    ),
    "adam decoupled decay": Case(
        make=lambda p: Adam(p, lr=0.01, weight_decay=0.1, decoupled_weight_decay=True),
    ),
    "adam foreach": Case(make=lambda p: Adam(p, lr=0.01, foreach=True), same="adam"),
    "adam fused": Case(make=lambda p: Adam(p, lr=0.01, fused=True), same="adam"),
    "adamw": Case(make=lambda p: AdamW(p, lr=0.01, weight_decay=0.1), scales=FIXED),
    "adamw foreach": Case(make=lambda p: AdamW(p, lr=0.01, weight_decay=0.1, foreach=True), same="adamw"),
    "adamw fused": Case(make=lambda p: AdamW(p, lr=0.01, weight_decay=0.1, fused=True), same="adamw"),
    "adamw closure": Case(make=lambda p: AdamW(p, lr=0.01, weight_decay=0.1), drive=by_closure, same="adamw"),
    "adamw, three groups": Case(
        make=lambda p: AdamW(
            [
                {"params": p[:1], "lr": 0.02},
                {"params": p[1:4], "weight_decay": 0.0},
                {"params": p[4:], "lr": 0.005, "betas": (0.8, 0.99)},
            ],
            lr=0.01,
            weight_decay=0.1,
        ),
    ),
    "two optimisers": Case(make=lambda p: [SGD(p[:3], lr=0.1, momentum=0.9), AdamW(p[3:], lr=0.01)]),
    "nadam": Case(make=lambda p: NAdam(p, lr=0.01, weight_decay=1e-2, decoupled_weight_decay=True)),
    "radam": Case(make=lambda p: RAdam(p, lr=0.02, weight_decay=1e-3)),
    "adamax": Case(make=lambda p: Adamax(p, lr=0.02, weight_decay=1e-3), scales=NARROW),
    "adadelta": Case(make=lambda p: Adadelta(p, lr=3.0, weight_decay=1e-4)),
    "adagrad": Case(make=lambda p: Adagrad(p, lr=0.1, weight_decay=1e-4)),
    "rmsprop": Case(make=lambda p: RMSprop(p, lr=0.003, weight_decay=1e-3)),
    "rmsprop centered": Case(make=lambda p: RMSprop(p, lr=0.003, centered=True, momentum=0.5)),
    "rprop": Case(make=lambda p: Rprop(p, lr=0.01, step_sizes=(1e-6, 0.02))),
    "adafactor": Case(make=lambda p: Adafactor(p, lr=0.1, weight_decay=1e-3)),
    "muon and adamw": Case(
        make=lambda p: [Muon(matrices(p), lr=0.02, weight_decay=0.1), AdamW(the_rest(p), lr=0.01)],
    ),
    "schedule-free sgd": Case(make=of("schedulefree", "SGDScheduleFree", lr=1.0, warmup_steps=5), modes=True),
    "schedule-free adamw": Case(
        make=of("schedulefree", "AdamWScheduleFree", lr=0.02, weight_decay=1e-2, warmup_steps=5), modes=True
    ),
    "prodigy": Case(make=of("prodigyopt", "Prodigy", lr=1.0, weight_decay=1e-2, d0=1e-3)),
    "lion": Case(make=of("pytorch_optimizer", "Lion", lr=3e-3, weight_decay=1e-1)),
    "lamb": Case(make=of("pytorch_optimizer", "Lamb", lr=0.02, weight_decay=1e-2)),
    "lars": Case(make=of("pytorch_optimizer", "LARS", lr=1.0, momentum=0.9, trust_coefficient=0.002)),
    "adan": Case(make=of("pytorch_optimizer", "Adan", lr=0.01, weight_decay=1e-2, weight_decouple=True)),
    "sam, one call": Case(make=sharp, drive=sharp_by_closure, same="sam, two calls"),
    "sam, two calls": Case(make=sharp, drive=sharp_by_two_calls),
    "lookahead": Case(make=looking_ahead),
}


@pytest.mark.parametrize("name", CASES)
def test_with_masks_off_the_path_is_that_of_plain_training_bit_for_bit(name: str) -> None:
    case, data = CASES[name], sentences(96)
    plain, model = reader(), reader()
    expected = walk(case, plain, case.optimisers(plain), data, 50)
    assert not torch.equal(expected.weights[0]["hidden.weight"], expected.weights[-1]["hidden.weight"])
    _, wrapped = attached(model, case.optimisers(model), without_masks(model), NEVER)
    assert differing(walk(case, model, wrapped, data, 50), expected) == []


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.same])
def test_with_masks_on_it_learns_as_plain_training_does_and_keeps_what_the_server_has(name: str) -> None:
    """After 200 steps the loss has fallen by at least 95 % of what it falls by in plain training, which solves it.

    The model is wide, so that the noise of single weights, all of which are masked at the end, hardly shows in a sum.
    """
    case, data = CASES[name], sentences(96)
    plain = reader(WIDTH)
    start = loss_on(plain, data)
    walk(case, plain, case.optimisers(plain), data, 200)
    solved = loss_on(plain, data)
    assert solved < 0.02 * start
    for method, options in case.scales:
        model = reader(WIDTH)
        state = federated(case, model, data, method, options, 200)
        view = ModelLayout.of(model)
        assert {n for n, w in view.layout.slices.items() if not np.array_equal(view.read()[w], state[w])} == set()
        assert start - loss_on(model, data) > 0.95 * (start - solved), (method, options)
