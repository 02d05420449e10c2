"""The inner optimiser acts on u: SGD, momentum and Adam by hand, schedulers, clipping, scaling, and what is refused.

`Pushed` has the same gradient wherever its weights are, so that what u must become can be written down. Tolerances: one
step rounds u and the optimiser's state a few times; ten units of 2^-24 of the largest |u| a step are ample.
"""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from federating import MASKED, Pushed, batch, broadcast_of
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedmrn.errors import ConfigError, UnsupportedModelError
from fedmrn.torch import MaskedTraining, attach

SIZE, STEPS = 40, 6


def gradients() -> list[Tensor]:
    return list(torch.randn(STEPS, SIZE))


def masked(
    model: nn.Module, optimizer: torch.optim.Optimizer, name: str = "fedmrn", steps: int = STEPS
) -> MaskedTraining:
    rule = attach(model, optimizer, broadcast_of(model, name), accept="any", steps=steps, sampling_key=3)
    assert isinstance(rule, MaskedTraining)
    return rule


def push(model: Pushed, rule: MaskedTraining, given: list[Tensor]) -> NDArray[np.float32]:
    """Take the steps; return u."""
    for gradient in given:
        rule.zero_grad()
        model.pushed(gradient).backward()
        rule.step()
    return rule.u.numpy().copy()


def close(u: NDArray[np.float32], expected: NDArray[np.float64]) -> None:
    assert u.shape == expected.shape
    assert np.abs(u - expected).max() <= 10 * STEPS * 2.0**-24 * np.abs(expected).max()


@pytest.mark.parametrize("name", MASKED)
def test_sgd(name: str) -> None:
    model, given = Pushed(SIZE), gradients()
    u = push(model, masked(model, torch.optim.SGD(model.parameters(), lr=0.3), name), given)
    close(u, -0.3 * sum(g.double().numpy() for g in given))


def test_momentum() -> None:
    model, given = Pushed(SIZE), gradients()
    u = push(model, masked(model, torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)), given)
    expected, v = np.zeros(SIZE), np.zeros(SIZE)
    for g in given:
        v = 0.9 * v + g.double().numpy()
        expected -= 0.3 * v
    close(u, expected)


def test_adam() -> None:
    model, given = Pushed(SIZE), gradients()
    rule = masked(model, torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.8, 0.9), eps=1e-3))
    u = push(model, rule, given)
    expected, m, v = np.zeros(SIZE), np.zeros(SIZE), np.zeros(SIZE)
    for t, g in enumerate((g.double().numpy() for g in given), 1):
        m = 0.8 * m + 0.2 * g
        v = 0.9 * v + 0.1 * g * g
        expected -= 0.01 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-3)
    close(u, expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1, foreach=True),
        lambda p: torch.optim.Adam(p, amsgrad=True),
        lambda p: torch.optim.Adam(p, foreach=True),
        lambda p: torch.optim.AdamW(p, weight_decay=0.0),
        torch.optim.RMSprop,
        torch.optim.Adagrad,
        torch.optim.Rprop,
    ],
    ids=["nesterov", "sgd foreach", "amsgrad", "adam foreach", "adamw", "rmsprop", "adagrad", "rprop"],
)
def test_any_optimiser_moves_u_as_it_moves_a_vector_that_starts_at_zero(make) -> None:  # type: ignore[no-untyped-def]
    model, given = Pushed(SIZE), gradients()
    u = push(model, masked(model, make(model.parameters())), given)
    alone = nn.Parameter(torch.zeros(SIZE))
    optimizer = make([alone])
    for gradient in given:
        alone.grad = gradient.clone()
        optimizer.step()
    assert torch.equal(torch.from_numpy(u), alone.detach())


