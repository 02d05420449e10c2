"""What people do to a model while it trains: taken over as plain training takes it, or refused by the tensor's name.

`as_plain` runs each loop through the wrapper with masks off and without it, and compares every bit.
"""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from any_optimiser import Hold, as_plain, loss_of, reader, sentences, server_for, values
from federating import batch, broadcast_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW

from fedmrn.errors import ConfigError, UnsupportedModelError
from fedmrn.torch import ModelLayout, attach

DATA = sentences(96)


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, n: int = 5) -> None:
    for step in range(n):
        optimizer.zero_grad()
        loss_of(model, DATA, step, 16)().backward()
        optimizer.step()


def best_put_back(model: nn.Module) -> None:
    model.load_state_dict({name: 0.9 * value for name, value in model.state_dict().items()})


@torch.no_grad()
def clamped(model: nn.Module) -> None:
    for p in model.parameters():
        p.clamp_(-0.2, 0.2)


def clamped_by_data(model: nn.Module) -> None:
    for p in model.parameters():
        p.data = p.data.clamp(-0.2, 0.2)


def clamped_in_data(model: nn.Module) -> None:
    for p in model.parameters():
        p.data.clamp_(-0.2, 0.2)


@torch.no_grad()
def one_row_set_to_zero(model: Any) -> None:
    model.embedding.weight[3] = 0


