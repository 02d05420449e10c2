"""FedPM's and FedBAT's local rules against the slow oracles, step by step.

Tolerances. Each oracle runs in float64 and in float32. How far the two are apart is what rounding does to this very
computation; the library may be four times as far, as it sums in another order, plus one unit of 2^-24 of the largest
value for storing it. The bound must itself be small (`CEILING`), or it would excuse anything. What FedBAT's
oracle moves are weights w + u, as the library does: in float32 each step rounds them, by 2^-24 of their size at most.

Decisions. A draw r is a multiple of 2^-24. A decision of the library may differ from [r < p] only where r is as near to
p as p is uncertain: by the difference of scores or updates, and a few roundings. All oracles go on with the library's
decision; there must be hardly any that differ.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from federating import MASKED, Pushed, batch, broadcast_of, decoded, starting_server, values
from numpy.typing import NDArray
from through_oracle import CODED, DENSE, LIMITS, FedBAT, FedPM, Mover, logit, small_net
from torch import Tensor, nn
from torch.nn import functional as F

from fedmrn.codecs import EncodeKeys, RandomCode, codec_from
from fedmrn.errors import ConfigError, UnsupportedModelError
from fedmrn.numerics.rng import Purpose, Stream, domain
from fedmrn.torch import ModelLayout, attach
from fedmrn.torch.rules.learned import LearnedSign, ProbabilityMask
from fedmrn.torch.rules.through import Through
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group
from fedmrn.wire.terms import read_terms

KEY, SEED, STEPS = 0xFED, 1, 8
CEILING = 1e-5  # relative; eight steps through two layers, a layer norm and a softmax
OPTIMISERS = {
    "sgd": (lambda p, lr: torch.optim.SGD(p, lr=lr), Mover),
    "momentum": (lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9), lambda lr: Mover(lr, 0.9)),
    "adam": (lambda p, lr: torch.optim.Adam(p, lr=lr), lambda lr: Mover(lr, adam=True)),
}


class Lockstep:
    """The library and two oracles over the same batches."""

    def __init__(self, name: str, optimiser: str, lr: float, **options: float) -> None:
        torch.manual_seed(3)
        self.model = small_net()
        if name == "fedpm":
            with torch.no_grad():
                for layer in (self.model[0], self.model[3]):
                    layer.weight.uniform_(0.05, 0.95)
                    layer.bias.uniform_(0.05, 0.95)
        state = values(self.model.state_dict())
        make, by_hand = OPTIMISERS[optimiser]
        self.base = {k: torch.from_numpy(v) for k, v in state.items()}
        self.rule = attach(
            self.model,
            make(self.model.parameters(), lr),
            broadcast_of(self.model, name, told=options),
            accept="any",
            steps=STEPS,
            sampling_key=KEY,
        )
        assert isinstance(self.rule, Through)
        self.exact, self.rough = (
            FedPM(state, KEY, by_hand(lr), dtype, SEED, published=bool(options.get("backward")))
            if name == "fedpm"
            else FedBAT(
                state,
                KEY,
                by_hand(lr),
                dtype,
                steps=STEPS,
                warmup=options.get("warmup", 0.5),
                rho=options.get("rho", 6.0),
            )
            for dtype in (torch.float64, torch.float32)
        )
        self.differing = self.decisions = 0

    def mine(self, name: str) -> Tensor:
        """The library's u or s of a tensor, float64."""
        start, stop = self.exact.places[name]
        found = self.rule.moved if isinstance(self.exact, FedPM) else self.rule.u
        return found[start:stop].view(self.base[name].shape).double()

    def ones(self, name: str) -> Tensor:
        """The library's decisions, read off the weights that the model holds."""
        held = self.model.state_dict()[name]
        return held != 0 if isinstance(self.exact, FedPM) else held > self.base[name]

    def slack(self, name: str) -> Tensor:
        """How far a threshold of the library may be from the reference's: no slope of p is steeper."""
        apart = (self.mine(name) - self.exact.u(name)).abs()
        if isinstance(self.exact, FedPM):
            return apart / 4 + 2.0**-22
        index = CODED.index(name)
        a = self.exact.scale(name)
        assert isinstance(self.rule, LearnedSign)
        return (apart + abs(self.rule._scales()[index] - a)) / (2 * a) + 2.0**-22

    def check(self, name: str, ones: Tensor, r: Tensor, tau: int = 0) -> None:
        p = self.exact.probability(name, tau)
        same = ones == (r.double() < p)
        assert bool((same | ((r.double() - p).abs() <= self.slack(name))).all()), f"{name}: decisions of step {tau}"
        self.differing += int((~same).sum())
        self.decisions += same.numel()

    def agree(self, tau: int) -> None:
        """Scores, updates, scales and dense values are as near to the reference as rounding allows."""
        exact_u, rough_u = ({k: oracle.u(k) for k in CODED} for oracle in (self.exact, self.rough))
        pairs = [({k: self.mine(k) for k in CODED}, exact_u, rough_u)]
        stored = 0.0  # what storing w + u in float32 rounds away, step by step
        if isinstance(self.exact, FedBAT):
            stored = tau * 2.0**-24 * max(float(self.exact.moving[k].abs().max()) for k in CODED)
        dense = {k: self.model.state_dict()[k].double() for k in DENSE}
        pairs.append((dense, self.exact.base, self.rough.base))
        if isinstance(self.exact, FedBAT) and self.exact.first:
            assert isinstance(self.rule, LearnedSign)
            assert isinstance(self.rough, FedBAT)
            scales = [{k: torch.tensor([o.scale(k)]).double() for k in CODED} for o in (self.exact, self.rough)]
            found = {k: torch.tensor([a]).double() for k, a in zip(CODED, self.rule._scales(), strict=True)}
            pairs.append((found, *scales))
        for mine, exact, rough in pairs:
            size = max(float(exact[k].abs().max()) for k in mine)
            rounding = max(float((rough[k].double() - exact[k]).abs().max()) for k in mine)
            assert rounding <= CEILING * size + stored
            for name, value in mine.items():
                assert float((value - exact[name]).abs().max()) <= 4 * rounding + 2.0**-24 * size, name

    def step(self, tau: int, x: Tensor, y: Tensor) -> None:
        ones = {}
        plain = isinstance(self.exact, FedBAT) and self.exact.is_plain(tau)
        for name in CODED:
            ones[name] = self.ones(name)
            if not plain:
                self.check(name, ones[name], self.exact.uniforms(name, Purpose.TRAIN_MASK, tau), tau)
            held, expected = self.model.state_dict()[name].double(), self.exact.weights(name, tau, ones[name].double())
            # The weights are those of the decisions: two roundings, and what u or the scale is off by.
            off = 4 * 2.0**-24 * expected.abs().max() if isinstance(self.exact, FedPM) else self.off(name, plain)
            assert float((held - expected).abs().max()) <= off, f"{name}: weights of step {tau}"
        for oracle in (self.exact, self.rough):
            oracle.step(tau, {k: v.to(oracle.dtype) for k, v in ones.items()}, x, y)
        self.rule.zero_grad()
        F.cross_entropy(self.model(x), y).backward()
        self.rule.step()

    def off(self, name: str, plain: bool) -> float:
        assert isinstance(self.exact, FedBAT)
        assert isinstance(self.rule, LearnedSign)
        rounding = 2 * 2.0**-24 * float(self.base[name].abs().max() + LIMITS[1])
        if plain:
            return rounding + float((self.mine(name) - self.exact.u(name)).abs().max())
        return rounding + abs(self.rule._scales()[CODED.index(name)] - self.exact.scale(name))

    def run(self) -> Frame:
        torch.manual_seed(4)
        for tau in range(1, STEPS + 1):
            self.step(tau, *batch(6 if tau % 3 else 2, 5))
            self.agree(tau)
        return self.rule.finish(weight=5)