@pytest.mark.parametrize("on", ["the wrapper", "the inner optimiser"])
def test_a_scheduler_on_either_optimiser_scales_the_steps_on_u(on: str) -> None:
    model, given = Pushed(SIZE), gradients()
    inner = torch.optim.SGD(model.parameters(), lr=0.4)
    rule = masked(model, inner)
    schedule = torch.optim.lr_scheduler.StepLR(rule if on == "the wrapper" else inner, step_size=2, gamma=0.5)
    for gradient in given:
        rule.zero_grad()
        model.pushed(gradient).backward()
        rule.step()
        schedule.step()
    rates = [0.4, 0.4, 0.2, 0.2, 0.1, 0.1]
    close(rule.u.numpy(), -sum(r * g.double().numpy() for r, g in zip(rates, given, strict=True)))
    assert rule.param_groups is inner.param_groups
    assert inner.param_groups[0]["lr"] == pytest.approx(0.05)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=STEPS + 1),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    ],
    ids=["one cycle", "cosine", "lambda"],
)
def test_other_schedulers_on_the_wrapper_do_as_on_the_inner_optimiser(schedule) -> None:  # type: ignore[no-untyped-def]
    given, ends = gradients(), []
    for on_wrapper in (True, False):
        model = Pushed(SIZE)
        inner = torch.optim.SGD(model.parameters(), lr=0.4, momentum=0.9)
        rule = masked(model, inner)
        changes = schedule(rule if on_wrapper else inner)
        for gradient in given:
            rule.zero_grad()
            model.pushed(gradient).backward()
            rule.step()
            changes.step()
        ends.append(rule.u.clone())
    assert torch.equal(*ends)
    plain = Pushed(SIZE)
    assert not torch.equal(
        ends[0], torch.from_numpy(push(plain, masked(plain, torch.optim.SGD(plain.parameters(), lr=0.4)), given))
    )


def test_every_way_of_clearing_gradients_is_the_same() -> None:
    given, ends = gradients(), []
    for clear in (
        lambda model, rule: rule.zero_grad(),
        lambda model, rule: rule.zero_grad(set_to_none=False),
        lambda model, rule: model.zero_grad(),
        lambda model, rule: model.zero_grad(set_to_none=False),
        lambda model, rule: rule.inner.zero_grad(),
    ):
        model = Pushed(SIZE)
        rule = masked(model, torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.5))
        for gradient in given:
            clear(model, rule)
            model.pushed(gradient).backward()
            rule.step()
        ends.append(rule.u.clone())
    assert all(torch.equal(ends[0], end) for end in ends[1:])


def test_zero_grad_clears_in_the_way_that_was_asked_for() -> None:
    model = Pushed(SIZE)
    rule = masked(model, torch.optim.SGD(model.parameters(), lr=0.3))
    model.pushed(torch.ones(SIZE)).backward()
    rule.zero_grad(set_to_none=False)
    assert model.w.grad is not None
    assert not model.w.grad.any()
    rule.zero_grad()
    assert model.w.grad is None


def test_gradients_that_are_not_cleared_add_up() -> None:
    model, (first, second, *_) = Pushed(SIZE), gradients()
    rule = masked(model, torch.optim.SGD(model.parameters(), lr=0.5), steps=1)
    model.pushed(first).backward()
    model.pushed(second).backward()
    rule.step()
    close(rule.u.numpy(), -0.5 * (first + second).double().numpy())


def test_clipping_between_backward_and_step_bounds_the_step_on_u() -> None:
    model, (gradient, *_) = Pushed(SIZE), gradients()
    rule = masked(model, torch.optim.SGD(model.parameters(), lr=0.5), steps=1)
    model.pushed(gradient).backward()
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), 0.1))
    assert norm > 1
    rule.step()
    exact = gradient.double().numpy()
    close(rule.u.numpy(), -0.5 * 0.1 * exact / (np.linalg.norm(exact) + 1e-6))


