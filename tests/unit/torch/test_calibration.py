"""Running statistics computed anew: exact over all inputs, and nothing else of the model changes."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from fedmrn.errors import ConfigError, EncodeError, UnsupportedModelError
from fedmrn.torch import calibrate

CUTS = [8, 3, 2, 8]


def inputs(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3 + 2


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
    )


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm1d(4), (21, 4)),
        (nn.BatchNorm1d(4), (21, 4, 5)),
        (nn.BatchNorm2d(4, momentum=None), (21, 4, 3, 2)),
        (nn.BatchNorm3d(4, affine=False), (21, 4, 2, 3, 2)),
    ],
)
def test_statistics_are_those_of_all_inputs_together(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """The oracle: mean and unbiased variance of everything at once, in float64; batches have several sizes."""
    x = inputs(*shape)
    x[:8] += 5  # the batches' means differ: the mean of their variances is far from the variance of the whole
    calibrate(nn.Sequential(layer), x.split(CUTS))
    values = x.double().movedim(1, 0).flatten(1)
    # The layer rounds each batch's mean and variance to float32, in sums of up to 96 values; float64 pools them.
    torch.testing.assert_close(layer.running_mean.double(), values.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(layer.running_var.double(), values.var(1), rtol=1e-5, atol=0)


def test_statistics_of_instances_are_the_mean_of_theirs_as_in_training() -> None:
    layer, x = nn.InstanceNorm2d(4, track_running_stats=True), inputs(21, 4, 3, 2)
    calibrate(layer, x.split(CUTS))
    values = x.double().flatten(2)
    torch.testing.assert_close(layer.running_mean.double(), values.mean((0, 2)), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(layer.running_var.double(), values.var(2).mean(0), rtol=1e-6, atol=0)


def test_one_batch_gives_what_training_would_with_a_momentum_of_one() -> None:
    """Of layers behind others too: they see what those make of the batch."""
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 4), nn.BatchNorm1d(4))
    other, x = deepcopy(model), inputs(30, 5)
    calibrate(model, [x])
    for layer in (other[1], other[4]):
        layer.momentum = 1.0
    other(x)
    for at in (1, 4):
        torch.testing.assert_close(model[at].running_mean, other[at].running_mean)
        torch.testing.assert_close(model[at].running_var, other[at].running_var)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_else_changes(training: bool) -> None:
    model = net().train(training)
    model(inputs(8, 2, 5, 5, seed=1))
    before, modes = deepcopy(model.state_dict()), [m.training for m in model.modules()]
    random = torch.get_rng_state()
    calibrate(model, [inputs(8, 2, 5, 5)])
    assert torch.equal(torch.get_rng_state(), random)  # dropout is off
    assert [m.training for m in model.modules()] == modes
    assert model[1].momentum == 0.1
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"1.running_mean", "1.running_var"}
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_statistics_do_not_depend_on_those_before() -> None:
    model, other = net(), net()
    model[1].running_mean.fill_(float("nan"))
    model[1].running_var.fill_(-1.0)
    for m in (model, other):
        calibrate(m, [inputs(8, 2, 5, 5)])
    assert torch.equal(model[1].running_var, other[1].running_var)
    assert torch.equal(model[1].running_mean, other[1].running_mean)


def test_a_layer_frozen_on_purpose_or_never_reached_keeps_its_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False))
    model.unused = nn.BatchNorm1d(3)
    model.train()
    model[0].eval()
    calibrate(model, [inputs(8, 3)], forward=lambda x: model[1](model[0](x)))
    assert torch.equal(model[0].running_mean, torch.zeros(3)), "in evaluation mode while the model trains"
    assert not torch.equal(model[1].running_mean, torch.zeros(3))
    assert torch.equal(model.unused.running_var, torch.ones(3))
    model.eval()  # now nothing tells it from the others
    calibrate(model, [inputs(8, 3)], forward=lambda x: model[1](model[0](x)))
    assert not torch.equal(model[0].running_mean, torch.zeros(3))


def test_a_model_without_such_layers_runs_nothing() -> None:
    def batches() -> object:
        raise AssertionError
        yield

    calibrate(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.BatchNorm1d(3, track_running_stats=False)), batches())


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, pixels: Tensor, labels: object = None) -> Tensor:
        return self.norm(input=pixels)


X = inputs(8, 3)


@pytest.mark.parametrize(
    "wrap",
    [lambda x: (x, None), lambda x: [x, x], lambda x: {"pixels": x, "labels": "no tensor"}],
    ids=["pair", "list", "mapping"],
)
def test_batches_come_as_loaders_yield_them(wrap: Callable[[Tensor], object]) -> None:
    model = ByKeyword()
    calibrate(model, [wrap(X)])
    torch.testing.assert_close(model.norm.running_mean, X.mean(0))


def test_a_compiled_or_spread_module_is_the_one_inside() -> None:
    model = ByKeyword()
    calibrate(torch.compile(nn.DataParallel(model), backend="eager"), [X])
    torch.testing.assert_close(model.norm.running_mean, X.mean(0))


def test_what_cannot_be_is_refused_and_changes_nothing() -> None:
    model = ByKeyword()
    before = deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match="there is no batch to calibrate with"):
        calibrate(model, iter([]))
    with pytest.raises(ConfigError, match=r"got str: pass forward="):
        calibrate(model, [X, "text"])
    with pytest.raises(EncodeError, match="statistics of layer norm are not finite"):
        calibrate(model, [X, X / 0])
    with pytest.raises(UnsupportedModelError, match=r"reached no normalisation layer \(norm, \.\.\.\)"):
        calibrate(model, [X], forward=deepcopy(model))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert model.norm.momentum == 0.1
    assert not model.norm._forward_hooks
