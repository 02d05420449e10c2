"""An optimiser in its wrapper: schedulers, clipping, scaling, closures, hooks, saving, several of them, and refusals.

The oracle is plain training: `as_plain` runs a loop twice, through the wrapper with masks off and without it, and
compares every bit. Which optimisers there are is the matter of tests/conformance/test_every_optimiser.py.
"""

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from any_optimiser import Hold, Reader, as_plain, loss_of, reader, sentences, values, without_masks
from federating import MASKED, Pushed, batch, broadcast_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, lr_scheduler

from fedmrn.errors import ConfigError, UnsupportedModelError
from fedmrn.torch import MaskedTraining, attach

SIZE, STEPS = 40, 6
DATA = sentences(96)


def gradients() -> list[Tensor]:
    return list(torch.randn(STEPS, SIZE))


def masked(
    model: nn.Module, optimizer: torch.optim.Optimizer, name: str = "fedmrn", steps: int = STEPS
) -> MaskedTraining:
    rule = attach(model, optimizer, broadcast_of(model, name), accept="any", steps=steps, sampling_key=3)
    assert isinstance(rule, MaskedTraining)
    return rule


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, n: int = 20, after: Callable[[], Any] = int) -> None:
    """Train for n steps, with something done after each."""
    for step in range(n):
        optimizer.zero_grad()
        loss_of(model, DATA, step, 16)().backward()
        optimizer.step()
        after()


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]] = {
    "steps": lambda o: lr_scheduler.StepLR(o, step_size=2, gamma=0.5),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=21),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 20),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    "warm-up, then exponential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=5), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[5]
    ),
}


class TestSchedulers:
    """On the wrapper or on the inner optimiser, they are the inner optimiser's."""

    @pytest.mark.parametrize("on", ["the wrapper", "the inner optimiser"])
    @pytest.mark.parametrize("name", SCHEDULERS)
    def test_a_scheduler_does_what_it_does_in_plain_training(self, name: str, on: str) -> None:
        rates = []

        def loop(model: nn.Module, hold: Hold) -> None:
            inner = SGD(model.parameters(), lr=0.4, momentum=0.9)
            optimizer = hold(inner)
            schedule = SCHEDULERS[name](optimizer if on == "the wrapper" else inner)
            steps(model, optimizer, after=schedule.step)
            rates.append((schedule.get_last_lr(), inner.param_groups[0]["lr"], optimizer.param_groups[0]["lr"]))

        as_plain(loop)
        assert rates[0] == rates[1]
        assert rates[0][0][0] != 0.4

    def test_a_plateau_lowers_the_rate(self) -> None:
        def loop(model: nn.Module, hold: Hold) -> None:
            optimizer = hold(SGD(model.parameters(), lr=0.4))
            schedule = lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
            steps(model, optimizer, after=lambda: schedule.step(1.0))
            assert optimizer.param_groups[0]["lr"] < 0.01

        as_plain(loop)

    def test_a_warm_restart_of_a_saved_schedule_goes_on(self) -> None:
        def loop(model: nn.Module, hold: Hold) -> None:
            optimizer = hold(SGD(model.parameters(), lr=0.4))
            schedule = lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
            steps(model, optimizer, 5, schedule.step)
            again = lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
            again.load_state_dict(schedule.state_dict())
            steps(model, optimizer, 5, again.step)
            assert optimizer.param_groups[0]["lr"] == pytest.approx(0.4 / 8)

        as_plain(loop)


