"""Any module, unedited: nothing is skipped, one bit carries every coded value, and the module comes back whole."""

import copy
import io

import numpy as np
import pytest
import torch
from federating import MASKED, decoded, noise_of, server_of, values
from torch import nn
from torch.nn import functional as F
from zoo import ZOO, PartlyFrozen, Specimen, Tied

from fedmrn.errors import UnsupportedModelError
from fedmrn.torch import ModelLayout, attach
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group

STEPS, SCALE = 6, 0.1
every_model = pytest.mark.parametrize("specimen", ZOO.values(), ids=ZOO.keys())
both_masks = pytest.mark.parametrize("name", MASKED)


def train(model: nn.Module, broadcast: bytes, x: torch.Tensor, y: torch.Tensor, lr: float = 0.3) -> Frame:
    """One client's round in a loop of its own."""
    rule = attach(
        model, torch.optim.SGD(model.parameters(), lr=lr), broadcast, accept="any", steps=STEPS, sampling_key=11
    )
    model.train()
    for _ in range(STEPS):
        rule.zero_grad()
        F.cross_entropy(model(x), y).backward()
        rule.step()
    return rule.finish(weight=len(x))


@every_model
def test_every_trained_parameter_is_in_the_layout_once(specimen: Specimen) -> None:
    model = specimen.make()
    view = ModelLayout.of(model)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    found = [id(t) for t in view.tensors]
    assert len(found) == len(set(found))
    assert trained <= set(found)
    groups = [t.group for t in view.layout.tensors]
    assert groups.count(Group.CODED) == specimen.coded
    assert groups.count(Group.DENSE) == specimen.dense
    assert groups.count(Group.STATS) == specimen.stats
    assert groups.count(Group.VARIANCE) == specimen.variances
    assert view.layout.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    names = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    for spec, tensor in zip(view.layout.tensors, view.tensors, strict=True):
        assert names[spec.name] is tensor
        assert spec.shape == tuple(tensor.shape)


@every_model
def test_describe_accounts_for_every_tensor(specimen: Specimen) -> None:
    model = specimen.make()
    view = ModelLayout.of(model)
    text = view.describe()
    coded = [t for t in view.layout.tensors if t.group is Group.CODED]
    assert f"coded: {sum(t.size for t in coded):,} values in {len(coded)} tensors" in text
    others = [t.name for t in view.layout.tensors if t.group is not Group.CODED]
    for name in (*others, *view.frozen, *view.local, *view.counters):
        assert name in text
    left = {n for n, p in model.named_parameters() if not p.requires_grad}
    left |= {n for n, b in model.named_buffers() if not b.is_floating_point()}
    assert {*view.frozen, *view.counters} == left
    assert view.local == ()


@every_model
@both_masks
def test_the_module_ends_at_its_state_plus_what_the_server_decodes(specimen: Specimen, name: str) -> None:
    model = specimen.make()
    frozen = values({n: p for n, p in model.named_parameters() if not p.requires_grad})
    server = server_of(model, name, scale=SCALE)
    before = server.state.copy()
    round_ = server.begin(1, ["a"])
    broadcast = round_.broadcast("a")
    frame = round_.add("a", train(model, broadcast, *specimen.data()).to_bytes())
    view = ModelLayout.of(model)
    coded = view.layout.span(Group.CODED)
    update, held = decoded(frame, Group.CODED), view.read()
    # One bit a value: nothing between the codewords, and not all of them the same one.
    noise = noise_of(broadcast, coded.stop)
    upper = update == noise
    assert np.array_equal(update, np.where(upper, noise, -noise if name == "fedmrn-s" else 0))
    assert 0 < upper.sum() < upper.size
    assert np.array_equal(held[coded], before[coded] + update)
    # Dense values and statistics travel as differences from the state: one subtraction, one addition, each
    # rounded once.
    for group in (Group.DENSE, Group.STATS):
        span = view.layout.span(group)
        if span.stop > span.start:
            sent = before[span] + decoded(frame, group)
            assert np.abs(sent - held[span]).max() <= 2.0**-23 * np.abs(held[span]).max()
            assert not np.array_equal(before[span], held[span])
    # One client: the server's mean is its update, to the resolution of the sum.
    np.testing.assert_allclose(round_.finish()[coded], held[coded], rtol=2.0**-23, atol=1e-9)
    now = values({n: p for n, p in model.named_parameters() if not p.requires_grad})
    assert all(np.array_equal(frozen[n], now[n]) for n in frozen)