def made_anew(model: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        model.head.reset_parameters()


def double_and_back(model: nn.Module) -> None:
    model.double().float()


def to_meta_free_copy(model: nn.Module) -> None:
    model._apply(torch.clone)


def assigned_by_vector(model: nn.Module) -> None:
    vector = nn.utils.parameters_to_vector(model.parameters()).detach()
    nn.utils.vector_to_parameters(0.5 * vector, model.parameters())


@torch.no_grad()
def swapped_storage(model: Any) -> None:
    model.hidden.weight.set_(model.hidden.weight.clone() + 0.125)


def shared_memory(model: nn.Module) -> None:
    model.share_memory()


def head_frozen(model: Any) -> None:
    model.head.requires_grad_(False)


EDITS: dict[str, Callable[[Any], None]] = {
    "the best weights put back": best_put_back,
    "a clamp": clamped,
    "a clamp through .data": clamped_in_data,
    "a clamp that replaces .data": clamped_by_data,
    "one row set to zero": one_row_set_to_zero,
    "a layer made anew": made_anew,
    "double().float()": double_and_back,
    "new memory": to_meta_free_copy,
    "a vector of all": assigned_by_vector,
    "set_": swapped_storage,
    "memory that processes share": shared_memory,
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_between_steps_does_what_it_does_in_plain_training(name: str) -> None:
    def loop(model: nn.Module, hold: Hold) -> None:
        optimizer = hold(AdamW(model.parameters(), lr=0.01))
        steps(model, optimizer)
        EDITS[name](model)
        steps(model, optimizer)

    as_plain(loop)


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_between_backward_and_step_does_so_too(name: str) -> None:
    def loop(model: nn.Module, hold: Hold) -> None:
        optimizer = hold(SGD(model.parameters(), lr=0.1, momentum=0.9))
        steps(model, optimizer)
        loss_of(model, DATA, 0, 16)().backward()
        EDITS[name](model)
        optimizer.step()
        steps(model, optimizer)

    as_plain(loop)


def test_a_clamp_after_every_step() -> None:
    def loop(model: nn.Module, hold: Hold) -> None:
        optimizer = hold(SGD(model.parameters(), lr=0.1, momentum=0.9))
        for _ in range(10):
            steps(model, optimizer, 1)
            clamped(model)

    assert max(float(p.abs().max()) for p in as_plain(loop).values()) == pytest.approx(0.2)


def test_the_best_weights_of_training_put_back() -> None:
    def loop(model: nn.Module, hold: Hold) -> None:
        optimizer = hold(SGD(model.parameters(), lr=0.1, momentum=0.9))
        steps(model, optimizer)
        best = {name: value.clone() for name, value in model.state_dict().items()}
        steps(model, optimizer)
        model.load_state_dict(best)
        steps(model, optimizer, 2)

    as_plain(loop)


def test_swapped_weights_for_an_evaluation_and_back() -> None:
    """As EMA does around each evaluation: what is put back is what was there."""

    def loop(model: nn.Module, hold: Hold) -> None:
        optimizer = hold(AdamW(model.parameters(), lr=0.01))
        average = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
        )
        for _ in range(5):
            steps(model, optimizer, 1)
            average.update_parameters(model)
            kept = {name: value.clone() for name, value in model.state_dict().items()}
            model.load_state_dict(average.module.state_dict())
            loss_of(model, DATA, 0, 16)()
            model.load_state_dict(kept)

    as_plain(loop)


class TestBeforeFinish:
    """What is put into the model after the last step is what is sent."""

    def test_an_average_copied_in_is_what_the_mask_stands_for(self) -> None:
        # Every weight is put 0.01 above the broadcast's. A mask of noise +-0.02 gives +-0.02 of that mean: 4,056
        # coded weights, whose mean has a standard error of 0.02 * sqrt(1 - 0.5^2) / sqrt(4056) = 0.00027; five of them.
        model = reader(24)
        server = server_for(model, "fedmrn-s", {"scale": 0.02, "noise": "bernoulli"})
        round_ = server.begin(1, ["a"])
        start = values(model)
        rule = attach(model, AdamW(model.parameters(), lr=1e-3), round_.broadcast("a"), steps=5, sampling_key=3)
        steps(model, rule)
        model.load_state_dict({name: value + 0.01 for name, value in start.items()})
        round_.add("a", rule.finish(weight=1).to_bytes())
        state = round_.finish()
        moved = torch.cat([(p - start[n]).reshape(-1) for n, p in model.named_parameters() if not n.startswith("norm")])
        assert float(moved.detach().mean()) == pytest.approx(0.01, abs=5 * 0.02 * 0.75**0.5 / len(moved) ** 0.5)
        assert np.array_equal(ModelLayout.of(model).read(), state)
        # Normalisation layers travel as floats: w + (p - w) has two roundings of numbers near 1.
        assert (model.norm.weight - start["norm.weight"] - 0.01).abs().max() <= 2.0**-22


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s", "fedpm", "fedbat"])
def test_a_normalisation_layer_of_fewer_bits_that_is_edited(name: str, dtype: torch.dtype) -> None:
    """It is not coded, and an edit of it goes on from what was written, as the same edit of float32 does."""
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)).to(dtype)
    broadcast = server_for(model, name, None).begin(1, ["a"]).broadcast("a")
    rule = attach(model, SGD(model.parameters(), lr=0.1), broadcast, accept="any", steps=3, sampling_key=3)
    x, y = batch(6, 4)
    for step in range(3):
        with torch.no_grad():
            model[1].bias.fill_(step + 1)  # type: ignore[union-attr]
        rule.zero_grad()
        F.cross_entropy(model(x.to(dtype)).float(), y).backward()
        before, gradient = model[1].bias.detach().clone(), model[1].bias.grad  # type: ignore[union-attr]
        assert isinstance(gradient, Tensor)
        rule.step()
        moved = torch.add(before.float(), gradient.float(), alpha=-0.1)
        assert torch.equal(model[1].bias, moved.to(dtype))
    rule.finish(weight=1)


@pytest.mark.parametrize("optimiser", [SGD, AdamW])
@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s", "fedbat"])
def test_weights_put_back_after_a_step_to_nan(name: str, optimiser: Any) -> None:
    """Where u is NaN a mask may say 0, and draw the very weight that is put back."""
    model = reader()
    broadcast = server_for(model, name, None).begin(1, ["a"]).broadcast("a")
    rule = attach(model, optimiser(model.parameters(), lr=0.01), broadcast, accept="any", steps=6, sampling_key=3)
    steps(model, rule, 2)
    good = {name: value.clone() for name, value in model.state_dict().items()}
    for p in model.parameters():
        p.grad = torch.full_like(p, float("nan"))
    rule.step()
    rule.state.clear()
    model.load_state_dict(good)
    steps(model, rule, 3)
    rule.finish(weight=1)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