def rows_of_scales(frame: Frame) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The table of scales and the signs of an update, read from the bytes by numpy alone."""
    section = frame.select(Role.UPDATE, Group.CODED)
    assert section is not None
    body = bytes(section.body)
    runs = int.from_bytes(body[:4], "little")
    table = np.frombuffer(body, np.dtype([("size", "<u8"), ("scale", "<f4")]), runs, 4)
    bits = np.unpackbits(np.frombuffer(body, np.uint8, offset=4 + 12 * runs), bitorder="little")
    return np.repeat(table["scale"], table["size"].astype(np.int64)), bits[: section.count].astype(bool)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("published", [False, True], ids=["straight", "probability"])
def test_fedpm_agrees_with_its_formulas_at_every_step_and_in_its_frame(optimiser: str, published: bool) -> None:
    lr = {"sgd": 6.0 if published else 3.0, "momentum": 1.0, "adam": 0.2}[optimiser]
    both = Lockstep("fedpm", optimiser, lr, **({"backward": True} if published else {}))
    start = {k: both.exact.moving[k].clone() for k in CODED}
    frame = both.run()
    # Scores went somewhere: else it would all be about the first draw.
    assert max(float((both.exact.moving[k] - start[k]).abs().max()) for k in CODED) > 0.5
    sent = decoded(frame, Group.CODED)
    assert set(np.unique(sent)) == {0.0, 1.0}
    for name in CODED:
        first, last = both.exact.places[name]
        ones = torch.from_numpy(sent[first:last] == 1).view(both.base[name].shape)
        both.check(name, ones, both.exact.uniforms(name, Purpose.FINAL_MASK))
        # The model holds the masked weights as sent.
        held, expected = both.model.state_dict()[name].double(), both.exact.frozen[name] * ones
        assert float((held - expected).abs().max()) <= 4 * 2.0**-24 * float(both.exact.frozen[name].abs().max())
    assert both.differing <= both.decisions // 200


class PublishedDraw(torch.autograd.Function):
    """The draw of the published code, with its own backward pass; it is told what fell."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, fell: Tensor) -> Tensor:
        ctx.save_for_backward(theta)
        return fell

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (theta,) = ctx.saved_tensors
        return theta * gradient, None


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_published_fedpm_is_the_published_layer(optimiser: str) -> None:
    """A linear layer whose scores are parameters, as the published code has it, trained by torch's own optimiser."""
    torch.manual_seed(5)
    model = nn.Linear(6, 4)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.uniform_(0.05, 0.95)
    scores = {k: torch.logit(v.detach().clone()).requires_grad_() for k, v in model.named_parameters()}
    make, _ = OPTIMISERS[optimiser]
    theirs = make(list(scores.values()), 0.5)
    broadcast = broadcast_of(model, "fedpm", told={"backward": True})
    rule = attach(model, make(model.parameters(), 0.5), broadcast, accept="any", steps=STEPS, sampling_key=KEY)
    assert isinstance(rule, ProbabilityMask)
    frozen = {k: rule._frozen[c.where].view(t.shape) for (k, t), c in zip(scores.items(), rule.coded, strict=True)}
    start = rule.moved.clone()
    for tau in range(STEPS):
        x, y = batch(6, 6)
        y = y % 4
        fell = {k: (v.detach() != 0).float() for k, v in model.named_parameters()}
        held = {k: frozen[k] * PublishedDraw.apply(torch.sigmoid(scores[k]), fell[k]) for k in scores}
        theirs.zero_grad()
        F.cross_entropy(F.linear(x, held["weight"], held["bias"]), y).backward()
        theirs.step()
        rule.zero_grad()
        F.cross_entropy(model(x), y).backward()
        rule.step()
        found = torch.cat([scores[k].detach().reshape(-1) for k in scores])
        # Float32 sums of a few terms in another order, in both.
        torch.testing.assert_close(rule.moved, found, rtol=2.0**-18, atol=2.0**-18, msg=f"step {tau}")
    assert float((rule.moved - start).abs().max()) > 0.01