class TestGradients:
    """What stands between backward and step."""

    @pytest.mark.parametrize("clip", [nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_])
    def test_clipping(self, clip: Callable[[Any, float], Any]) -> None:
        def loop(model: nn.Module, hold: Hold) -> None:
            optimizer = hold(SGD(model.parameters(), lr=0.4, momentum=0.9))
            for step in range(20):
                optimizer.zero_grad()
                loss_of(model, DATA, step, 16)().backward()
                clip(model.parameters(), 0.01)
                optimizer.step()

        assert not torch.equal(as_plain(loop)["head.bias"], as_plain(without_clipping)["head.bias"])

    def test_accumulation(self) -> None:
        def loop(model: nn.Module, hold: Hold) -> None:
            optimizer = hold(AdamW(model.parameters(), lr=0.01))
            for step in range(20):
                (loss_of(model, DATA, step, 8)() / 4).backward()
                if step % 4 == 3:
                    optimizer.step()
                    optimizer.zero_grad()

        as_plain(loop)

    @pytest.mark.parametrize("to_none", [True, False])
    @pytest.mark.parametrize("by", ["wrapper", "model", "inner"])
    def test_every_way_of_clearing(self, by: str, to_none: bool) -> None:
        def loop(model: nn.Module, hold: Hold) -> None:
            inner = SGD(model.parameters(), lr=0.3, momentum=0.5)
            optimizer = hold(inner)
            cleared = {"wrapper": optimizer, "model": model, "inner": inner}[by]
            for step in range(20):
                cleared.zero_grad(set_to_none=to_none)
                assert all((p.grad is None) if to_none or not step else not p.grad.any() for p in model.parameters())
                loss_of(model, DATA, step, 16)().backward()
                optimizer.step()

        as_plain(loop)

    def test_a_parameter_without_a_gradient_stays(self) -> None:
        def loop(model: Any, hold: Hold) -> None:
            optimizer = hold(AdamW(model.parameters(), lr=0.01, weight_decay=0.1))
            held = model.head.bias.detach().clone()
            for step in range(5):
                optimizer.zero_grad()
                loss_of(model, DATA, step, 16)().backward()
                model.head.bias.grad = None
                optimizer.step()
            assert torch.equal(held, model.head.bias)

        as_plain(loop)


def without_clipping(model: nn.Module, hold: Hold) -> None:
    steps(model, hold(SGD(model.parameters(), lr=0.4, momentum=0.9)))


class TestGradientScaling:
    """A `GradScaler` unscales the gradients through the wrapper before it lets it step."""

    @pytest.mark.parametrize("unscale", [False, True])
    @pytest.mark.parametrize("scale", [1024.0, 1000.0])
    def test_it_does_what_it_does_in_plain_training(self, scale: float, unscale: bool) -> None:
        def loop(model: nn.Module, hold: Hold) -> None:
            optimizer, scaler = (
                hold(SGD(model.parameters(), lr=0.1, momentum=0.9)),
                torch.amp.GradScaler("cpu", init_scale=scale),
            )
            for step in range(20):
                optimizer.zero_grad()
                scaler.scale(loss_of(model, DATA, step, 16)()).backward()
                if unscale:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                scaler.step(optimizer)
                scaler.update()

        as_plain(loop)

    def test_a_step_that_the_scaler_skips_is_not_taken(self) -> None:
        def loop(model: Any, hold: Hold) -> None:
            optimizer, scaler = hold(SGD(model.parameters(), lr=0.1)), torch.amp.GradScaler("cpu", init_scale=64.0)
            for step in range(6):
                optimizer.zero_grad()
                scaler.scale(loss_of(model, DATA, step, 16)()).backward()
                if step == 2:
                    model.head.weight.grad[0, 0] = torch.inf
                before = values(model)
                scaler.step(optimizer)
                scaler.update()
                assert (step == 2) == all(torch.equal(before[n], p) for n, p in model.named_parameters())
            assert scaler.get_scale() == 32.0

        as_plain(loop)

    def test_skipped_steps_are_missed_at_the_end(self) -> None:
        model = reader()
        rule = masked(model, SGD(model.parameters(), lr=0.1), steps=2)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        for spoil in (True, False):
            rule.zero_grad()
            scaler.scale(loss_of(model, DATA, 0, 16)()).backward()
            if spoil:
                model.head.weight.grad[0, 0] = torch.inf  # type: ignore[index]
            scaler.step(rule)
            scaler.update()
        assert rule.taken == 1
        with pytest.warns(UserWarning, match="after 1 of 2 steps"):
            rule.finish(weight=1)