class TestReplaced:
    """What is no longer the optimiser's tensor: refused at the next step, by name."""

    @staticmethod
    def refused(edit: Callable[[Any], None], match: str) -> None:
        model = reader()
        rule = attach(model, AdamW(model.parameters(), lr=0.01), broadcast_of(model), steps=9, sampling_key=3)
        steps(model, rule, 2)
        edit(model)
        with pytest.raises(UnsupportedModelError, match=match):
            rule.step()

    def test_a_state_that_is_assigned(self) -> None:
        self.refused(
            lambda m: m.load_state_dict({k: v.clone() for k, v in m.state_dict().items()}, assign=True),
            r"embedding\.weight",
        )

    def test_another_parameter_in_its_place(self) -> None:
        def edit(model: Any) -> None:
            model.head.bias = nn.Parameter(torch.zeros(3))

        self.refused(edit, r"head\.bias")

    def test_another_type(self) -> None:
        self.refused(lambda m: m.head.to(torch.bfloat16), r"head\.(weight|bias).*bfloat16")

    def test_all_of_another_type(self) -> None:
        def edit(model: Any) -> None:
            model.double()

        self.refused(edit, r"(weight|bias).*float64")


class TestFreezing:
    """Layers frozen or unfrozen after attach."""

    def test_a_layer_frozen_later_stays_where_it_is(self) -> None:
        def loop(model: Any, hold: Hold) -> None:
            optimizer = hold(SGD(model.parameters(), lr=0.1))
            steps(model, optimizer, 3)
            model.head.requires_grad_(False)
            held = model.head.weight.detach().clone()
            steps(model, optimizer, 3)
            assert torch.equal(held, model.head.weight)
            model.head.requires_grad_(True)
            steps(model, optimizer, 3)
            assert not torch.equal(held, model.head.weight)

        try:
            as_plain(loop)
        except UnsupportedModelError as error:
            assert "head" in str(error)  # noqa: PT017

    def test_a_layer_unfrozen_later_is_refused_by_name(self) -> None:
        model = reader()
        model.head.requires_grad_(False)
        rule = attach(model, SGD(model.parameters(), lr=0.1), broadcast_of(model), steps=9, sampling_key=3)
        steps(model, rule, 2)
        model.head.requires_grad_(True)
        with pytest.raises(UnsupportedModelError, match=r"head\.weight"):
            steps(model, rule, 1)

    def test_a_frozen_weight_that_is_edited_is_refused_at_the_end(self) -> None:
        model = reader()
        model.head.requires_grad_(False)
        rule = attach(model, SGD(model.parameters(), lr=0.1), broadcast_of(model), steps=2, sampling_key=3)
        steps(model, rule, 2)
        model.head.weight.data[0, 0] += 1
        with pytest.raises(UnsupportedModelError, match=r"head\.weight"):
            rule.finish(weight=1)


class TestAttachedTwice:
    """A second `attach` supersedes the first."""

    @pytest.mark.parametrize("call", ["step", "finish"])
    def test_the_first_is_refused_from_then_on(self, call: str) -> None:
        model = reader()
        broadcast = broadcast_of(model)
        first = attach(model, SGD(model.parameters(), lr=0.1), broadcast, steps=2, sampling_key=3)
        steps(model, first, 1)
        second = attach(model, AdamW(model.parameters(), lr=0.01), broadcast, steps=2, sampling_key=3)
        held = values(model)
        with pytest.raises((UnsupportedModelError, ConfigError), match=r"attach.*(list|again|several|\[)"):
            first.step() if call == "step" else first.finish(weight=1)
        assert all(torch.equal(held[n], p) for n, p in model.named_parameters())
        steps(model, second, 2)
        second.finish(weight=1)

    def test_after_finish_the_next_round_attaches_as_ever(self) -> None:
        model = reader()
        for _ in range(2):
            rule = attach(model, SGD(model.parameters(), lr=0.1), broadcast_of(model), steps=2, sampling_key=3)
            steps(model, rule, 2)
            rule.finish(weight=1)


class Filter(nn.Module):
    """A convolution whose gradient is the same wherever its weights are; its `absolute` is of the sums' terms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Turned(nn.Module):
    """A matrix that lies transposed in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(5, 7).t())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


