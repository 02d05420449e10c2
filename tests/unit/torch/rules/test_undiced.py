"""Statistics that a client sends are of the weights that its update stands for, without the dice of its own mask."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from federating import batch, starting_server
from torch import nn
from torch.nn import functional as F

from fedmrn.codecs import EncodeKeys, codec_from
from fedmrn.errors import ConfigError
from fedmrn.methods import METHODS
from fedmrn.torch import LocalData, LocalRule, Training, attach, calibrate, train, train_client
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group

SCALED = {"fedmrn": {"scale": 0.05}, "fedmrn-s": {"scale": 0.05}}


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))


def attached(model: nn.Module, name: str, steps: int = 3, **options: object) -> LocalRule:
    broadcast = starting_server(model, name, options).begin(1, [0]).broadcast(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    return attach(model, optimizer, broadcast, accept="any", steps=steps, sampling_key=5, memory=None)


def trained(model: nn.Module, rule: LocalRule) -> None:
    model.train()
    x, y = batch(16)
    for _ in range(3):
        rule.zero_grad()
        F.cross_entropy(model(x), y).backward()
        rule.step()


def statistics(model: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    return model[1].running_mean.numpy().copy(), model[1].running_var.numpy().copy()


@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s"])
def test_they_are_those_of_the_mean_over_all_masks(name: str) -> None:
    """The oracle draws a thousand frames of the same update, and calibrates their mean."""
    model, x = net(), batch(16)[0]
    rule = attached(model, name, **SCALED[name])
    trained(model, rule)
    rule.refresh_statistics([x])
    found = statistics(model)
    vector, decoded = rule.update(), []
    with rule.undiced():
        weights = model[0].weight.detach().numpy().copy()
    template = rule.broadcast.select(Role.TEMPLATE, Group.CODED)
    codec = codec_from(template.codec, template.params)
    for key in range(1000):
        keys = EncodeKeys(rule.broadcast.noise_key, key, rule.view.layout.sizes(Group.CODED))
        body = codec.encode(vector[: rule.size], keys)
        decoded.append(codec.decode(body, rule.size, rule.broadcast.noise_key))
    where = rule.view.layout.slices["0.weight"]
    mean = rule.received[where] + np.mean(decoded, axis=0)[where]
    # A draw is within 2 * 0.05 of its mean: the mean of 1000 has a deviation below 0.05 / sqrt(1000); six of them.
    assert np.abs(weights.ravel() - mean).max() < 6 * 0.05 / 1000**0.5
    other = net()
    other.load_state_dict(model.state_dict())
    with rule.undiced():
        other.load_state_dict(model.state_dict())
    calibrate(other, [x])
    assert np.array_equal(statistics(other)[0], found[0])
    assert np.array_equal(statistics(other)[1], found[1])


@pytest.mark.parametrize("name", [*METHODS])
def test_the_next_step_sees_what_it_would_have_seen(name: str) -> None:
    """Whatever the method: `undiced` leaves no trace but the statistics."""
    model = net()
    rule = attached(model, name, **SCALED.get(name, {}))
    trained(model, rule)
    before = deepcopy(model.state_dict())
    rule.refresh_statistics([batch(16)[0]])
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {"1.running_mean", "1.running_var"}
    with rule.undiced():
        pass
    assert torch.equal(model[0].weight, before["0.weight"])


@pytest.mark.parametrize("name", [*METHODS])
def test_train_client_sends_refreshed_statistics_of_plain_samples(name: str) -> None:
    """Of as many samples as the training says; the augmentation of training is not applied."""
    x, y = batch(16)
    sent = []
    for count in (0, 7, 99):
        model = net()
        training = Training(batch_size=4, lr=0.3, statistics=count, augment=lambda x, _, __: x + 7)
        rule = attached(model, name, steps=4, **SCALED.get(name, {}))
        frame, _ = train_client(model, rule, LocalData(x, y, key=3), training, weight=1)
        sent.append((frame.to_bytes(), *statistics(model), rule))
    none, some, every = sent
    assert some[0] != every[0]
    expected = net()
    rule = attached(expected, name, steps=4, **SCALED.get(name, {}))
    train(expected, rule, LocalData(x, y, key=3), Training(batch_size=4, lr=0.3, augment=lambda x, _, __: x + 7))
    assert np.array_equal(statistics(expected)[0], none[1]), "without: those of training's own batches"
    with rule.undiced():
        values = expected[0](x).detach().double()
    # Four batches of four, pooled in float64; each rounds its mean and variance to float32.
    np.testing.assert_allclose(every[1], values.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(every[2], values.var(0), rtol=1e-5)


def coded(data: bytes) -> bytes:
    section = Frame.from_bytes(data).select(Role.UPDATE, Group.CODED)
    return b"" if section is None else bytes(section.body)


def test_refreshing_changes_nothing_of_the_coded_part() -> None:
    x, y = batch(16)
    frames = []
    for count in (0, 16):
        model = net()
        rule = attached(model, "fedmrn", steps=4, scale=0.05)
        data = LocalData(x, y, key=3)
        frames.append(train_client(model, rule, data, Training(batch_size=4, statistics=count))[0].to_bytes())
    assert coded(frames[0]) == coded(frames[1])
    assert frames[0] != frames[1]


def test_a_finished_client_and_a_negative_number_are_refused() -> None:
    model = net()
    rule = attached(model, "fedavg")
    trained(model, rule)
    rule.finish(weight=1)
    with pytest.raises(ConfigError, match="this client has finished"):
        rule.refresh_statistics([batch(16)[0]])
    with pytest.raises(ConfigError, match="statistics is a number of samples"):
        Training(statistics=-1)