class TestClosures:
    """`step(closure)`: called once, with gradients on, its loss returned."""

    def test_the_loss_is_returned_and_gradients_are_on_although_they_are_off_around(self) -> None:
        def loop(model: nn.Module, hold: Hold) -> None:
            optimizer, calls = hold(AdamW(model.parameters(), lr=0.01)), []
            for step in range(10):

                def closure(step: int = step) -> Tensor:
                    assert torch.is_grad_enabled()
                    optimizer.zero_grad()
                    loss = loss_of(model, DATA, step, 16)()
                    loss.backward()
                    calls.append(loss)
                    return loss

                with torch.no_grad():
                    returned = optimizer.step(closure)  # type: ignore[arg-type]
                assert returned is calls[-1]
                assert len(calls) == step + 1

        as_plain(loop)

    @pytest.mark.parametrize("name", MASKED)
    def test_it_sees_the_masked_weights_that_a_forward_before_would_see(self, name: str) -> None:
        model = Pushed(SIZE)
        rule = masked(model, SGD(model.parameters(), lr=0.3), name)
        seen = []
        for gradient in gradients():
            held = model.w.detach().clone()

            def closure(gradient: Tensor = gradient) -> float:
                seen.append(model.w.detach().clone())
                rule.zero_grad()
                loss = model.pushed(gradient)
                loss.backward()
                return loss.item()

            assert isinstance(rule.step(closure), float)
            assert torch.equal(seen[-1], held)
        assert len(seen) == STEPS

    def test_with_and_without_a_closure_the_frame_is_the_same(self) -> None:
        frames = []
        for by_closure in (True, False):
            model = reader()
            rule = masked(model, AdamW(model.parameters(), lr=0.01))
            for step in range(STEPS):

                def closure(step: int = step, model: Reader = model, rule: MaskedTraining = rule) -> Tensor:
                    rule.zero_grad()
                    loss = loss_of(model, DATA, step, 16)()
                    loss.backward()
                    return loss

                if by_closure:
                    rule.step(closure)  # type: ignore[arg-type]
                else:
                    closure()
                    rule.step()
            frames.append(rule.finish(weight=1).to_bytes())
        assert frames[0] == frames[1]


class TestHooks:
    """On the wrapper or on the inner optimiser, they are called with the latter and the weights of plain training."""

    @pytest.mark.parametrize("on", ["wrapper", "inner"])
    def test_they_are_called_once_a_step_with_the_inner_optimiser(self, on: str) -> None:
        model = reader()
        inner = SGD(model.parameters(), lr=0.1)
        rule = masked(model, inner)
        target, called = {"wrapper": rule, "inner": inner}[on], []
        target.register_step_pre_hook(lambda o, args, kwargs: called.append(("before", o)))
        removed = target.register_step_post_hook(lambda o, args, kwargs: called.append(("after", o)))
        steps(model, rule, 3)
        assert [when for when, _ in called] == ["before", "after"] * 3
        assert all(o is inner for _, o in called)
        removed.remove()
        steps(model, rule, 1)
        assert len(called) == 7

    @pytest.mark.parametrize("on", ["wrapper", "inner"])
    def test_a_hook_that_changes_gradients_before_or_weights_after_does_what_it_does_in_plain_training(
        self, on: str
    ) -> None:
        def loop(model: nn.Module, hold: Hold) -> None:
            inner = AdamW(model.parameters(), lr=0.05)
            optimizer = hold(inner)
            target = optimizer if on == "wrapper" else inner

            def before(*_: Any) -> None:
                nn.utils.clip_grad_value_(model.parameters(), 0.01)

            def after(*_: Any) -> None:
                with torch.no_grad():
                    for p in model.parameters():
                        p.clamp_(-0.3, 0.3)

            target.register_step_pre_hook(before)
            target.register_step_post_hook(after)
            steps(model, optimizer)

        ends = as_plain(loop)
        assert max(float(p.abs().max()) for p in ends.values()) == pytest.approx(0.3)