class TestOtherStrides:
    """Tensors that lie otherwise than the flat vector: sums may be taken in another order, and so be rounded otherwise.

    The losses are linear in the weights, so that a gradient is a sum of n products which does not depend on them. Two
    orders of such a sum differ by at most 2 * n * 2^-24 times the sum of the products' magnitudes (twice the bound of
    one); a step multiplies that by the rate, and rounds its own length and the weight once each, in both paths.
    """

    RATE, COUNT = 0.01, 50

    def compare(self, make: Callable[[], nn.Module], x: Tensor, terms: Callable[[nn.Module], Tensor], n: int) -> None:
        ends: list[Tensor] = []
        for plain in (True, False):
            torch.manual_seed(5)
            model = make()
            broadcast = broadcast_of(model, "fedmrn-s", law="bernoulli", scale=2.0**15)
            optimizer: Any = SGD(model.parameters(), lr=self.RATE)
            if not plain:
                optimizer = attach(model, optimizer, broadcast, accept="any", steps=10**12, sampling_key=3)
            g = torch.randn(model(x).shape, generator=torch.Generator().manual_seed(6))
            for _ in range(self.COUNT):
                optimizer.zero_grad()
                (model(x) * g).sum().backward()
                optimizer.step()
            (weight,) = model.parameters()
            ends.append(weight.detach().double())
        magnitude, largest = terms(model).double(), max(float(e.abs().max()) for e in ends)
        unit = 2.0**-24
        bound = self.COUNT * (2 * self.RATE * (n + 2) * unit * magnitude + 2 * unit * largest)
        assert bool(((ends[0] - ends[1]).abs() <= bound).all())
        assert float((ends[0] - make_start(make)).abs().max()) > 1e3 * float(bound.max())

    def test_a_convolution_with_its_channels_last(self) -> None:
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(7)).to(memory_format=torch.channels_last)
        g = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(6)).abs()

        def terms(model: nn.Module) -> Tensor:
            return torch.nn.grad.conv2d_weight(x.abs(), (4, 3, 3, 3), g)

        self.compare(lambda: Filter().to(memory_format=torch.channels_last), x, terms, 4 * 6 * 6)

    def test_a_transposed_matrix(self) -> None:
        x = torch.randn(9, 7, generator=torch.Generator().manual_seed(7))
        g = torch.randn(9, 5, generator=torch.Generator().manual_seed(6)).abs()
        self.compare(Turned, x, lambda _: x.abs().t() @ g, 9)

    def test_channels_moved_last_while_training(self) -> None:
        x, y = batch(6, 3, 8, 8)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        broadcast = broadcast_of(model, "fedmrn-s", law="bernoulli", scale=2.0**15)
        rule = attach(model, SGD(model.parameters(), lr=0.1), broadcast, accept="any", steps=10**12, sampling_key=3)
        for step in range(4):
            if step == 2:
                model.to(memory_format=torch.channels_last)
            before = values(model)
            rule.zero_grad()
            F.cross_entropy(model(x), y).backward()
            gradient = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            rule.step()
            for name, p in model.named_parameters():
                # The same gradient, so one step of SGD by hand: bit for bit.
                assert torch.equal(p, torch.add(before[name], gradient[name], alpha=-0.1)), (step, name)


def make_start(make: Callable[[], nn.Module]) -> Tensor:
    torch.manual_seed(5)
    (weight,) = make().parameters()
    return weight.detach().double()


@pytest.mark.parametrize("name", ["fedmrn", "fedpm", "fedbat"])
def test_a_model_that_is_saved_while_it_trains_is_saved_whole(name: str, tmp_path: Path) -> None:
    """Each parameter has a storage of its own: safetensors and accelerate take tensors of one storage for one."""
    saving = pytest.importorskip("safetensors.torch")
    model = reader()
    broadcast = server_for(model, name, None).begin(1, ["a"]).broadcast("a")
    rule = attach(model, AdamW(model.parameters(), lr=0.01), broadcast, accept="any", steps=2, sampling_key=3)
    steps(model, rule, 1)
    storages = [p.untyped_storage() for p in model.parameters()]
    assert [s.nbytes() for s in storages] == [4 * p.numel() for p in model.parameters()]
    assert len({s.data_ptr() for s in storages}) == len(storages)
    saving.save_model(model, tmp_path / "saved.safetensors")
    found = saving.load_file(tmp_path / "saved.safetensors")
    held = values(model)
    assert found.keys() == held.keys()
    assert all(torch.equal(found[n], held[n]) for n in held)
    saving.load_model(model, tmp_path / "saved.safetensors")
    steps(model, rule, 1)
    rule.finish(weight=1)