def test_how_the_gradient_goes_is_told_to_clients() -> None:
    for word, told in (("straight", {}), ("probability", {"backward": True})):
        server = starting_server(small_net(), "fedpm", {"backward": word})
        assert read_terms(Frame.from_bytes(server.begin(1, ["a"]).broadcast("a"))) == told


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize(("warmup", "rho"), [(0.5, 6.0), (0.25, 30.0), (0.3, 0.0)])
def test_fedbat_agrees_with_its_formulas_at_every_step_and_in_its_frame(
    optimiser: str, warmup: float, rho: float
) -> None:
    lr = {"sgd": 0.05, "momentum": 0.02, "adam": 0.004}[optimiser]
    both = Lockstep("fedbat", optimiser, lr, warmup=warmup, rho=rho)
    frame = both.run()
    exact = both.exact
    assert isinstance(exact, FedBAT)
    assert sum(exact.between.values()) > 20
    assert sum(exact.beyond.values()) > 20
    assert all((exact.t[k] != 0) == (rho != 0) for k in CODED)
    scales, plus = rows_of_scales(frame)
    words = Stream(KEY, domain(Purpose.QUANTISE)).words(0, plus.size)
    draws = torch.from_numpy((words.astype(np.float64) + 0.5) * 2.0**-32)
    for index, name in enumerate(CODED):
        first, last = exact.places[name]
        np.testing.assert_array_equal(scales[first:last], np.float32(both.rule._scales()[index]))  # type: ignore[attr-defined]
        shape = both.base[name].shape
        ones = torch.from_numpy(plus[first:last]).view(shape)
        both.check(name, ones, draws[first:last].view(shape))
        # The model holds w + a sign, as the server reads it: one addition, rounded once.
        held = both.model.state_dict()[name]
        a = torch.from_numpy(scales[first:last]).view(shape)
        assert torch.equal(held, both.base[name] + torch.where(ones, a, -a))
    assert both.differing <= both.decisions // 200


def test_the_comparison_notices_a_slope_that_lacks_the_frozen_weights_sign() -> None:
    both = Lockstep("fedpm", "sgd", 3.0)
    for oracle in (both.exact, both.rough):
        assert isinstance(oracle, FedPM)
        oracle.frozen["0.bias"] = -oracle.frozen["0.bias"]
    with pytest.raises(AssertionError, match=r"0\.bias"):
        both.run()