@every_model
@both_masks
def test_rounds_of_one_client_lower_the_loss(specimen: Specimen, name: str) -> None:
    model = specimen.make()
    x, y = specimen.data(32)
    scale = SCALE if name == "fedmrn" else SCALE / 2
    server = server_of(model, name, scale=scale)
    view = ModelLayout.of(model)
    with torch.no_grad():
        before = float(F.cross_entropy(model.train()(x), y))
    for number in range(1, 21):
        round_ = server.begin(number, ["a"])
        round_.add("a", train(model, round_.broadcast("a"), x, y, specimen.lr).to_bytes())
        round_.finish()
    view.write(server.state)
    with torch.no_grad():
        after = float(F.cross_entropy(model.train()(x), y))
    assert after < 0.8 * before


@every_model
def test_after_finish_the_module_is_an_ordinary_one(specimen: Specimen) -> None:
    model = specimen.make()
    kinds = {n: type(m) for n, m in model.named_modules()}
    parameters = {n: id(p) for n, p in model.named_parameters(remove_duplicate=False)}
    x, y = specimen.data()
    server = server_of(model, scale=SCALE)
    train(model, server.begin(1, ["a"]).broadcast("a"), x, y)
    # The same modules and the same parameters, each with a memory of its own.
    assert {n: type(m) for n, m in model.named_modules()} == kinds
    assert {n: id(p) for n, p in model.named_parameters(remove_duplicate=False)} == parameters
    stored = [p.untyped_storage() for p in model.parameters()]
    assert len({s.data_ptr() for s in stored}) == len(stored)
    assert all(s.nbytes() == 4 * p.numel() for s, p in zip(stored, model.parameters(), strict=True))
    # Saved, loaded into a fresh copy, copied: the same function.
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = specimen.make()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    copied = copy.deepcopy(model)
    with torch.no_grad():
        out = model.eval()(x)
        assert torch.equal(fresh.eval()(x), out)
        assert torch.equal(copied.eval()(x), out)
    # Plain SGD trains it, as it trains the fresh copy.
    for each in (model, fresh):
        each.train()
        plain = torch.optim.SGD(each.parameters(), lr=0.1)
        for _ in range(2):
            plain.zero_grad()
            F.cross_entropy(each(x), y).backward()
            plain.step()
    for (n, a), (m, b) in zip(model.named_parameters(), fresh.named_parameters(), strict=True):
        assert n == m
        assert torch.equal(a, b), n


def test_tied_weights_are_one_tensor_and_stay_tied() -> None:
    model = Tied()
    view = ModelLayout.of(model)
    assert [t.name for t in view.layout.tensors] == ["embedding.weight", "middle.weight", "middle.bias"]
    before = model.output.weight.detach().clone()
    specimen = ZOO["tied"]
    broadcast = server_of(model, scale=SCALE).begin(1, ["a"]).broadcast("a")
    rule = attach(model, torch.optim.SGD(model.parameters(), lr=0.3), broadcast, accept="any", steps=STEPS)
    x, y = specimen.data()
    for _ in range(STEPS):
        rule.zero_grad()
        F.cross_entropy(model(x), y).backward()
        assert model.output.weight is model.embedding.weight
        assert model.output.weight.data_ptr() == model.embedding.weight.data_ptr()
        rule.step()
    rule.finish(weight=1)
    assert model.output.weight is model.embedding.weight
    assert not torch.equal(model.output.weight, before)


