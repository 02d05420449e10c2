"""Attaching: what a broadcast may be, which rule it names, keys, and what is refused."""

import numpy as np
import pytest
import torch
from federating import MASKED, Pushed, batch, broadcast_of, decoded, masks, noise_of, server_of, values
from torch import nn
from torch.nn import functional as F

from fedmrn.errors import (
    ChecksumError,
    EncodeError,
    TruncatedFrameError,
    UnsupportedModelError,
    WrongKindError,
    WrongLayoutError,
    WrongMethodError,
)
from fedmrn.torch import LocalRule, MaskedTraining, ModelLayout, attach
from fedmrn.torch.rules.private import SignedTraining
from fedmrn.wire.frame import Frame, Kind
from fedmrn.wire.layout import Group


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def step(model: nn.Module, rule: LocalRule, n: int = 1) -> None:
    x, y = batch()
    for _ in range(n):
        rule.zero_grad()
        F.cross_entropy(model(x), y).backward()
        rule.step()


@pytest.mark.parametrize(
    ("name", "kind"), [("fedavg", LocalRule), ("fedmrn", MaskedTraining), ("fedmrn-s", SignedTraining)]
)
def test_the_broadcast_chooses_the_rule(name: str, kind: type[LocalRule]) -> None:
    model = net()
    broadcast = broadcast_of(model, name)
    assert type(attach(model, sgd(model), broadcast, accept="any", steps=1)) is kind
    assert type(attach(model, sgd(model), Frame.from_bytes(broadcast), accept="any", steps=1)) is kind


def test_a_method_that_does_not_exist_is_refused() -> None:
    model = net()
    frame = Frame.from_bytes(broadcast_of(model))
    unknown = Frame(Kind.BROADCAST, 60000, 1, 1, frame.layout_digest, 0, frame.sections)
    with pytest.raises(WrongMethodError, match="60000"):
        attach(model, sgd(model), unknown, accept="any", steps=1)


def test_attaching_sets_the_model_to_the_broadcasts_state() -> None:
    sender, receiver = net(), net()
    attach(receiver, sgd(receiver), broadcast_of(sender), accept="any", steps=1)
    # Binary, u = 0: the masked weights of the first step are the state itself.
    for name, value in sender.state_dict().items():
        assert torch.equal(receiver.state_dict()[name], value), name


def test_damaged_broadcasts_and_those_of_other_models_are_refused_and_change_nothing() -> None:
    model, other = net(), nn.Linear(6, 3)
    good = broadcast_of(net())
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 4
    update = attach(other, sgd(other), broadcast_of(other), accept="any", steps=1)
    step(other, update)
    cases = [
        (good[:-1], TruncatedFrameError),
        (bytes(damaged), ChecksumError),
        (broadcast_of(other), WrongLayoutError),
        (update.finish(weight=1).to_bytes(), WrongKindError),
    ]
    before = values(model.state_dict())
    for broadcast, error in cases:
        with pytest.raises(error):
            attach(model, sgd(model), broadcast, accept="any", steps=1)
    after = values(model.state_dict())
    assert all(np.array_equal(before[k], after[k]) for k in before)


def test_masked_noise_needs_a_broadcast_that_asks_for_it() -> None:
    model = net()
    with pytest.raises(UnsupportedModelError, match="does not ask for masked noise"):
        MaskedTraining(model, sgd(model), broadcast_of(model, "fedavg"), steps=1)


def test_a_model_of_float64_is_refused_with_the_tensors_name() -> None:
    model = net().double()
    with pytest.raises(UnsupportedModelError, match=r"0\.weight is torch\.float64; .*model\.float\(\)"):
        attach(model, sgd(model), broadcast_of(net()), accept="any", steps=1)
    attach(model.float(), sgd(model), broadcast_of(net()), accept="any", steps=1)


def test_two_attachments_draw_different_masks() -> None:
    model = Pushed(400)
    broadcast, sent = broadcast_of(model, "fedmrn-s"), []
    for key in (None, None, 7, 7):
        rule = attach(model, sgd(model), broadcast, accept="any", steps=1, sampling_key=key)
        model.pushed(torch.zeros(400)).backward()
        rule.step()
        sent.append(masks(rule.finish(weight=1), 400))
    # Signed masks of u = 0 are fair coins: 400 alike would be a chance of 2^-400.
    assert not np.array_equal(sent[0], sent[1])
    assert np.array_equal(sent[2], sent[3])
    for mask in sent:
        assert abs(int(mask.sum()) - 200) < 60  # six standard deviations of 10