def test_the_comparison_notices_scales_that_do_not_move() -> None:
    both = Lockstep("fedbat", "sgd", 0.05)
    for oracle in (both.exact, both.rough):
        assert isinstance(oracle, FedBAT)
        oracle.rho = 0.0
    with pytest.raises(AssertionError, match=r"[03]\.(weight|bias)"):
        both.run()


def pushed(
    name: str, w: list[float], lr: float, *, steps: int = 4, key: int = 5, **options: float
) -> tuple[Pushed, Through]:
    """A rule over a vector, attached to a broadcast of these coded values."""
    model = Pushed(len(w))
    with torch.no_grad():
        model.w.copy_(torch.tensor(w))
    rule = attach(
        model,
        torch.optim.SGD(model.parameters(), lr=lr),
        broadcast_of(model, name, told=options),
        accept="any",
        steps=steps,
        sampling_key=key,
    )
    assert isinstance(rule, Through)
    return model, rule


def push(model: Pushed, rule: Through, gradient: list[float], n: int = 1) -> None:
    for _ in range(n):
        rule.zero_grad()
        model.pushed(torch.tensor(gradient)).backward()
        rule.step()


class TestFedPM:
    """What FedPM's rule does at the edges."""

    def test_scores_of_probabilities_at_the_servers_ends_are_finite_and_right(self) -> None:
        _, rule = pushed("fedpm", [0.01, 0.5, 0.99], 0.1)
        expected = [logit(p) for p in np.array([0.01, 0.5, 0.99], np.float32).astype(float)]
        assert rule.moved.tolist() == pytest.approx(expected, rel=2.0**-20, abs=2.0**-22)

    def test_probabilities_of_zero_and_one_do_not_make_infinite_scores(self) -> None:
        model, rule = pushed("fedpm", [0.0, 1.0], 0.1, steps=1)
        push(model, rule, [1.0, 1.0])
        assert bool(torch.isfinite(rule.moved).all())
        # p is within 2e-6 of the ends, far below every draw of this key.
        assert decoded(rule.finish(weight=1), Group.CODED).tolist() == [0.0, 1.0]

    def test_every_step_draws_a_new_mask_with_the_probabilities(self) -> None:
        size, steps = 400, 30
        model, rule = pushed("fedpm", [0.3] * size, 0.0, steps=steps)
        seen = []
        for _ in range(steps):
            seen.append(model.w.detach() != 0)
            push(model, rule, [0.0] * size)
        share = float(torch.stack(seen).float().mean())
        # 12000 draws: the standard error is 0.0042; five of them.
        assert abs(share - 0.3) <= 5 * (0.3 * 0.7 / (size * steps)) ** 0.5
        assert len({tuple(mask.tolist()) for mask in seen}) == steps

    def test_the_mean_of_what_is_sent_over_keys_is_the_probability(self) -> None:
        size, keys = 200, 200
        p = np.linspace(0.02, 0.98, size)
        total = np.zeros(size)
        for key in range(keys):
            model, rule = pushed("fedpm", p.tolist(), 0.0, steps=1, key=key)
            push(model, rule, [0.0] * size)
            total += decoded(rule.finish(weight=1), Group.CODED)
        # Five standard errors each: 200 of them, and fixed keys.
        assert (np.abs(total / keys - p) <= 5 * np.sqrt(p * (1 - p) / keys)).all()

    def test_the_servers_probabilities_come_back_as_the_mean_of_the_masks(self) -> None:
        """Two clients: the new state is 0.01 + 0.98 times the mean of the masks, clients counting alike."""
        model = small_net()
        server = starting_server(model, "fedpm")
        coded = ModelLayout.of(model).layout.span(Group.CODED)
        np.testing.assert_array_equal(server.state[coded], 0.5)
        round_ = server.begin(1, ["a", "b"])
        sent = []
        for place, client in enumerate(("a", "b")):
            rule = attach(
                model,
                torch.optim.Adam(model.parameters(), lr=0.1),
                round_.broadcast(client),
                accept="any",
                steps=1,
                sampling_key=place,
            )
            x, y = batch(6, 5)
            F.cross_entropy(model(x), y).backward()
            rule.step()
            frame = rule.finish(weight=1 + 100 * place)
            sent.append(decoded(frame, Group.CODED))
            round_.add(client, frame.to_bytes())
        expected = 0.01 + 0.98 * (sent[0].astype(np.float64) + sent[1]) / 2
        assert np.abs(round_.finish()[coded] - expected).max() <= 4 * 2.0**-24
        assert not np.array_equal(*sent)


