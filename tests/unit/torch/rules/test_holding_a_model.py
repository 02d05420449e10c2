"""Who trains a model, whose weights a call of the optimiser's own sees, and what counts as a step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from federating import Pushed, broadcast_of, decoded, starting_server
from torch import Tensor, nn
from torch.nn import functional as F

from fedmrn.errors import ConfigError, UnsupportedModelError
from fedmrn.torch import LocalRule, attach
from fedmrn.torch.ranks import Ranks
from fedmrn.torch.rules.learned import LearnedSign
from fedmrn.torch.rules.optimizers import Together, check_optimizers, stepped
from fedmrn.torch.rules.through import Through
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group

SIZE = 12


def sgd(model: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.125, **settings)


def attached(model: nn.Module, optimizer: Any, name: str = "fedmrn-s", **told: float) -> Through:
    broadcast = starting_server(model, name, told=told).begin(1, ["a"]).broadcast("a")
    rule = attach(model, optimizer, broadcast, accept="any", steps=8, sampling_key=3)
    assert isinstance(rule, Through)
    return rule


def push(model: Pushed, rule: LocalRule, by: float = 1.0) -> None:
    rule.zero_grad()
    model.pushed(torch.full((SIZE,), by)).backward()
    rule.step()


class TestOptimisers:
    """What `attach` takes, and several as one."""

    @pytest.mark.parametrize("given", [None, [], (), "sgd", [None], {"a": 1}])
    def test_what_is_no_optimiser_is_refused(self, given: Any) -> None:
        with pytest.raises(ConfigError, match="takes an optimiser of torch, or a list of them, got"):
            check_optimizers(given)

    @pytest.mark.parametrize("listed", [False, True])
    def test_a_wrapper_is_not_wrapped_again(self, listed: bool) -> None:
        model = Pushed(SIZE)
        rule = attached(model, sgd(model))
        with pytest.raises(ConfigError, match="a wrapper of attach already"):
            attached(model, [rule] if listed else rule)
        push(model, rule)  # and goes on

    def test_several_have_the_groups_of_all_and_clear_all_gradients(self) -> None:
        model = nn.Linear(3, 2)
        together = Together([torch.optim.SGD([p], lr=0.1) for p in model.parameters()])
        assert [group["params"] for group in together.param_groups] == [[p] for p in model.parameters()]
        model(torch.ones(1, 3)).sum().backward()
        together.zero_grad(set_to_none=False)
        assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
        together.zero_grad()
        assert all(p.grad is None for p in model.parameters())
        with pytest.raises(AttributeError, match=r"state_dict_of_mine.*one of opt\.optimizers"):
            together.state_dict_of_mine()

    def test_a_step_of_another_model_is_not_one_of_this(self) -> None:
        model, other = nn.Linear(2, 2), nn.Linear(2, 2)
        own, foreign = sgd(model), sgd(other)
        with stepped(model.parameters()) as found:
            foreign.step()
            assert not found
            own.step()
            own.step()
        own.step()
        assert found == [own, own]


class Sharp(torch.optim.SGD):
    """A step that goes to another point first, as SAM's; nothing of it is torch's."""

    def first_step(self) -> Tensor:
        (p,) = self.param_groups[0]["params"]
        self.seen = p.detach().clone()
        p.data += 0.25
        return self.seen

    def second_step(self) -> None:
        (p,) = self.param_groups[0]["params"]
        p.data -= 0.25
        self.step()


class TestCallsOfItsOwn:
    """Methods of the inner optimiser's own."""

    def test_they_see_what_is_moved_the_weights_follow_and_steps_are_counted_where_taken(self) -> None:
        model = Pushed(SIZE)
        rule = attached(model, Sharp(model.parameters(), lr=0.125))
        start, before = rule.moved.clone(), model.w.detach().clone()
        model.pushed(torch.ones(SIZE)).backward()
        assert torch.equal(rule.first_step(), start)
        assert rule.taken == 0
        assert torch.equal(rule.moved, start + 0.25)
        assert not torch.equal(model.w, before)
        rule.second_step()
        assert rule.taken == 1
        alone = nn.Parameter(start.clone())
        plain = Sharp([alone], lr=0.125)
        alone.grad = torch.ones(SIZE)
        plain.first_step()
        plain.second_step()
        assert torch.equal(rule.moved, alone.detach())

    def test_after_finish_they_are_those_of_an_ordinary_optimiser(self) -> None:
        model = Pushed(SIZE)
        rule = attached(model, Sharp(model.parameters(), lr=0.125))
        for _ in range(8):
            push(model, rule)
        rule.finish(weight=1)
        held = model.w.detach().clone()
        assert torch.equal(rule.first_step(), held)
        assert torch.equal(model.w, held + 0.25)