@pytest.mark.parametrize("weight", [0, -3])
def test_a_weight_below_one_is_refused_and_can_be_corrected(weight: int) -> None:
    model = net()
    rule = attach(model, sgd(model), broadcast_of(model), accept="any", steps=1)
    step(model, rule)
    with pytest.raises(EncodeError, match="weight is at least 1"):
        rule.finish(weight=weight)
    assert rule.finish(weight=12).weight == 12


@pytest.mark.parametrize("name", ["fedavg", "fedmrn"])
def test_training_that_diverged_says_so(name: str) -> None:
    model = net()
    rule = attach(model, sgd(model), broadcast_of(model, name), accept="any", steps=1)
    step(model, rule)
    with torch.no_grad():
        (rule.moved if isinstance(rule, MaskedTraining) else model[0].weight)[0] = torch.nan
    with pytest.raises(EncodeError, match="training diverged"):
        rule.finish(weight=1)


def test_fedavg_hands_over_the_difference_and_keeps_the_trained_weights() -> None:
    torch.manual_seed(2)
    model = net()
    plain = net()
    plain.load_state_dict(model.state_dict())
    broadcast, before = broadcast_of(model, "fedavg"), ModelLayout.of(model).read()
    rule, alone = attach(model, sgd(model), broadcast, accept="any", steps=3), sgd(plain)
    x, y = batch()
    for _ in range(3):
        rule.zero_grad()
        F.cross_entropy(model(x), y).backward()
        rule.step()
        alone.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        alone.step()
    frame = rule.finish(weight=1)
    trained = ModelLayout.of(plain).read()
    np.testing.assert_array_equal(ModelLayout.of(model).read(), trained)
    sent = np.concatenate([decoded(frame, g) for g in Group])
    variances = ModelLayout.of(plain).layout.span(Group.VARIANCE)
    expected = trained - before
    expected[variances] = np.log(trained[variances].astype(np.float64) / before[variances])
    np.testing.assert_array_equal(sent[: variances.start], expected[: variances.start])
    np.testing.assert_allclose(sent[variances], expected[variances], rtol=2.0**-23)


class TestPostTrainingMasks:
    """The ablation: train freely, mask the difference at the end."""

    @pytest.mark.parametrize("name", MASKED)
    def test_the_frame_is_the_methods_and_the_mean_over_keys_is_the_clipped_update(self, name: str) -> None:
        """Each element's mean over K keys is within 5 standard errors: p (1 - p) <= 1/4 times the codewords' distance.

        300 elements: the chance of one beyond 5 standard deviations is 300 * 6e-7, and the keys are fixed.
        """
        size, keys = 300, 400
        gradient = torch.linspace(-1, 1, size)
        sums, update = np.zeros(size), None
        for key in range(keys):
            model = Pushed(size)
            w = model.w.detach().clone()
            round_ = server_of(model, name).begin(1, ["a"])
            broadcast = round_.broadcast("a")
            rule = LocalRule(model, sgd(model, 0.015), broadcast, steps=1, sampling_key=key)
            model.pushed(gradient).backward()
            rule.step()
            update = (model.w.detach() - w).numpy()
            frame = rule.finish(weight=1)
            round_.add("a", frame.to_bytes())
            sums += decoded(frame, Group.CODED)
        noise = noise_of(broadcast, size).astype(np.float64)
        assert update is not None
        lower = -np.abs(noise) if name == "fedmrn-s" else np.minimum(noise, 0)
        upper = np.abs(noise) if name == "fedmrn-s" else np.maximum(noise, 0)
        expected = np.clip(update, lower, upper)
        inside = (lower < update) & (update < upper)
        assert inside.sum() > size // 10
        assert (~inside).sum() > size // 10
        p = (expected - lower) / (upper - lower)
        error = np.sqrt(p * (1 - p) / keys) * (upper - lower)
        assert (np.abs(sums / keys - expected) <= 5 * error + 2.0**-22 * np.abs(noise)).all()

    def test_training_is_that_of_fedavg(self) -> None:
        ends = []
        for name in ("fedavg", "fedmrn"):
            torch.manual_seed(2)
            model = net()
            rule = LocalRule(model, sgd(model), broadcast_of(model, name), steps=3)
            step(model, rule, 3)
            ends.append(rule.update())
        np.testing.assert_array_equal(*ends)