class TestFedBAT:
    """Where the warm-up ends, and what the scale may be."""

    @pytest.mark.parametrize(
        ("steps", "warmup", "plain"),
        [(1, 0.5, 1), (1, 1.0, 1), (1, 0.0, 1), (4, 0.0, 1), (4, 0.5, 2), (5, 0.5, 2), (4, 1.0, 4), (4, 0.24, 1)],
    )
    def test_the_first_steps_are_plain_and_all_later_ones_are_not(self, steps: int, warmup: float, plain: int) -> None:
        w = torch.linspace(-1, 1, 6)
        model, rule = pushed("fedbat", w.tolist(), 0.01, steps=steps, warmup=warmup)
        gradient = [1.0, -2.0, 3.0, -4.0, 5.0, -6.0]
        found = []
        for _ in range(steps):
            found.append(bool(torch.equal(model.w.detach(), w + rule.u)))
            push(model, rule, gradient)
        assert found == [True] * plain + [False] * (steps - plain)
        # After the last step the model is at a codeword, warm-up or not.
        apart = (model.w.detach() - w).abs()
        assert isinstance(rule, LearnedSign)
        (a,) = rule._scales()
        assert float((apart - a).abs().max()) <= 2.0**-23
        frame = rule.finish(weight=1)
        assert np.unique(np.abs(decoded(frame, Group.CODED))).tolist() == [np.float32(a)]

    def test_the_scale_starts_at_the_mean_magnitude_of_the_plain_steps(self) -> None:
        model, rule = pushed("fedbat", [0.0] * 4, 0.01, steps=2, warmup=0.5)
        push(model, rule, [1.0, -2.0, 3.0, -0.5])
        assert isinstance(rule, LearnedSign)
        assert rule._scales() == pytest.approx([0.01 * 6.5 / 4], rel=2.0**-21)

    def test_a_warm_up_of_all_steps_sends_the_plain_update_with_its_mean_magnitude(self) -> None:
        model, rule = pushed("fedbat", [0.0] * 4, 0.001, steps=3, warmup=1.0)
        gradient = [1.0, -2.0, 3.0, -5.0]
        push(model, rule, gradient, 3)
        np.testing.assert_allclose(rule.u.numpy(), -0.003 * np.array(gradient), rtol=2.0**-21)
        scales, _ = rows_of_scales(rule.finish(weight=1))
        np.testing.assert_allclose(scales, 0.003 * 11 / 4, rtol=2.0**-21)

    @pytest.mark.parametrize(("gradient", "limit"), [(1e-4, LIMITS[0]), (1e3, LIMITS[1]), (0.0, LIMITS[0])])
    def test_the_scale_stays_within_its_limits(self, gradient: float, limit: float) -> None:
        model, rule = pushed("fedbat", [0.0] * 4, 0.01, steps=4, warmup=0.5)
        push(model, rule, [gradient, -gradient, gradient, gradient], 4)
        scales, _ = rows_of_scales(rule.finish(weight=1))
        np.testing.assert_array_equal(scales, np.float32(limit))

    @pytest.mark.parametrize("towards", [1.0, -1.0])
    def test_a_scale_that_the_loss_wants_otherwise_goes_there_and_stops_at_the_limit(self, towards: float) -> None:
        """u is at +-4a for three elements of 24, and only these have a gradient: what they want is what happens."""
        u = torch.tensor([0.04, 0.04, -0.04, *([0.0] * 21)])
        model, rule = pushed("fedbat", [0.0] * 24, 1.0, steps=2000, warmup=0.0)
        assert isinstance(rule, LearnedSign)
        rule._first = [0.01]
        rule.draw()
        gradient = torch.where(u != 0, towards * u.sign(), 0.0)
        before, limit = rule._scales()[0], LIMITS[0 if towards > 0 else 1]
        for _ in range(40):
            rule.moved.copy_(rule.base + u)
            push(model, rule, gradient.tolist())
            (after,) = rule._scales()
            if before != limit:
                assert (after < before) is (towards > 0)
            before = after
        assert before == limit

    def test_a_leap_of_the_scale_is_stopped_at_the_limit_without_overflow(self) -> None:
        model, rule = pushed("fedbat", [0.0], 1.0, steps=2, warmup=0.5)
        push(model, rule, [0.01])
        u = float(rule.u[0])
        assert isinstance(rule, LearnedSign)
        assert rule._scales() == pytest.approx([0.01])
        # A gradient that wants the scale larger, whatever the sign is: u outside, and pushed further out.
        rule.moved[0] = rule.base[0] + 2 * u
        push(model, rule, [1e6])
        assert rule._exponent[0] * rule.rho > 1000
        assert rule._scales() == [LIMITS[1]]
        assert rule.finish(weight=1).weight == 1

    def test_a_client_that_stops_within_the_warm_up_sends_the_mean_magnitude_so_far(self) -> None:
        model, rule = pushed("fedbat", [0.0] * 4, 0.01, steps=4, warmup=0.75)
        push(model, rule, [1.0, -2.0, 3.0, -0.5])
        with pytest.warns(UserWarning, match="after 1 of 4 steps"):
            frame = rule.finish(weight=1)
        scales, _ = rows_of_scales(frame)
        np.testing.assert_allclose(scales, 0.01 * 6.5 / 4, rtol=2.0**-21)
        np.testing.assert_array_equal(model.w.detach().numpy(), decoded(frame, Group.CODED))

    @pytest.mark.parametrize(("first", "exponent"), [(2 * LIMITS[1], 0.0), (0.01, -1.0), (0.01, 1.0)])
    def test_a_scale_beyond_a_limit_does_not_learn(self, first: float, exponent: float) -> None:
        """The clip's slope is zero there, as autograd has it."""
        model, rule = pushed("fedbat", [0.0] * 4, 0.1, steps=1, warmup=0.0)
        assert isinstance(rule, LearnedSign)
        rule._first, rule._exponent = [first], [exponent]
        rule.draw()
        t = torch.tensor(exponent, requires_grad=True)
        (first * (6.0 * t).exp()).clamp(*LIMITS).backward()
        assert t.grad == 0
        push(model, rule, [1.0, 2.0, 4.0, 8.0])
        assert rule._exponent == [exponent]

    def test_each_scale_learns_at_its_own_tensors_rate(self) -> None:
        def exponents(first: float, last: float) -> list[float]:
            torch.manual_seed(8)
            model = small_net()
            groups = [
                {"params": [*model[0].parameters(), *model[1].parameters()], "lr": first},
                {"params": model[3].parameters(), "lr": last},
            ]
            broadcast = broadcast_of(model, "fedbat", told={"warmup": 0.0})
            rule = attach(model, torch.optim.SGD(groups, lr=1.0), broadcast, accept="any", steps=1, sampling_key=KEY)
            assert isinstance(rule, LearnedSign)
            rule._first = [0.01] * 4
            rule.draw()
            F.cross_entropy(model(torch.ones(2, 5)), torch.tensor([0, 1])).backward()
            rule.step()
            return rule._exponent

        # A power of two, so that the ratio is exact.
        one, other = exponents(0.125, 0.25), exponents(0.125, 0.0)
        same = exponents(0.25, 0.25)
        assert all(one)
        assert one == [same[0] / 2, same[1] / 2, *same[2:]]
        assert other == [*one[:2], 0.0, 0.0]

    @pytest.mark.parametrize("name", ["fedpm", "fedbat"])
    def test_schedulers_and_weight_decay_act_on_what_is_moved(self, name: str) -> None:
        """FedBAT's weights, FedPM's scores: as torch alone moves such a tensor, to the bit."""
        model = Pushed(4)
        with torch.no_grad():
            model.w.copy_(torch.tensor([0.1, 0.3, 0.7, 0.9]))

        def decaying(p: Tensor) -> torch.optim.Optimizer:
            return torch.optim.SGD([p], lr=0.5, momentum=0.9, weight_decay=0.1)

        told = {"warmup": 1.0} if name == "fedbat" else {}
        rule = attach(model, decaying(model.w), broadcast_of(model, name, told=told), accept="any", steps=4)
        assert isinstance(rule, Through)
        alone = nn.Parameter(rule.moved.clone())
        plain = decaying(alone)
        schedules = [torch.optim.lr_scheduler.StepLR(each, step_size=1, gamma=0.5) for each in (rule, plain)]
        push_by = torch.ones(4) if name == "fedbat" else torch.zeros(4)  # scores have a gradient of their own
        for _ in range(4):
            rule.zero_grad()
            model.pushed(push_by).backward()
            alone.grad = push_by.clone()
            rule.step()
            plain.step()
            for schedule in schedules:
                schedule.step()
        assert torch.equal(rule.moved, alone.detach())
        assert not torch.equal(rule.moved, model.w.detach())

    @pytest.mark.parametrize(
        "options", [{"warmup": -0.01}, {"warmup": 1.01}, {"warmup": float("nan")}, {"rho": -1.0}, {"rho": float("nan")}]
    )
    def test_a_warm_up_or_a_rho_out_of_range_is_refused(self, options: dict[str, float]) -> None:
        model = Pushed(1)
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(ConfigError, match=r"warmup is a share of the steps, 0 to 1, and rho at least 0"):
            LearnedSign(model, sgd, broadcast_of(model, "fedbat"), steps=1, **{"warmup": 0.5, "rho": 6.0, **options})

    def test_signs_are_unbiased_where_the_update_is_within_the_scale(self) -> None:
        """Given u and a, the mean of the weights over steps is w + u; a draw's variance is a^2 - u^2."""
        size, steps = 60, 400
        w = torch.linspace(-1, 1, size)
        model, rule = pushed("fedbat", w.tolist(), 0.0, steps=steps, warmup=0.0)
        assert isinstance(rule, LearnedSign)
        rule._first, a = [0.01], 0.01
        u = torch.linspace(-0.009, 0.009, size)
        rule.moved.copy_(rule.base + u)
        rule.draw()
        u = rule.u  # w + u was rounded
        total = torch.zeros(size, dtype=torch.float64)
        for _ in range(steps):
            total += model.w.detach().double() - w
            push(model, rule, [0.0] * size)
        error = np.sqrt((a**2 - u.double().numpy() ** 2) / steps)
        assert (np.abs((total / steps - u).numpy()) <= 5 * error + 2.0**-23).all()