def test_tied_weights_get_the_gradient_of_both_uses() -> None:
    model = Tied()
    x, y = ZOO["tied"].data()
    broadcast = server_of(model, told={"progressive": False}).begin(1, ["a"]).broadcast("a")
    rule = attach(model, torch.optim.SGD(model.parameters(), lr=1.0), broadcast, accept="any", steps=1)
    # Binary masks leave the weights where they are in the first step, as u is 0.
    reference = Tied()
    reference.load_state_dict({k: v.clone() for k, v in model.state_dict().items()})
    for each in (model, reference):
        F.cross_entropy(each(x), y).backward()
    rule.step()
    torch.optim.SGD(reference.parameters(), lr=1.0).step()
    expected = torch.cat([p.detach().flatten() for p in reference.parameters()])
    assert torch.equal(rule.moved, expected)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "moves"), [("fedmrn", False), ("fedmrn-s", True)])
def test_an_unused_parameter_gets_the_mask_of_a_zero_update(name: str, moves: bool) -> None:
    # Without a gradient u stays 0: the binary mask then says 0, the signed one +n or -n with equal chance.
    model = PartlyFrozen()
    before = model.unused.weight.detach().clone()
    broadcast = server_of(model, name, scale=SCALE).begin(1, ["a"]).broadcast("a")
    train(model, broadcast, *ZOO["frozen"].data())
    assert model.unused.weight.grad is None
    assert torch.equal(model.unused.weight, before) is not moves


def test_a_rule_of_ones_own_decides_what_is_coded() -> None:
    def heads_only(name: str, owner: nn.Module, parameter: nn.Parameter) -> Group:
        assert isinstance(owner, nn.Linear)
        return Group.CODED if name.startswith("2.") and parameter.dim() == 2 else Group.DENSE

    model = ZOO["mlp"].make()
    view = ModelLayout.of(model, heads_only)
    assert [t.name for t in view.layout.tensors] == ["2.weight", "0.weight", "0.bias", "2.bias"]
    assert "dense: 115 values in 3 tensors: 0.weight, 0.bias, 2.bias" in view.describe()
    server = server_of(model, choose=heads_only, scale=SCALE)
    round_ = server.begin(1, ["a"])
    rule = attach(
        model,
        torch.optim.SGD(model.parameters(), lr=0.3),
        round_.broadcast("a"),
        accept="any",
        steps=1,
        choose=heads_only,
    )
    before = values(dict(model.named_parameters()))
    x, y = ZOO["mlp"].data()
    F.cross_entropy(model(x), y).backward()
    rule.step()
    frame = round_.add("a", rule.finish(weight=1).to_bytes())
    # Binary, one step, u = 0 before it: the forward pass was at the state itself.
    np.testing.assert_array_equal(
        decoded(frame, Group.DENSE)[:96].reshape(16, 6),
        (model[0].weight.detach().numpy() - before["0.weight"]),  # type: ignore[index]
    )
    gradient = model[0].weight.grad.numpy()  # type: ignore[index, union-attr]
    np.testing.assert_allclose(
        model[0].weight.detach().numpy(),  # type: ignore[index]
        before["0.weight"] - 0.3 * gradient,
        rtol=2.0**-22,
        atol=2.0**-26,
    )


def test_a_model_that_is_all_normalisation_has_nothing_to_compress() -> None:
    with pytest.raises(UnsupportedModelError, match="no trained parameter to compress"):
        ModelLayout.of(nn.Sequential(nn.LayerNorm(4), nn.BatchNorm1d(4)))


def test_two_parameters_over_the_same_memory_are_refused() -> None:
    """Each would be given a place of its own, and silently untied."""
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight.data = model[0].weight.data
    with pytest.raises(UnsupportedModelError, match=r"0\.weight and 1\.weight share memory"):
        ModelLayout.of(model)
    model[1].weight = model[0].weight
    assert len(ModelLayout.of(model).tensors) == 1