class TestPutBack:
    """Weights that are put back while masks are on: elements whose mask drew the very value are put back as well."""

    @staticmethod
    def trained(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any, dict[str, Tensor]]:
        """A client in its last step, when all elements are masked; its model and the broadcast's weights."""
        model = reader().to(dtype)
        start = values(model)
        broadcast = server_for(model, name, {"scale": 0.05}).begin(1, ["a"]).broadcast("a")
        rule = attach(model, SGD(model.parameters(), lr=0.1), broadcast, accept="any", steps=10, sampling_key=3)
        steps(model, rule, 10)
        return model, rule, start

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s"])
    def test_the_broadcasts_weights_by_hand(self, name: str, dtype: torch.dtype) -> None:
        model, rule, start = self.trained(name, dtype)
        for tensor, value in start.items():
            model.get_parameter(tensor).data.copy_(value)
        rule.look()
        assert not rule.u.any() or dtype == torch.bfloat16
        assert float(rule.u.abs().max()) <= 2.0**-8  # the broadcast's weights are rounded to bfloat16 in the model

    @pytest.mark.parametrize("part", ["all", "a layer"])
    @pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s", "fedbat"])
    def test_masked_weights_of_an_earlier_step_by_load_state_dict(self, name: str, part: str) -> None:
        model, rule, _ = self.trained(name) if name != "fedbat" else self.signs()
        best = {n: v.clone() for n, v in model.state_dict().items()}
        steps(model, rule, 1)
        moved = rule.moved.clone()
        if part == "all":
            model.load_state_dict(best)
        else:
            model.hidden.load_state_dict({n: best[f"hidden.{n}"] for n in ("weight", "bias")})
        rule.look()
        for tensor, where in list(rule.view.layout.slices.items())[: len(rule.coded)]:
            put_back = part == "all" or tensor.startswith("hidden.")
            assert torch.equal(rule.moved[where], best[tensor].flatten() if put_back else moved[where]), tensor

    @staticmethod
    def signs() -> tuple[Any, Any, dict[str, Tensor]]:
        model = reader()
        broadcast = server_for(model, "fedbat", None).begin(1, ["a"]).broadcast("a")
        rule = attach(model, SGD(model.parameters(), lr=0.1), broadcast, accept="any", steps=10, sampling_key=3)
        steps(model, rule, 10)
        return model, rule, {}

    def test_a_key_that_is_not_loaded_is_not_put_back(self) -> None:
        model, rule, _ = self.trained("fedmrn")
        best = {n: v.clone() for n, v in model.state_dict().items() if n != "hidden.bias"}
        steps(model, rule, 1)
        moved = rule.moved.clone()
        model.load_state_dict(best, strict=False)
        with torch.no_grad():
            model.hidden.bias[2] = 0.5
        rule.look()
        where = rule.view.layout.slices["hidden.bias"]
        assert (rule.moved[where] != moved[where]).nonzero().flatten().tolist() == [2]
        assert torch.equal(rule.moved[rule.view.layout.slices["hidden.weight"]], best["hidden.weight"].flatten())

    def test_the_same_weights_loaded_change_nothing(self) -> None:
        model, rule, _ = self.trained("fedmrn")
        moved = rule.moved.clone()
        model.load_state_dict({n: v.clone() for n, v in model.state_dict().items()})
        rule.look()
        assert torch.equal(rule.moved, moved)

    def test_the_model_has_no_trace_of_it_afterwards(self) -> None:
        model, rule, _ = self.trained("fedmrn")
        copied = copy.deepcopy(model)  # in the middle of training, and without the rule
        copied.load_state_dict(model.state_dict())
        pickle.loads(pickle.dumps(model)).load_state_dict(model.state_dict())  # noqa: S301 - our own bytes
        rule.finish(weight=1)
        hooks = [m._load_state_dict_pre_hooks for m in model.modules()]
        assert not any(hooks)
        given = broadcast_of(model)
        for _ in range(2):
            attach(model, SGD(model.parameters(), lr=0.1), given, steps=1)
        last = attach(model, SGD(model.parameters(), lr=0.1), given, steps=1)
        assert max(len(m._load_state_dict_pre_hooks) for m in model.modules()) == 1
        steps(model, last, 1)
        last.finish(weight=1)
        assert not any(hooks)