@pytest.mark.parametrize("name", ["fedpm", "fedbat"])
def test_a_layer_that_nothing_uses_stays_where_it_was_behind_its_codes(name: str) -> None:
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(4, 2))
    broadcast = starting_server(model, name).begin(1, ["a"]).broadcast("a")
    rule = attach(
        model, torch.optim.Adam(model.parameters(), lr=0.1), broadcast, accept="any", steps=4, sampling_key=KEY
    )
    assert isinstance(rule, Through)
    start = rule.moved.clone()
    for _ in range(4):
        x, y = batch(6, 5)
        rule.zero_grad()
        F.cross_entropy(model[0](x), y).backward()
        rule.step()
    used = 5 * 3 + 3
    assert torch.equal(rule.moved[used:], start[used:])
    assert not torch.equal(rule.moved[:used], start[:used])
    if isinstance(rule, LearnedSign):
        assert rule._exponent[2:] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (ProbabilityMask, "fedmrn", "does not ask for masks of frozen weights"),
        (ProbabilityMask, "fedavg", "does not ask for masks of frozen weights"),
        (LearnedSign, "signsgd", "does not ask for signs with learned scales"),
        (LearnedSign, "signsgd-stochastic", "does not ask for signs with learned scales"),
        (LearnedSign, "fedpm", "does not ask for signs with learned scales"),
    ],
)
def test_a_broadcast_that_asks_for_another_codec_is_refused(kind: type[Through], wrong: str, message: str) -> None:
    model: nn.Module = small_net()
    broadcast = starting_server(small_net(), wrong).begin(1, ["a"]).broadcast("a")
    before = values(model.state_dict())
    options = {"warmup": 0.5, "rho": 6.0} if kind is LearnedSign else {"backward": False}
    with pytest.raises(UnsupportedModelError, match=message):
        kind(model, torch.optim.SGD(model.parameters(), lr=0.1), broadcast, steps=1, **options)
    # Nothing of the model was changed, and the parameters were not taken into a buffer.
    np.testing.assert_equal(values(model.state_dict()), before)
    assert all(p.untyped_storage().nbytes() == 4 * p.numel() for p in model.parameters())


