"""The guard over what does not travel: every way to change it is found and named, and what may change is let be."""

import copy
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedmrn.errors import UnsupportedModelError
from fedmrn.torch import ModelLayout, Selection
from fedmrn.torch.guard import Guard, digest
from fedmrn.wire.layout import Group


class Net(nn.Module):
    """A frozen base, a head with batch norm, and buffers of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.base = nn.Sequential(nn.Linear(40, 50), nn.Linear(50, 6).bfloat16()).requires_grad_(False)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)
        self.register_buffer("mask", torch.full((4,), float("-inf")))
        self.register_buffer("codebook", torch.zeros(3))
        self.register_buffer("turns", torch.ones(3, dtype=torch.complex64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("cache", torch.zeros(2), persistent=False)


def guarded(selection: Selection = Selection()) -> tuple[Net, Guard]:  # noqa: B008 - immutable
    model = Net()
    return model, Guard(ModelLayout.of(model, selection))


def replaced(model: Net) -> None:
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())


def _assigned(model: Net) -> None:
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)


@torch.no_grad()
def _written(tensor: Tensor) -> None:
    tensor.view(-1)[0] = 7


SEEN_AT_ONCE: dict[str, tuple[Callable[[Net], object], str]] = {
    "unfrozen": (lambda m: m.base[0].bias.requires_grad_(True), r"base\.0\.bias was frozen at attach and is trainable"),
    "frozen, written": (lambda m: _written(m.base[1].weight), r"frozen parameter base\.1\.weight changed"),
    "frozen, other data": (
        lambda m: setattr(m.base[0].weight, "data", torch.ones(50, 40)),
        r"frozen parameter base\.0\.weight changed",
    ),
    "frozen, converted": (
        lambda m: m.base[0].half(),
        r"frozen parameters base\.0\.weight, base\.0\.bias changed .*, and are not sent: unfreeze before attach, or ",
    ),
    "two buffers": (
        lambda m: (m.codebook.add_(1), m.mask.zero_()),
        r"buffers mask, codebook changed .*Selection\(statistics=\['mask', 'codebook'\]\)",
    ),
    "frozen, replaced": (
        lambda m: setattr(m.base[0], "bias", nn.Parameter(torch.ones(50), requires_grad=False)),
        r"frozen parameter base\.0\.bias changed",
    ),
    "frozen, replaced by a trainable one": (
        lambda m: setattr(m.base[0], "bias", nn.Parameter(m.base[0].bias.detach().clone())),
        r"base\.0\.bias was frozen at attach and is trainable",
    ),
    "buffer, added to": (lambda m: m.codebook.add_(1), r"buffer codebook changed"),
    "buffer, replaced": (lambda m: setattr(m, "codebook", m.codebook + 1), r"buffer codebook changed"),
    "buffer, shaped": (lambda m: setattr(m, "mask", m.mask[:2]), r"buffer mask changed"),
    "buffer, complex": (lambda m: m.turns.mul_(1j), r"buffer turns changed"),
    "trained, replaced": (replaced, r"head\.weight was replaced by another object .*copy_"),
    "assigned": (_assigned, r"was replaced by another object .*without assign=True"),
    "statistic, of another shape": (
        lambda m: setattr(m.norm, "running_mean", torch.ones(7)),
        r"norm\.running_mean was replaced by another object .*copy_",
    ),
    "statistic, of another type": (
        lambda m: setattr(m.norm, "running_mean", m.norm.running_mean.double()),
        r"norm\.running_mean was replaced by another object .*copy_",
    ),
    "taken out": (lambda m: delattr(m, "head"), r"head\.weight was taken out of the model"),
    "layer replaced": (lambda m: setattr(m, "head", nn.Linear(6, 3)), r"head\.weight was replaced"),
    "parameter added": (
        lambda m: m.register_parameter("gain", nn.Parameter(torch.ones(1))),
        r"parameter gain was added after attach, and its training would not be sent: add it before",
    ),
    "layer added": (lambda m: m.base.append(nn.Linear(6, 6)), r"parameter base\.2\.weight was added after attach"),
    "buffer added": (lambda m: m.register_buffer("late", torch.ones(1)), r"buffer late was added .*persistent=False"),
}
AT_THE_END: dict[str, tuple[Callable[[Net], object], str]] = {
    "frozen, by data": (lambda m: m.base[0].weight.data.mul_(2), r"frozen parameter base\.0\.weight changed"),
    "buffer, by data": (lambda m: m.mask.data.zero_(), r"buffer mask changed"),
}


@pytest.mark.parametrize(("change", "message"), SEEN_AT_ONCE.values(), ids=SEEN_AT_ONCE)
def test_a_change_is_seen_at_the_next_step(change: Callable[[Net], object], message: str) -> None:
    model, guard = guarded()
    guard.check()
    change(model)
    with pytest.raises(UnsupportedModelError, match=message):
        guard.check()
    with pytest.raises(UnsupportedModelError, match=message):
        guard.check_contents()


@pytest.mark.parametrize(("change", "message"), AT_THE_END.values(), ids=AT_THE_END)
def test_a_change_behind_torchs_back_is_seen_at_the_end(change: Callable[[Net], object], message: str) -> None:
    model, guard = guarded()
    change(model)
    guard.check()
    with pytest.raises(UnsupportedModelError, match=message):
        guard.check_contents()


def _train_as_usual(model: Net) -> None:
    x = model.base[1](model.base[0](torch.randn(5, 40)).bfloat16()).float()
    model.head(model.norm(x)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


HARMLESS: dict[str, Callable[[Net], object]] = {
    "training": _train_as_usual,
    "toggled": lambda m: m.head.requires_grad_(False),
    "loaded": lambda m: m.load_state_dict(copy.deepcopy(m.state_dict())),
    "the same values again": lambda m: m.mask.fill_(float("-inf")),
    "the same values in another object": lambda m: setattr(m, "mask", m.mask.clone()),
    "there and back": lambda m: m.double().float() and m.base[1].bfloat16(),
    "other strides": lambda m: setattr(m.base[0].weight, "data", m.base[0].weight.data.t().contiguous().t()),
    "counters": lambda m: m.steps.add_(1),
    "counters replaced": lambda m: setattr(m, "steps", m.steps + 1),
    "not saved": lambda m: (m.cache.add_(1), setattr(m, "cache", torch.ones(9))),
    "new, not saved": lambda m: m.register_buffer("late", torch.ones(1), persistent=False),
    "a frozen layer": lambda m: m.add_module("teacher", nn.Linear(2, 2).requires_grad_(False)),
    "a loss without parameters": lambda m: m.add_module("loss", nn.CrossEntropyLoss()),
    "a trained layer under a further name": lambda m: m.add_module("again", m.head),
    "a frozen layer gone": lambda m: setattr(m, "base", None),
    "the trained data elsewhere": lambda m: setattr(m.head.weight, "data", torch.zeros(3, 6)),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_is_no_change_is_let_be(change: Callable[[Net], object]) -> None:
    model, guard = guarded()
    for _ in range(2):
        change(model)
        guard.check()
        guard.check_contents()


def test_a_statistic_that_its_layer_replaces_is_read_where_it_is_now() -> None:
    """As in `self.running_mean = 0.9 * self.running_mean + 0.1 * mean`."""
    model = Net()
    view = ModelLayout.of(model)
    guard = Guard(view)
    for _ in range(2):
        model.norm.running_mean = model.norm.running_mean + 2
        guard.check()
    guard.check_contents()
    assert view.read(Group.STATS).tolist() == [4] * 6
    view.write(np.ones(view.layout.size, np.float32))
    assert model.norm.running_mean.tolist() == [1] * 6


def test_after_a_harmless_change_the_next_one_is_still_seen() -> None:
    model, guard = guarded()
    model.mask = model.mask.clone()
    guard.check()
    model.mask[1] = 0
    with pytest.raises(UnsupportedModelError, match="buffer mask changed"):
        guard.check()


def test_what_is_chosen_to_stay_may_change() -> None:
    """The way out that the errors name, for a buffer and for a teacher that follows its student."""
    model, guard = guarded(Selection(local=["codebook", "base.0.*"]))
    model.codebook += 1
    model.codebook = model.codebook + 1
    model.base[0].weight.data.add_(1)
    _written(model.base[0].weight)
    guard.check()
    guard.check_contents()
    model.base[0].weight.requires_grad_(True)
    with pytest.raises(UnsupportedModelError, match=r"base\.0\.weight was frozen at attach"):
        guard.check()


@pytest.mark.parametrize("name", ["codebook", "base.0.weight"])
def test_what_is_chosen_to_be_averaged_may_change(name: str) -> None:
    model, guard = guarded(Selection(statistics=[name]))
    tensor = model.get_buffer(name) if name == "codebook" else model.get_parameter(name)
    _written(tensor)
    guard.check()
    guard.check_contents()
    if name != "codebook":
        tensor.requires_grad_(True)
        with pytest.raises(UnsupportedModelError, match=r"base\.0\.weight was frozen at attach"):
            guard.check()


def test_the_error_says_what_to_write() -> None:
    model, guard = guarded()
    model.codebook += 1
    with pytest.raises(UnsupportedModelError) as caught:
        guard.check()
    for way in re.findall(r"Selection\((?:statistics|local)=\['codebook'\]\)", str(caught.value)):
        model, guard = guarded(eval(way))  # noqa: S307
        model.codebook += 1
        guard.check_contents()
    assert "Selection(statistics=['codebook'])" in str(caught.value)
    assert "Selection(local=['codebook'])" in str(caught.value)


def test_the_vectors_of_spectral_norm_are_named_at_once_and_can_be_averaged() -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), nn.Linear(4, 2))

    def train(model: nn.Module) -> None:
        model[0].parametrizations.weight.original.data.normal_()  # type: ignore[index, union-attr]
        model(torch.randn(2, 4))

    model = net()
    guard = Guard(ModelLayout.of(model))
    train(model)
    names = "0.parametrizations.weight.0._u", "0.parametrizations.weight.0._v"
    with pytest.raises(UnsupportedModelError, match=re.escape(f"Selection(statistics={[*names]})")):
        guard.check()
    model = net()
    view = ModelLayout.of(model, Selection(statistics=names))
    assert {*names} == {t.name for t in view.layout.tensors if t.group is Group.STATS}
    guard = Guard(view)
    train(model)
    guard.check_contents()


def test_of_many_changes_some_are_named() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False).requires_grad_(False) for _ in range(9)), nn.Linear(1, 1))
    guard = Guard(ModelLayout.of(model))
    for layer in model[:9]:
        layer.weight.data.add_(1)
    with pytest.raises(UnsupportedModelError, match=r"parameters 0\.weight, .*, 5\.weight and 3 more changed"):
        guard.check_contents()


def test_values_are_read_only_where_something_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    model, guard = guarded()
    read: list[tuple[int, ...]] = []
    monkeypatch.setattr("fedmrn.torch.guard.digest", lambda t: read.append(tuple(t.shape)) or digest(t))
    guard.check()
    _train_as_usual(model)
    guard.check()
    assert read == []
    model.mask.fill_(float("-inf"))
    guard.check()
    guard.check()
    assert read == [(4,)]
    guard.check_contents()
    assert len(read) == 1 + len(list(model.base.parameters())) + len(("mask", "codebook", "turns"))


def test_no_values_are_kept() -> None:
    """A frozen model may be large: what the guard holds on to are the model's own tensors, and 16 bytes for each."""
    model = nn.Sequential(nn.Linear(64, 64).requires_grad_(False), nn.Linear(64, 2))
    guard = Guard(ModelLayout.of(model))
    own = {id(p) for p in model.parameters()}
    held = [vars(guard)]
    tensors = []
    while held:
        thing = held.pop()
        if isinstance(thing, Tensor):
            tensors.append(thing)
        elif isinstance(thing, dict):
            held += thing.values()
        elif isinstance(thing, list | tuple):
            held += thing
        elif hasattr(thing, "__slots__"):
            held += [getattr(thing, name) for name in thing.__slots__]
        elif isinstance(thing, bytes):
            assert len(thing) == 16
        else:
            assert not isinstance(thing, np.ndarray)
    assert {id(t) for t in tensors} <= own