class Peeking(torch.optim.Optimizer):
    """Computes the loss after it has moved, twice."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        assert closure is not None
        (p,) = self.param_groups[0]["params"]
        losses = []
        for _ in range(2):
            p += 0.5
            losses.append(closure())
        return losses


@pytest.mark.parametrize("name", ["fedmrn-s", "fedpm"])
def test_a_closure_after_a_move_sees_the_codes_of_where_the_optimiser_is(name: str) -> None:
    model = Pushed(SIZE)
    rule = attached(model, Peeking(model.parameters()), name, **({} if name == "fedpm" else {"progressive": False}))
    seen, drawn = [], []

    def closure() -> int:
        seen.append(model.w.detach().clone())
        drawn.append(rule.drawn(rule.coded[0]).view(-1).clone())
        assert torch.is_grad_enabled()
        return len(seen)

    start = rule.moved.clone()
    assert rule.step(closure) == [1, 2]
    assert torch.equal(rule.moved, start + 0.5 + 0.5)
    assert all(torch.equal(a, b) for a, b in zip(seen, drawn, strict=True))


class TestWhoTrains:
    """Two attachments over one model."""

    @pytest.mark.parametrize("ask", [lambda r: r.state_dict(), lambda r: r.load_state_dict(r.state_dict())])
    def test_what_the_first_is_asked_leaves_the_weights_of_the_second_alone(self, ask: Callable[[Any], Any]) -> None:
        model = Pushed(SIZE)
        first = attached(model, sgd(model, momentum=0.9))
        push(model, first)
        second = attached(model, sgd(model, momentum=0.9))
        weights, place = model.w.detach().clone(), model.w.data_ptr()
        ask(first)
        assert torch.equal(model.w, weights)
        assert model.w.data_ptr() == place
        with pytest.raises(ConfigError, match=r"another attach .* attach\(model, \[first, second\]"):
            first.step()
        push(model, second)

    def test_an_attachment_that_is_refused_leaves_the_first_training(self) -> None:
        def frame(disturb: bool) -> bytes:
            model = Pushed(SIZE)
            rule = attached(model, sgd(model))
            for _ in range(8):
                if disturb:
                    wrong = broadcast_of(Pushed(SIZE), "fedavg")
                    with pytest.raises(UnsupportedModelError, match="signs with learned scales"):
                        LearnedSign(model, sgd(model), wrong, steps=1, warmup=0.5, rho=6.0)
                push(model, rule)
            return rule.finish(weight=1).to_bytes()

        assert frame(disturb=True) == frame(disturb=False)

    @pytest.mark.parametrize("name", ["fedmrn-s", "fedpm", "fedbat"])
    def test_what_is_asked_after_finish_leaves_the_model_alone(self, name: str) -> None:
        model = Pushed(SIZE)
        rule = attached(model, sgd(model, momentum=0.9), name)
        for _ in range(8):
            push(model, rule)
        rule.finish(weight=1)
        held, place = model.w.detach().clone(), model.w.data_ptr()
        rule.load_state_dict(rule.state_dict())
        assert torch.equal(model.w, held)
        assert model.w.data_ptr() == place


class TestEdits:
    """What is written into the model between steps, where codes are not those of noise."""

    def test_signs_of_learned_scales_go_on_from_what_was_written(self) -> None:
        model = Pushed(SIZE)
        rule = attached(model, sgd(model), "fedbat", warmup=0.0)
        push(model, rule)
        moved = rule.moved.clone()
        with torch.no_grad():
            model.w[3] = 0.5
        moved[3] = 0.5
        alone = nn.Parameter(moved)
        model.pushed(torch.zeros(SIZE)).backward()
        rule.zero_grad()
        rule.step()
        assert torch.equal(rule.moved, alone.detach())

    def test_frozen_weights_under_a_mask_cannot_be_written(self) -> None:
        model = Pushed(SIZE)
        rule = attached(model, sgd(model), "fedpm")
        with torch.no_grad():
            model.w.clamp_(-1e9, 1e9)  # writes what is there
        push(model, rule)
        with torch.no_grad():
            model.w[3] += 0.5
        with pytest.raises(UnsupportedModelError, match=r"^w was written to .* only their probabilities are trained"):
            rule.step()

    @pytest.mark.parametrize("name", ["fedavg", "fedmrn", "fedpm", "fedbat"])
    def test_a_model_converted_there_and_back_gives_the_same_frame(self, name: str) -> None:
        def frame(convert: bool) -> tuple[bytes, bytes]:
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
            broadcast = starting_server(model, name).begin(1, ["a"]).broadcast("a")
            rule = attach(model, sgd(model), broadcast, accept="any", steps=4, sampling_key=3)
            for _ in range(4):
                if convert:
                    model.double().float()
                rule.zero_grad()
                F.cross_entropy(model(torch.ones(2, 4)), torch.tensor([0, 1])).backward()
                rule.step()
            sent = rule.finish(weight=1)
            assert decoded(sent, Group.CODED).any()
            return sent.to_bytes(), rule.view.read().tobytes()

        assert frame(convert=True) == frame(convert=False)


def test_one_process_keeps_its_key_its_frame_and_its_tensors() -> None:
    model = Pushed(SIZE)
    ranks = Ranks(model, torch.device("cpu"))
    frame = Frame.from_bytes(broadcast_of(model))
    held = model.w.detach().clone()
    assert ranks.first_key(2**64 - 1) == 2**64 - 1
    assert ranks.first_frame(frame) is frame
    ranks.share([model.w])
    assert torch.equal(model.w, held)