# --- masks whose bits are coded ---------------------------------------------------------------------------------------


def wide_net() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(40, 50), nn.BatchNorm1d(50), nn.ReLU(), nn.Linear(50, 3))


def trained(name: str, lr: float, **options: object) -> tuple[Frame, bytes, dict[str, NDArray[np.float32]]]:
    """The frame of a client after five steps at one scale, its broadcast, and the model that it is left with."""
    model = wide_net()
    options = {"scale": 0.005 if name.startswith("fedmrn-s") else 0.01, **options}
    told = {"stochastic": bool(options.pop("stochastic", True))}
    broadcast = starting_server(model, name, options, told).begin(1, ["a"]).broadcast("a")
    rule = attach(model, torch.optim.SGD(model.parameters(), lr=lr), broadcast, accept="any", steps=5, sampling_key=KEY)
    torch.manual_seed(4)
    for _ in range(5):
        x, y = batch(20, 40)
        rule.zero_grad()
        F.cross_entropy(model(x), y).backward()
        rule.step()
    return rule.finish(weight=3), broadcast, values(model.state_dict())


def coded_body(frame: Frame) -> bytes:
    section = frame.select(Role.UPDATE, Group.CODED)
    assert section is not None
    return bytes(section.body)


@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("lr", [0.01, 1.0])
@pytest.mark.parametrize("name", MASKED)
def test_coding_changes_nothing_but_the_bytes(name: str, lr: float, stochastic: bool) -> None:
    raw, _, model = trained(name, lr, coding="raw", stochastic=stochastic)
    coded, _, same = trained(name, lr, coding="entropy", stochastic=stochastic)
    assert model.keys() == same.keys()
    assert all(model[k].tobytes() == same[k].tobytes() for k in model)
    for group in Group:
        assert decoded(raw, group).tobytes() == decoded(coded, group).tobytes()
    assert len(coded_body(coded)) <= 1 + len(coded_body(raw))
    if (name, lr, stochastic) == ("fedmrn", 0.01, True):
        assert coded_body(coded)[0] == 1
        assert len(coded_body(coded)) < 0.9 * len(coded_body(raw))


