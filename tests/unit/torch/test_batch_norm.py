"""Batch norm in a federation: scales trained as floats, statistics averaged by weight, counters left alone."""

from math import log

import numpy as np
import pytest
import torch
from federating import MASKED, batch, decoded, server_of
from side_clipping import clipped
from torch import nn
from torch.nn import functional as F

from fedmrn.torch import ModelLayout, attach
from fedmrn.wire.layout import Group

CLIENTS = {"a": 3, "b": 10, "c": 1}
METHODS = ("fedavg", *MASKED)


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))


@pytest.mark.parametrize("name", METHODS)
def test_statistics_and_scales_are_averaged_by_weight(name: str) -> None:
    model = net()
    server = server_of(model, name)
    round_ = server.begin(1, CLIENTS)
    ends = []
    for client, weight in CLIENTS.items():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        rule = attach(model, optimizer, round_.broadcast(client), accept="any", steps=2, sampling_key=weight)
        model.train()
        x, y = batch(8)
        for _ in range(2):
            rule.zero_grad()
            F.cross_entropy(model(x + weight), y).backward()
            rule.step()
        round_.add(client, rule.finish(weight=weight).to_bytes())
        ends.append({k: v.double().numpy().copy() for k, v in model.state_dict().items()})
    ModelLayout.of(model).write(round_.finish())
    weights = np.array(list(CLIENTS.values())) / sum(CLIENTS.values())
    start = net().state_dict()
    for key in ("1.weight", "1.bias", "1.running_mean"):
        before = start[key].double().numpy()
        counts = clipped(np.array([end[key] - before for end in ends]))
        held = model.state_dict()[key].numpy()
        # Rounded once when the update is made, once as a distance from the median, once as a bound, once as the mean,
        # and once when it is added; units of the sum are finer than 2^-60.
        size = max(np.abs(end[key]).max() for end in ends)
        assert np.abs(held - before - weights @ counts).max() <= 5 * 2.0**-24 * size
        assert np.abs(held - before - counts.mean(axis=0)).max() > 1e-3 * size
    # Variances by their logarithms: each is rounded once, to float32, and its bound and the mean as above.
    logs = clipped(np.array([np.log(end["1.running_var"]) for end in ends]), log(4))
    held = model.state_dict()["1.running_var"].numpy()
    assert (np.abs(held / np.exp(weights @ logs) - 1) <= 4 * 2.0**-24 * np.abs(logs).max() + 2.0**-24).all()
    assert (np.abs(held / np.exp(logs.mean(axis=0)) - 1) > 1e-4).any()


def test_counters_stay_at_home() -> None:
    model = net()
    round_ = server_of(model).begin(1, ["a"])
    rule = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), round_.broadcast("a"), accept="any", steps=3)
    x, y = batch(8)
    for _ in range(3):
        rule.zero_grad()
        F.cross_entropy(model(x), y).backward()
        rule.step()
    frame = round_.add("a", rule.finish(weight=1).to_bytes())
    assert int(model[1].num_batches_tracked) == 3
    view = ModelLayout.of(model)
    assert view.counters == ("1.num_batches_tracked",)
    parts = frame.account()
    assert parts["coded"] == -(-(6 * 4 + 4 + 4 * 3 + 3) // 8)
    assert parts["dense"] == 4 * 8
    assert parts["stats"] == parts["variance"] == 4 * 4
    assert sum(parts.values()) == len(frame.to_bytes())


@pytest.mark.parametrize("name", ["fedavg", "fedmrn"])
def test_the_first_step_of_the_scales_is_that_of_plain_sgd(name: str) -> None:
    """With u = 0 a binary mask leaves the weights alone, so that the first step can be made by hand."""
    model, plain = net(), net()
    round_ = server_of(model, name).begin(1, ["a"])
    rule = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), round_.broadcast("a"), accept="any", steps=1)
    x, y = batch(8)
    for each in (model, plain):
        F.cross_entropy(each(x), y).backward()
    rule.step()
    frame = rule.finish(weight=1)
    pre = F.linear(x, plain[0].weight, plain[0].bias).detach().double()
    expected = torch.cat([1 - 0.1 * plain[1].weight.grad, -0.1 * plain[1].bias.grad])
    held = torch.cat([model[1].weight.detach(), model[1].bias.detach()])
    assert torch.equal(held, expected)
    start = np.concatenate([np.ones(4), np.zeros(4)]).astype(np.float32)
    np.testing.assert_array_equal(decoded(frame, Group.DENSE), held.numpy() - start)
    np.testing.assert_allclose(decoded(frame, Group.STATS), 0.1 * pre.mean(0), atol=8 * 2.0**-24)
    variance = 0.9 + 0.1 * pre.var(0, unbiased=True).numpy()
    np.testing.assert_allclose(decoded(frame, Group.VARIANCE), np.log(variance), atol=8 * 2.0**-24)


def test_batch_norm_without_statistics_or_scales_sends_none() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, affine=False, track_running_stats=False), nn.Linear(4, 3))
    view = ModelLayout.of(model)
    assert {t.group for t in view.layout.tensors} == {Group.CODED}
    assert view.counters == ()
    round_ = server_of(model).begin(1, ["a"])
    rule = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), round_.broadcast("a"), accept="any", steps=1)
    x, y = batch(8)
    F.cross_entropy(model(x), y).backward()
    rule.step()
    frame = round_.add("a", rule.finish(weight=1).to_bytes())
    assert len(frame.sections) == 1