def test_parameter_groups_keep_their_own_rates() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    groups = [
        {"params": model[0].parameters(), "lr": 0.0},
        {"params": model[1].parameters(), "weight_decay": 0.1},
        {"params": model[2].parameters()},
    ]
    # Weight decay on what stays dense is what it always is.
    rule = masked(model, torch.optim.SGD(groups, lr=0.1), steps=1)
    x, y = batch()
    F.cross_entropy(model(x), y).backward()
    rule.step()
    assert not rule.u[: 6 * 4 + 4].any()
    assert rule.u[6 * 4 + 4 :].all()


def test_an_optimiser_over_a_part_of_the_model_leaves_the_rest_at_zero() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    rule = masked(model, torch.optim.SGD(model[1].parameters(), lr=0.1), steps=1)
    x, y = batch()
    F.cross_entropy(model(x), y).backward()
    rule.step()
    assert not rule.u[: 6 * 4 + 4].any()
    assert rule.u[6 * 4 + 4 :].all()


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=1e-4), torch.optim.AdamW])
def test_weight_decay_on_coded_parameters_is_refused_and_says_what_to_do(make) -> None:  # type: ignore[no-untyped-def]
    model = Pushed(SIZE)
    with pytest.raises(UnsupportedModelError, match="put an L2 term in the loss"):
        masked(model, make(model.parameters()))