def test_frozen_tensors_of_any_kind() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(3, 3).requires_grad_(False))
    with torch.inference_mode():
        model[1].bias = nn.Parameter(torch.ones(3), requires_grad=False)
    model[1].register_parameter("far", nn.Parameter(torch.ones(3, device="meta"), requires_grad=False))
    model[1].register_parameter("none", nn.Parameter(torch.ones(0), requires_grad=False))
    model[1].register_parameter("bytes", nn.Parameter(torch.ones(3, dtype=torch.uint8), requires_grad=False))
    guard = Guard(ModelLayout.of(model))
    guard.check()
    guard.check_contents()
    _written(model[1].bytes)
    with pytest.raises(UnsupportedModelError, match=r"frozen parameter 1\.bytes changed"):
        guard.check()
    model[1].bytes.data[0] = 1
    with torch.inference_mode():
        model[1].bias[0] = 3  # torch counts no writes to it
    guard.check()
    with pytest.raises(UnsupportedModelError, match=r"frozen parameter 1\.bias changed"):
        guard.check_contents()


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.complex64, torch.bool]


@settings(deadline=None, max_examples=60)
@given(
    size=st.sampled_from([1, 2, 3, 7, 8, 1023, 8 * 1024 - 1, 8 * 1024, 8 * 1024 + 1, 40_000]),
    dtype=st.sampled_from(DTYPES),
    data=st.data(),
)
def test_a_checksum_tells_every_single_change(size: int, dtype: torch.dtype, data: st.DataObject) -> None:
    """And every exchange of two values that differ."""
    first = torch.arange(size).remainder(251).to(dtype)
    before = digest(first)
    assert digest(first.clone()) == before
    i, j = (data.draw(st.integers(0, size - 1)) for _ in range(2))
    other = first.clone()
    other[i] = not other[i] if dtype is torch.bool else other[i] + 1
    assert digest(other) != before
    swapped = first.clone()
    swapped[i], swapped[j] = first[j].clone(), first[i].clone()
    assert (digest(swapped) == before) == torch.equal(swapped, first)
    assert digest(first.view(1, -1)) != before


def test_a_checksum_does_not_depend_on_strides() -> None:
    x = torch.randn(3, 4, 5, 6)
    assert digest(x.contiguous(memory_format=torch.channels_last)) == digest(x)
    assert digest(torch.randn(8, 9).t()) != digest(torch.randn(9, 8))
    z = torch.randn(5, dtype=torch.complex64)
    assert digest(z.conj()) == digest(z.conj().resolve_conj())


def test_a_checksum_does_not_depend_on_the_device() -> None:
    """The sums that CUDA makes, made by torch on the CPU."""
    words = torch.from_numpy(np.random.default_rng(1).integers(-(2**62), 2**62, 40_000))
    rows = words[: 39 * 1024].reshape(-1, 1024)
    assert np.array_equal(rows.sum(0).numpy(), rows.numpy().sum(0))
    assert np.array_equal(rows.sum(1).numpy(), rows.numpy().sum(1))