class TestSaving:
    """`state_dict` is the inner optimiser's."""

    @pytest.mark.parametrize("through_a_file", [False, True])
    def test_saved_and_loaded_it_goes_on_as_in_plain_training(self, through_a_file: bool) -> None:
        def loop(model: nn.Module, hold: Hold) -> None:
            optimizer = hold(AdamW(model.parameters(), lr=0.01))
            steps(model, optimizer, 5)
            saved = optimizer.state_dict()
            if through_a_file:
                file = io.BytesIO()
                torch.save(saved, file)
                file.seek(0)
                saved = torch.load(file, weights_only=True)
            else:
                saved = copy.deepcopy(saved)
            steps(model, optimizer, 3)
            optimizer.load_state_dict(saved)
            steps(model, optimizer, 5)
            assert {int(s["step"]) for s in optimizer.state.values()} == {10}

        as_plain(loop)

    def test_it_is_what_the_inner_optimiser_saves(self) -> None:
        model = reader()
        inner = Adam(model.parameters(), lr=0.01)
        rule = masked(model, inner)
        steps(model, rule, 2)
        ours, own = rule.state_dict(), inner.state_dict()
        assert ours["param_groups"] == own["param_groups"]
        assert ours["state"].keys() == own["state"].keys()
        for index, state in own["state"].items():
            assert all(torch.equal(ours["state"][index][key], value) for key, value in state.items())

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])  # noqa: S301 - our own
    def test_a_copy_is_one_of_the_inner_optimiser_and_the_wrapper_goes_on(self, copied: Callable[[Any], Any]) -> None:
        ends = []
        for with_copy in (True, False):
            model = reader()
            inner = AdamW(model.parameters(), lr=0.01)
            rule = masked(model, inner, steps=6)
            steps(model, rule, 3)
            if with_copy:
                other = copied(rule)
                assert type(other) is AdamW
                for ours, theirs in zip(inner.state.values(), other.state.values(), strict=True):
                    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
                other.step()
            steps(model, rule, 3)
            ends.append(rule.finish(weight=1).to_bytes())
        assert ends[0] == ends[1]

    def test_state_groups_and_defaults_are_the_inner_ones(self) -> None:
        model = Pushed(SIZE)
        inner = SGD(model.parameters(), lr=0.1, momentum=0.9)
        rule = masked(model, inner)
        rule.zero_grad()
        model.pushed(torch.ones(SIZE)).backward()
        rule.step()
        assert rule.state is inner.state
        assert rule.param_groups is inner.param_groups
        assert rule.defaults is inner.defaults
        assert "momentum_buffer" in rule.state[model.w]
        assert "lr: 0.1" in repr(rule)