def test_a_closure_is_refused() -> None:
    model = Pushed(SIZE)
    rule = masked(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(UnsupportedModelError, match="closure"):
        rule.step(lambda: 0.0)
    assert rule.taken == 0


def test_the_optimisers_state_is_the_inner_ones_and_is_not_saved() -> None:
    model = Pushed(SIZE)
    inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rule = masked(model, inner)
    push(model, rule, gradients()[:1])
    assert rule.state is inner.state
    assert "momentum_buffer" in rule.state[model.w]
    assert rule.defaults is inner.defaults
    assert "lr: 0.1" in repr(rule)
    with pytest.raises(UnsupportedModelError, match="never saved half-way"):
        rule.state_dict()


class TestGradientScaling:
    """A `GradScaler` unscales the gradients through the wrapper before it lets it step."""

    @staticmethod
    def run(scale: float | None, *, spoil: int = -1) -> tuple[MaskedTraining, nn.Module]:
        torch.manual_seed(9)
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        rule = masked(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        x, y = batch()
        for step in range(STEPS):
            rule.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            if step == spoil:
                model[0].weight.grad[0, 0] = torch.inf
            scaler.step(rule)
            scaler.update()
        return rule, model

    def test_a_power_of_two_changes_no_bit(self) -> None:
        (scaled, _), (plain, _) = self.run(1024.0), self.run(None)
        assert scaled.u.any()
        assert torch.equal(scaled.u, plain.u)
        assert scaled.finish(weight=1).to_bytes() == plain.finish(weight=1).to_bytes()

    def test_any_other_scale_changes_rounding_only(self) -> None:
        (scaled, _), (plain, _) = self.run(1000.0), self.run(None)
        # Each gradient is rounded about three times more; a mask that fell otherwise would show as 0.1 * |n|.
        assert (scaled.u - plain.u).abs().max() <= 100 * STEPS * 2.0**-24 * plain.u.abs().max()

    def test_a_step_that_the_scaler_skips_is_not_taken(self) -> None:
        rule, _ = self.run(1024.0, spoil=2)
        assert rule.taken == STEPS - 1
        assert torch.isfinite(rule.u).all()
        with pytest.warns(UserWarning, match=f"after {STEPS - 1} of {STEPS} steps"):
            rule.finish(weight=1)


class TestSteps:
    """How many steps there are, and what happens around them."""

    def test_fewer_than_one_step_is_refused(self) -> None:
        model = Pushed(SIZE)
        for steps in (0, -1):
            with pytest.raises(ConfigError, match="at least 1"):
                masked(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=steps)

    def test_finishing_early_warns_and_still_gives_a_frame(self) -> None:
        model = Pushed(SIZE)
        rule = masked(model, torch.optim.SGD(model.parameters(), lr=0.1))
        push(model, rule, gradients()[:2])
        with pytest.warns(UserWarning, match="after 2 of 6 steps: local training was not done"):
            frame = rule.finish(weight=1)
        assert frame.weight == 1

    def test_all_steps_give_no_warning(self) -> None:
        model = Pushed(SIZE)
        rule = masked(model, torch.optim.SGD(model.parameters(), lr=0.1))
        push(model, rule, gradients())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            rule.finish(weight=1)

    def test_nothing_goes_on_after_finish(self) -> None:
        model = Pushed(SIZE)
        rule = masked(model, torch.optim.SGD(model.parameters(), lr=0.1))
        push(model, rule, gradients())
        rule.finish(weight=1)
        held = model.w.detach().clone()
        with pytest.raises(ConfigError, match="attach again"):
            rule.step()
        with pytest.raises(ConfigError, match="called already"):
            rule.finish(weight=1)
        assert torch.equal(model.w, held)

    @pytest.mark.parametrize("name", MASKED)
    def test_the_schedule_of_the_masks_reaches_all_elements_at_the_last_step(self, name: str) -> None:
        # With u in the middle of its interval, an element that is masked is at a codeword and no other is.
        model = Pushed(SIZE * 50)
        broadcast = broadcast_of(model, name)
        w = model.w.detach().clone()
        rule = attach(
            model, torch.optim.SGD(model.parameters(), lr=0.0), broadcast, accept="any", steps=4, sampling_key=3
        )
        assert isinstance(rule, MaskedTraining)
        noise = rule.noise
        rule.u.copy_(noise / 2)
        shares = []
        for _ in range(4):
            rule.draw()
            upper, lower = w + noise, w - noise if name == "fedmrn-s" else w
            at_codeword = (model.w == upper) | (model.w == lower)
            assert bool((at_codeword | (model.w == w + noise / 2)).all())
            shares.append(float(at_codeword.float().mean()))
            rule.zero_grad()
            model.pushed(torch.zeros(len(w))).backward()
            rule.step()
        # 2000 elements: the standard error of a share is at most 0.0112; five of them.
        assert shares == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.056)
        assert shares[3] == 1.0

    def test_steps_beyond_s_are_still_taken_through_the_mask(self) -> None:
        model, given = Pushed(SIZE), gradients()
        w = model.w.detach().clone()
        rule = masked(model, torch.optim.SGD(model.parameters(), lr=0.01), steps=2)
        noise = rule.noise
        for gradient in given:
            rule.zero_grad()
            model.pushed(gradient).backward()
            rule.step()
            if rule.taken >= 2:
                assert bool(((model.w == w + noise) | (model.w == w)).all())
        close(rule.u.numpy(), -0.01 * sum(g.double().numpy() for g in given))


def test_an_optimiser_of_another_model_is_refused() -> None:
    model, other = Pushed(SIZE), Pushed(SIZE)
    with pytest.raises(UnsupportedModelError, match="make it from this model"):
        masked(model, torch.optim.SGD(other.parameters(), lr=0.1))


def test_lbfgs_is_refused_at_once() -> None:
    model = Pushed(SIZE)
    with pytest.raises(UnsupportedModelError, match="LBFGS"):
        masked(model, torch.optim.LBFGS(model.parameters()))


def test_averaged_sgd_is_refused() -> None:
    """Its lambd decays what it moves, which would be u."""
    model = Pushed(SIZE)
    with pytest.raises(UnsupportedModelError, match="ASGD"):
        masked(model, torch.optim.ASGD(model.parameters()))


def test_a_rule_is_not_copied_or_loaded_and_other_rules_go_on() -> None:
    model = Pushed(SIZE)
    rule = masked(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for attempt in (copy.deepcopy, copy.copy, pickle.dumps, lambda r: r.load_state_dict({})):
        with pytest.raises(UnsupportedModelError, match="never saved half-way"):
            attempt(rule)
    other = Pushed(SIZE)
    push(other, masked(other, torch.optim.SGD(other.parameters(), lr=0.1)), gradients())
