"""Local training that changes what no update carries: refused at the next step or at the end, by the tensor's name."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from federating import decoded, server_of
from torch import Tensor, nn
from torch.nn import functional as F

from fedmrn.errors import UnsupportedModelError
from fedmrn.torch import LocalRule, ModelLayout, Selection, attach
from fedmrn.wire.layout import Group

STEPS = 3


class Tuned(nn.Module):
    """A frozen base of bfloat16 with a table, a teacher, a codebook that training moves, and a head."""

    def __init__(self, *, moves: bool = False) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.moves = moves
        self.base = nn.Linear(6, 8).bfloat16().requires_grad_(False)
        self.base.register_buffer("table", torch.ones(8, dtype=torch.bfloat16))
        self.teacher = nn.Linear(8, 3).requires_grad_(False)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)
        self.register_buffer("codebook", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        if self.moves and self.training:
            self.codebook += 1
        return self.head(self.norm((self.base(x.bfloat16()) * self.base.table).float()))


def client(model: Tuned, selection: Selection = Selection(), name: str = "fedmrn") -> LocalRule:  # noqa: B008 - immutable
    broadcast = server_of(Tuned(), name, scale=0.1, choose=selection).begin(1, ["a"]).broadcast("a")
    trained = [p for p in model.parameters() if p.requires_grad]
    return attach(
        model, torch.optim.SGD(trained, lr=0.1), broadcast, accept="any", steps=STEPS, sampling_key=3, choose=selection
    )


def step(model: nn.Module, rule: LocalRule) -> None:
    rule.zero_grad()
    F.cross_entropy(model(torch.randn(9, 6)), torch.randint(0, 3, (9,))).backward()
    rule.step()


every_rule = pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s", "fedavg"])


@every_rule
def test_a_frozen_base_of_another_type_is_left_as_it_is(name: str) -> None:
    model = Tuned()
    before = copy.deepcopy(model.state_dict())
    rule = client(model, name=name)
    for _ in range(STEPS):
        step(model, rule)
    assert decoded(rule.finish(weight=9), Group.CODED).any()
    for key, value in model.state_dict().items():
        if key.startswith(("base", "teacher", "codebook")):
            assert value.dtype == before[key].dtype
            assert torch.equal(value, before[key]), key
    assert not torch.equal(model.norm.running_mean, before["norm.running_mean"])


CHANGES: dict[str, tuple[Callable[[Tuned], object], str]] = {
    "a layer unfrozen": (lambda m: m.base.requires_grad_(True), r"base\.weight was frozen at attach .*before attach"),
    "a teacher that follows": (
        lambda m: m.teacher.load_state_dict(m.head.state_dict()),
        r"frozen parameters teacher\.weight, teacher\.bias changed .*Selection\(local=",
    ),
    "a buffer": (lambda m: m.codebook.add_(1), r"buffer codebook changed .*Selection\(statistics=\['codebook'\]\)"),
    "a table": (lambda m: m.base.table.zero_(), r"buffer base\.table changed"),
    "weights assigned": (
        lambda m: m.load_state_dict(copy.deepcopy(m.state_dict()), assign=True),
        r"was replaced by another object",
    ),
    "a new head": (lambda m: setattr(m, "head", nn.Linear(8, 3)), r"head\.weight was replaced by another object"),
    "a layer added": (lambda m: m.add_module("more", nn.Linear(2, 2)), r"parameter more\.weight was added after"),
}


@every_rule
@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_refused_at_the_next_step(change: Callable[[Tuned], object], message: str, name: str) -> None:
    model = Tuned()
    rule = client(model, name=name)
    step(model, rule)
    change(model)
    with pytest.raises(UnsupportedModelError, match=message):
        step(model, rule)


@every_rule
@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_change_after_the_last_step_is_refused_by_finish(
    change: Callable[[Tuned], object], message: str, name: str
) -> None:
    model = Tuned()
    rule = client(model, name=name)
    for _ in range(STEPS):
        step(model, rule)
    change(model)
    with pytest.raises(UnsupportedModelError, match=message):
        rule.finish(weight=9)


@pytest.mark.parametrize("change", [lambda m: m.base.weight.data.mul_(2), lambda m: m.codebook.data.add_(1)])
def test_a_change_by_data_is_refused_by_finish(change: Callable[[Tuned], object]) -> None:
    model = Tuned()
    rule = client(model)
    for _ in range(STEPS):
        step(model, rule)
        change(model)
    with pytest.raises(UnsupportedModelError, match=r"(base\.weight|codebook) changed in local training"):
        rule.finish(weight=9)


def test_a_buffer_that_forward_changes_is_refused_and_each_way_out_helps() -> None:
    model = Tuned(moves=True)
    rule = client(model)
    with pytest.raises(UnsupportedModelError, match="buffer codebook changed"):
        step(model, rule)
    for selection in (Selection(local=["codebook"]), Selection(statistics=["codebook"])):
        model = Tuned(moves=True)
        rule = client(model, selection)
        for _ in range(STEPS):
            step(model, rule)
        frame = rule.finish(weight=9)
        assert model.codebook.tolist() == [STEPS] * 3
        if selection.statistics:
            assert decoded(frame, Group.STATS)[:3].tolist() == [STEPS] * 3


def test_a_teacher_chosen_to_be_averaged_is_sent() -> None:
    selection = Selection(statistics=["teacher.*"])
    model = Tuned()
    rule = client(model, selection)
    with torch.no_grad():
        for _ in range(STEPS):
            with torch.enable_grad():
                step(model, rule)
            model.teacher.weight.lerp_(model.head.weight, 0.5)
    view = ModelLayout.of(model, selection)
    start = ModelLayout.of(Tuned(), selection).read()
    held, where = model.teacher.weight.detach().flatten().numpy().copy(), view.layout.slices["teacher.weight"]
    frame = rule.finish(weight=9)
    stats = view.layout.span(Group.STATS).start
    sent = decoded(frame, Group.STATS)[where.start - stats : where.stop - stats]
    assert np.array_equal(sent, held - start[where])


def test_a_second_round_begins_from_what_it_finds() -> None:
    """Between rounds anything may change: the next `attach` notes it anew."""
    model = Tuned()
    for _ in range(2):
        rule = client(model)
        for _ in range(STEPS):
            step(model, rule)
        rule.finish(weight=9)
        model.codebook += 1
        model.base.weight.data.mul_(2)


def test_parts_toggled_as_for_two_optimisers_are_let_be() -> None:
    """What is trained at attach may be switched off and on again, as frameworks do between optimisers."""
    model = Tuned()
    rule = client(model)
    for number in range(STEPS):
        model.norm.requires_grad_(number % 2 == 0)
        step(model, rule)
    rule.finish(weight=9)