class TestSeveral:
    """Several optimisers over one model, and groups that are added later."""

    def test_each_moves_its_own_part_in_turns_and_one_frame_is_sent(self) -> None:
        ends = []
        for plain in (True, False):
            model = reader()
            given = [SGD(model.embedding.parameters(), lr=0.1), AdamW(model.head.parameters(), lr=0.01)]
            optimizers: Any = given
            if not plain:
                broadcast = broadcast_of(model, "fedmrn-s", law="bernoulli", scale=2.0**15)
                rule = attach(model, given, broadcast, accept="any", steps=10**12, sampling_key=3)
                optimizers = rule.optimizers
            for step in range(20):
                optimizer = optimizers[step % 2]
                model.zero_grad()
                loss_of(model, DATA, step, 16)().backward()
                optimizer.step()
            ends.append(values(model))
        assert [n for n in ends[0] if not torch.equal(ends[0][n], ends[1][n])] == []
        assert torch.equal(ends[0]["hidden.weight"], values(reader())["hidden.weight"])

    def test_a_tuple_will_do_and_all_steps_are_counted_together(self) -> None:
        model = reader()
        rule = attach(
            model,
            (SGD(model.embedding.parameters(), lr=0.1), AdamW(model.head.parameters(), lr=0.01)),
            broadcast_of(model),
            steps=4,
            sampling_key=3,
        )
        first, second = rule.optimizers
        for step in range(2):
            model.zero_grad()
            loss_of(model, DATA, step, 16)().backward()
            first.step()
            second.step()
        assert rule.finish(weight=3).weight == 3

    @pytest.mark.parametrize("on", ["wrapper", "inner"])
    def test_a_group_that_is_added_later_is_trained_from_then_on(self, on: str) -> None:
        def loop(model: Any, hold: Hold) -> None:
            inner = AdamW(model.head.parameters(), lr=0.01)
            optimizer = hold(inner)
            steps(model, optimizer, 5)
            group = {"params": list(model.hidden.parameters()), "lr": 0.02}
            (optimizer if on == "wrapper" else inner).add_param_group(group)
            steps(model, optimizer, 5)

        ends, start = as_plain(loop), values(reader())
        assert {n for n in ends if torch.equal(ends[n], start[n])} == {"embedding.weight", "norm.weight", "norm.bias"}

    def test_decay_that_is_set_after_attach_acts(self) -> None:
        def loop(model: nn.Module, hold: Hold) -> None:
            optimizer = hold(AdamW(model.parameters(), lr=0.01, weight_decay=0.0))
            steps(model, optimizer, 3)
            optimizer.param_groups[0]["weight_decay"] = 0.5
            steps(model, optimizer, 3)

        as_plain(loop)


class TestSteps:
    """How many steps there are, and what happens around them."""

    def test_fewer_than_one_step_is_refused(self) -> None:
        model = Pushed(SIZE)
        for wanted in (0, -1):
            with pytest.raises(ConfigError, match="at least 1"):
                masked(model, SGD(model.parameters(), lr=0.1), steps=wanted)

    def test_finishing_early_warns_and_still_gives_a_frame(self) -> None:
        model = reader()
        rule = masked(model, SGD(model.parameters(), lr=0.1))
        steps(model, rule, 2)
        with pytest.warns(UserWarning, match="after 2 of 6 steps: local training was not done"):
            frame = rule.finish(weight=1)
        assert frame.weight == 1

    def test_more_steps_than_were_told_warn(self) -> None:
        model = reader()
        rule = masked(model, SGD(model.parameters(), lr=0.1), steps=2)
        steps(model, rule, 5)
        with pytest.warns(UserWarning, match=r"after 5 of 2 steps: .*steps=5"):
            rule.finish(weight=1)

    def test_all_steps_give_no_warning(self) -> None:
        model = reader()
        rule = masked(model, SGD(model.parameters(), lr=0.1))
        steps(model, rule, STEPS)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            rule.finish(weight=1)

    def test_nothing_goes_on_after_finish(self) -> None:
        model = reader()
        rule = masked(model, SGD(model.parameters(), lr=0.1))
        steps(model, rule, STEPS)
        rule.finish(weight=1)
        held = values(model)
        with pytest.raises(ConfigError, match="attach again"):
            rule.step()
        with pytest.raises(ConfigError, match="called already"):
            rule.finish(weight=1)
        assert all(torch.equal(held[n], p) for n, p in model.named_parameters())

    @pytest.mark.parametrize("name", MASKED)
    def test_the_schedule_of_the_masks_reaches_all_elements_at_the_last_step(self, name: str) -> None:
        # With u in the middle of its interval, an element that is masked is at a codeword and no other is.
        model = Pushed(SIZE * 50)
        broadcast = broadcast_of(model, name)
        w = model.w.detach().clone()
        rule = attach(model, SGD(model.parameters(), lr=0.0), broadcast, accept="any", steps=4, sampling_key=3)
        assert isinstance(rule, MaskedTraining)
        noise = rule.noise
        rule.moved.copy_(w + noise / 2)
        shares = []
        for _ in range(4):
            rule.draw()
            upper, lower = w + noise, w - noise if name == "fedmrn-s" else w
            at_codeword = (model.w == upper) | (model.w == lower)
            assert bool((at_codeword | ((model.w - (w + noise / 2)).abs() <= 2.0**-24)).all())
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
        rule = masked(model, SGD(model.parameters(), lr=0.01), steps=2)
        noise, held = rule.noise, []
        for gradient in given:
            rule.zero_grad()
            model.pushed(gradient).backward()
            rule.step()
            held.append(rule.u.clone())
            if rule.taken >= 2:
                assert bool(((model.w == w + noise) | (model.w == w)).all())
        exact = -0.01 * np.cumsum([g.double().numpy() for g in given], 0)
        # Weights lie in [-2, 2]: each step rounds one by at most 2^-24, and rounds its own length by less.
        assert np.abs(np.stack(held) - exact).max() <= 3 * STEPS * 2.0**-24