@pytest.mark.parametrize("lr", [0.01, 1.0])
@pytest.mark.parametrize("name", ["fedmrn-mrc", "fedmrn-s-mrc"])
def test_random_codes_train_and_finish_with_what_the_server_sees(name: str, lr: float) -> None:
    frame, broadcast, model = trained(name, lr)
    view = ModelLayout.of(wide_net())
    start = view.read()
    section = frame.select(Role.UPDATE, Group.CODED)
    assert section is not None
    codec = codec_from(section.codec, section.params)
    assert isinstance(codec, RandomCode)
    span = view.layout.span(Group.CODED)
    noise = codec.inner.noise.chunk(Frame.from_bytes(broadcast).noise_key, 0, span.stop)
    update = decoded(frame, Group.CODED)
    lower = -noise if name == "fedmrn-s-mrc" else np.zeros_like(noise)
    ones = update == noise
    assert (ones | (update == lower)).all()
    assert 0.01 < ones.mean() < 0.99
    for spec, where in zip(view.layout.tensors, view.layout.slices.values(), strict=True):
        if spec.group is Group.CODED:
            np.testing.assert_array_equal(model[spec.name].ravel(), start[where] + update[where])
    if lr == 0.01:
        assert section.body[0] == 1
        assert len(section.body) < 0.85 * section.count / 8


@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize(("name", "code"), [("fedmrn", "fedmrn-mrc"), ("fedmrn-s", "fedmrn-s-mrc")])
def test_random_codes_are_of_the_final_mask_alone(name: str, code: str, stochastic: bool) -> None:
    """Training draws by the client's own key: the update before the mask is that of the row without a code."""
    rules = []
    for row in (name, code):
        model = wide_net()
        server = starting_server(model, row, {"scale": 0.01, "noise": "uniform"}, {"stochastic": stochastic})
        broadcast = server.begin(1, ["a"]).broadcast("a")
        sgd = torch.optim.SGD(model.parameters(), lr=0.01)
        rule = attach(model, sgd, broadcast, accept="any", steps=3, sampling_key=KEY)
        torch.manual_seed(4)
        for _ in range(3):
            x, y = batch(20, 40)
            rule.zero_grad()
            F.cross_entropy(model(x), y).backward()
            rule.step()
        assert isinstance(rule, Through)
        rules.append(rule)
    drawn, coded = rules
    assert torch.equal(drawn.u, coded.u)
    frames = [rule.finish(weight=1) for rule in rules]
    section = frames[1].select(Role.UPDATE, Group.CODED)
    assert section is not None
    codec = codec_from(section.codec, section.params)
    assert isinstance(codec, RandomCode)
    codec = replace(codec, inner=replace(codec.inner, stochastic=stochastic))
    keys = EncodeKeys(frames[1].noise_key, 0, coded.view.layout.sizes(Group.CODED))
    assert section.body == codec.encode(coded.u.numpy(), keys)
    # Nearer codewords of a signed mask are a bit of information each: not worth a code.
    assert (section.body[0] == 1) is (stochastic or name == "fedmrn")
    same = np.array_equal(*(decoded(frame, Group.CODED) for frame in frames))
    assert same is (section.body[0] == 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["fedpm", "fedbat"])
def test_sparse_gradients_of_an_embedding_train_as_dense_ones(name: str, dtype: torch.dtype) -> None:
    start = nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, 3)).to(dtype)
    frames, broadcast = [], starting_server(start, name).begin(1, ["a"]).broadcast("a")
    for sparse in (True, False):
        model = nn.Sequential(nn.EmbeddingBag(9, 4, sparse=sparse), nn.Linear(4, 3)).to(dtype)
        rule = attach(
            model, torch.optim.SGD(model.parameters(), lr=0.1), broadcast, accept="any", steps=3, sampling_key=3
        )
        for step in range(3):
            rule.zero_grad()
            model(torch.tensor([[1, 2, 3], [step, 5, 7]])).float().logsumexp(1).sum().backward()
            rule.step()
        frames.append(rule.finish(weight=1).to_bytes())
    assert frames[0] == frames[1]