class TestRefusals:
    """By name, with the way out."""

    @pytest.mark.parametrize("kind", [torch.optim.LBFGS, torch.optim.ASGD, torch.optim.SparseAdam])
    def test_three_of_torch_are_refused_by_name(self, kind: type[torch.optim.Optimizer]) -> None:
        model = Pushed(SIZE)
        held = model.w.detach().clone()
        with pytest.raises(UnsupportedModelError, match=rf"{kind.__name__}\b.*: .*(use|take|train)"):
            masked(model, kind(model.parameters()))  # type: ignore[call-arg]
        assert torch.equal(held, model.w)

    def test_one_of_several_is_refused_too(self) -> None:
        model = reader()
        given = [AdamW(model.head.parameters()), torch.optim.ASGD(model.hidden.parameters())]
        with pytest.raises(UnsupportedModelError, match="ASGD"):
            attach(model, given, broadcast_of(model), steps=2, sampling_key=3)

    def test_a_kind_derived_from_them_is_refused(self) -> None:
        class Mine(torch.optim.LBFGS):
            pass

        model = Pushed(SIZE)
        with pytest.raises(UnsupportedModelError, match=r"LBFGS|Mine"):
            masked(model, Mine(model.parameters()))

    def test_an_optimiser_of_another_model(self) -> None:
        model, other = Pushed(SIZE), Pushed(SIZE)
        with pytest.raises(UnsupportedModelError, match="make it from this model"):
            masked(model, SGD(other.parameters(), lr=0.1))

    @pytest.mark.parametrize("name", ["fedmrn", "fedavg"])
    @pytest.mark.parametrize("several", [False, True])
    def test_an_optimiser_of_another_model_whatever_the_method(self, name: str, several: bool) -> None:
        model, foreign = reader(), AdamW(reader().parameters())
        given = [AdamW(model.parameters()), foreign] if several else foreign
        with pytest.raises(UnsupportedModelError, match=r"optimiser( 2 of 2)? holds no trained parameter of"):
            attach(model, given, broadcast_of(model, name), accept="any", steps=2)

    def test_what_is_not_the_models_is_trained_and_told(self) -> None:
        model, temperature = reader(), nn.Parameter(torch.ones(()))
        frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        given = SGD([*model.parameters(), temperature, frozen], lr=0.1)
        with pytest.warns(UserWarning, match="1 tensors that are not in the model that is attached"):
            rule = attach(model, given, broadcast_of(model), steps=1)
        (loss_of(model, DATA, 0, 16)() * temperature).backward()
        rule.step()
        assert temperature != 1

    def test_an_attribute_that_no_optimiser_has(self) -> None:
        model = Pushed(SIZE)
        rule = masked(model, SGD(model.parameters(), lr=0.1))
        with pytest.raises(AttributeError, match="no_such_thing"):
            rule.no_such_thing  # noqa: B018
        assert not hasattr(rule, "eval")


def test_an_optimiser_over_a_part_of_the_model_leaves_the_rest_where_it_was() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    rule = masked(model, SGD(model[1].parameters(), lr=0.1), steps=1)
    x, y = batch()
    F.cross_entropy(model(x), y).backward()
    rule.step()
    assert not rule.u[: 6 * 4 + 4].any()
    assert rule.u[6 * 4 + 4 :].all()


class Patient(SGD):
    """An optimiser with settings outside its groups, a property, and a step of more arguments."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr=lr, momentum=0.9)
        self.every, self.count, self.steps = 1, 0, "its own"

    @property
    def half(self) -> bool:
        return self.param_groups[0]["lr"] < 0.1

    @half.setter
    def half(self, wanted: bool) -> None:
        self.param_groups[0]["lr"] = 0.05 if wanted else 0.1

    def step(self, closure: Any = None, factor: float = 1.0, *, shift: float = 0.0) -> Any:
        self.count += 1
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.count % self.every == 0:
            for group in self.param_groups:
                for p in group["params"]:
                    p.data.sub_(group["lr"] * factor * p.grad + shift)
        return loss


class TestOfItsOwn:
    """What only this optimiser has: the wrapper passes it on."""

    def test_settings_that_are_set_on_the_wrapper(self) -> None:
        def loop(model: nn.Module, hold: Hold) -> None:
            optimizer: Any = hold(Patient(model.parameters(), 0.1))
            optimizer.every, optimizer.half = 2, True
            steps(model, optimizer, 5)
            assert (optimizer.count, optimizer.every, optimizer.half) == (5, 2, True)

        as_plain(loop)

    def test_settings_of_one_of_several(self) -> None:
        model = reader()
        given = [Patient(model.hidden.parameters(), 0.1), Patient(model.head.parameters(), 0.1)]
        rule = attach(model, [*given], broadcast_of(model), steps=2)
        second: Any = rule.optimizers[1]
        second.every = 3
        assert [one.every for one in given] == [1, 3]

    def test_the_wrappers_own_attributes_stay_its_own(self) -> None:
        model = reader()
        inner = Patient(model.parameters(), 0.1)
        rule = attach(model, inner, broadcast_of(model), steps=7)
        rule.steps = 9
        schedule = lr_scheduler.StepLR(rule, 3)
        assert (rule.steps, inner.steps) == (9, "its own")
        assert schedule.optimizer is rule

    @pytest.mark.parametrize("several", [False, True])
    @pytest.mark.parametrize("closure", [False, True])
    def test_further_arguments_of_a_step(self, closure: bool, several: bool) -> None:
        def loop(model: Any, hold: Hold) -> None:
            kinds = [Patient(model.parameters(), 0.1)]
            if several:
                kinds = [Patient(part.parameters(), 0.1) for part in (model.hidden, model.head)]
            wrapped: Any = kinds
            if hold(kinds[0]) is not kinds[0]:
                given = without_masks(model)
                rule = attach(model, [*kinds], given, accept="any", steps=10**12, sampling_key=3)
                wrapped = rule.optimizers
            for step in range(4):
                for one in wrapped:

                    def loss(step: int = step) -> Any:
                        model.zero_grad()
                        value: Any = loss_of(model, DATA, step, 16)()
                        value.backward()
                        return value

                    if closure:
                        assert one.step(loss, 0.5, shift=1e-3).item() > 0
                    else:
                        loss()
                        one.step(None, 0.5, shift=1e-3)

        as_plain(loop)


def test_unknown_attributes_are_the_inner_optimisers() -> None:
    class Odd(SGD):
        temperature = 3

        def cool(self) -> int:
            self.temperature -= 1
            return self.temperature

    model = Pushed(SIZE)
    inner = Odd(model.parameters(), lr=0.1)
    rule: Any = masked(model, inner)
    assert rule.temperature == 3
    assert rule.cool() == 2
    assert inner.temperature == 2
