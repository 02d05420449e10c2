"""One's own loop and the ready-made one, the data of a client, evaluation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from federating import batch, broadcast_of, values
from torch import Tensor, nn
from torch.nn import functional as F

from fedmrn.errors import ConfigError, EncodeError
from fedmrn.numerics.rng import Purpose, Stream, domain
from fedmrn.torch import LocalData, LocalRule, Training, attach, evaluate, train, train_client
from fedmrn.torch.objectives import CLASSES
from fedmrn.wire.frame import Frame

METHODS = ("fedavg", "fedmrn", "fedmrn-s")


def net() -> nn.Sequential:
    torch.manual_seed(8)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
    )


def images(n: int = 11) -> tuple[Tensor, Tensor]:
    torch.manual_seed(9)
    return batch(n, 2, 4, 4)


def attached(model: nn.Module, name: str, steps: int, lr: float = 0.1) -> LocalRule:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return attach(model, optimizer, broadcast_of(model, name), accept="any", steps=steps, sampling_key=21)


@pytest.mark.parametrize("name", METHODS)
def test_ones_own_loop_and_the_ready_made_one_give_the_same_bytes(name: str) -> None:
    x, y = images()
    data, training = LocalData(x, y, 77), Training(local_epochs=2, batch_size=4)
    model = net()
    ready, loss = train_client(model, attached(model, name, 6), data, training)
    held = values(model.state_dict())

    model = net()
    opt = attached(model, name, 6)
    model.train()
    for epoch in range(2):
        order = torch.from_numpy(Stream(77, domain(Purpose.SHUFFLE, epoch)).permutation(11))
        epoch_loss = 0.0
        for chosen in order.split(4):
            opt.zero_grad()
            value = F.cross_entropy(model(x[chosen]), y[chosen])
            value.backward()
            opt.step()
            epoch_loss += value.item() * len(chosen) / 11
    order = torch.from_numpy(Stream(77, domain(Purpose.SHUFFLE, 2)).permutation(11))
    opt.refresh_statistics(x[chosen] for chosen in order.tensor_split(3))
    frame = opt.finish(weight=11)
    assert frame.to_bytes() == ready.to_bytes()
    assert loss == pytest.approx(epoch_loss, rel=1e-12)
    own = values(model.state_dict())
    assert all(np.array_equal(held[k], own[k]) for k in held)


def test_the_frame_depends_on_every_key_and_on_the_order_of_samples() -> None:
    x, y = images()

    def run(key: int = 77, sampling: int = 21, name: str = "fedmrn") -> bytes:
        model, training = net(), Training(local_epochs=2, batch_size=4)
        optimizer = training.make_optimizer(model)
        rule = attach(
            model, optimizer, broadcast_of(model, name), accept="any", steps=training.steps(11), sampling_key=sampling
        )
        return train_client(model, rule, LocalData(x, y, key), training)[0].to_bytes()

    assert run() == run()
    assert len({run(), run(key=78), run(sampling=22), run(name="fedmrn-s")}) == 4


def test_each_epoch_goes_through_every_sample_once_in_another_order() -> None:
    seen: list[Tensor] = []

    def note(x: Tensor, stream: Stream, start: int) -> Tensor:
        assert start == sum(len(s) for s in seen) % 11
        assert stream == Stream(5, domain(Purpose.AUGMENT, sum(len(s) for s in seen) // 11))
        seen.append(x[:, 0, 0, 0].clone())
        return x

    x, y = images()
    model, training = net(), Training(local_epochs=3, batch_size=4, augment=note)
    train(model, attached(model, "fedmrn", 9), LocalData(x, y, 5), training)
    assert [len(s) for s in seen] == [4, 4, 3] * 3
    epochs = torch.cat(seen).view(3, 11)
    assert all(torch.equal(e.sort().values, x[:, 0, 0, 0].sort().values) for e in epochs)
    assert not torch.equal(epochs[0], epochs[1])


def test_what_augment_returns_is_what_is_trained_on() -> None:
    x, y = images()
    frames = []
    for augment in (None, lambda x, stream, start: x * 2, lambda x, stream, start: x):
        model, training = net(), Training(batch_size=4, augment=augment)
        frame, _ = train_client(model, attached(model, "fedavg", 3), LocalData(x, y, 5), training)
        frames.append(frame.to_bytes())
    assert frames[0] == frames[2]
    assert frames[0] != frames[1]


def test_a_loss_of_ones_own() -> None:
    x, y = images()
    calls = []

    def loss(out: Tensor, target: Tensor) -> Tensor:
        calls.append(len(target))
        return (out[torch.arange(len(target)), target] - 1).square().mean()

    model, training = net(), Training(batch_size=4, loss=loss)
    frame, mean = train_client(model, attached(model, "fedmrn", 3), LocalData(x, y, 5), training)
    assert calls == [4, 4, 3]
    assert frame.weight == 11
    assert mean > 0


@pytest.mark.parametrize(
    ("weight", "by_batches", "expected"), [(None, False, 11), (None, True, 3), (1, False, 1), (5, True, 5)]
)
def test_the_weight_is_that_of_the_training_or_what_one_says(
    weight: int | None, by_batches: bool, expected: int
) -> None:
    x, y = images()
    model, training = net(), Training(batch_size=4, by_batches=by_batches)
    frame, _ = train_client(model, attached(model, "fedmrn", 3), LocalData(x, y, 5), training, weight=weight)
    assert Frame.from_bytes(frame.to_bytes()).weight == expected


def test_a_weight_of_zero_is_refused_not_replaced() -> None:
    x, y = images()
    model = net()
    with pytest.raises(EncodeError, match="weight is at least 1, got 0"):
        train_client(model, attached(model, "fedmrn", 3), LocalData(x, y, 5), Training(batch_size=4), weight=0)


@pytest.mark.parametrize(
    ("samples", "epochs", "size", "batches", "steps"),
    [(11, 2, 4, 3, 6), (12, 2, 4, 3, 6), (1, 1, 64, 1, 1), (5, 3, 1, 5, 15)],
)
def test_the_steps_of_a_client(samples: int, epochs: int, size: int, batches: int, steps: int) -> None:
    training = Training(local_epochs=epochs, batch_size=size)
    assert (training.batches(samples), training.steps(samples)) == (batches, steps)


@pytest.mark.parametrize(("epochs", "size"), [(0, 1), (1, 0), (-1, 1)])
def test_training_without_epochs_or_batches_is_refused(epochs: int, size: int) -> None:
    with pytest.raises(ConfigError, match="at least one local epoch and one sample a batch"):
        Training(local_epochs=epochs, batch_size=size)


def test_a_client_without_samples_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one sample"):
        LocalData(torch.zeros(0, 2), torch.zeros(0), 0)


def test_training_leaves_the_callers_data_alone_and_trains_in_training_mode() -> None:
    x, y = images()
    kept = x.clone(), y.clone()
    model = net()
    model.eval()
    running = model[1].running_mean.clone()
    train_client(model, attached(model, "fedmrn", 3), LocalData(x, y, 5), Training(batch_size=4))
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])
    assert not torch.equal(model[1].running_mean, running)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 1000])
def test_evaluation_by_hand(batch_size: int) -> None:
    x, y = images()
    model = net()
    before = values(model.state_dict())
    accuracy, loss = evaluate(model, x, y, batch_size=batch_size)
    model.eval()
    with torch.no_grad():
        out = model(x).double()
    assert accuracy == int((out.argmax(1) == y).sum()) / 11
    expected = -out.log_softmax(1)[torch.arange(11), y].mean().item()
    # One convolution, one linear layer and one softmax in float32.
    assert loss == pytest.approx(expected, rel=2.0**-18)
    after = values(model.state_dict())
    assert all(np.array_equal(before[k], after[k]) for k in before)


def test_evaluation_weighs_a_ragged_last_batch_by_its_samples() -> None:
    x, y = torch.eye(3), torch.tensor([0, 1, 0])
    sizes: list[int] = []

    def loss(out: Tensor, target: Tensor) -> Tensor:
        sizes.append(len(target))
        return (out.argmax(1) != target).float().mean()

    accuracy, wrong = evaluate(nn.Identity(), x, y, batch_size=2, objective=replace(CLASSES, loss=loss))
    assert sizes == [2, 1]
    assert (accuracy, wrong) == (2 / 3, pytest.approx(1 / 3))


@pytest.mark.parametrize("name", METHODS)
def test_dropout_follows_the_frameworks_seed(name: str) -> None:
    x, y = batch(8)

    def run(seed: int) -> bytes:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        training = Training(local_epochs=2, batch_size=4)
        torch.manual_seed(seed)
        return train_client(model, attached(model, name, 4), LocalData(x, y, 5), training)[0].to_bytes()

    assert run(1) == run(1)
    assert run(1) != run(2)


@pytest.mark.parametrize("name", METHODS)
def test_a_model_that_calls_view_on_what_it_gets(name: str) -> None:
    """Strides are the caller's: only `channels_last=True` changes them, and that is for models that allow it."""

    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.out = nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            assert x.view(len(x), -1).shape == (len(x), 48)
            return self.out(self.conv(x).view(-1, 64))

    model = Viewing()
    data, training = LocalData(torch.randn(6, 3, 4, 4), torch.randint(0, 3, (6,)), key=1), Training(batch_size=4)
    train_client(model, attached(model, name, 2), data, training)
    evaluate(model, data.x, data.y)
    quick = replace(training, channels_last=True)
    with pytest.raises(RuntimeError, match="view"):
        train(model, attached(model, name, 2), data, quick)


def test_samples_without_targets_are_refused() -> None:
    with pytest.raises(ConfigError, match="6 samples and 5 targets"):
        LocalData(torch.zeros(6, 2), torch.zeros(5), key=0)


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (600.0, "is a whole number, got 600.0"),
        (float("nan"), "is a whole number, got nan"),
        (0, "is at least 1, got 0"),
        (-1, "is at least 1, got -1"),
        (1 << 64, "is too large"),
        (True + 0.5, "is a whole number, got 1.5"),
        ("6", "is a whole number, got '6'"),
    ],
)
def test_a_weight_is_a_positive_integer(weight: object, words: str) -> None:
    model = net()
    rule = attached(model, "fedmrn", 1)
    rule.step()
    with pytest.raises(EncodeError, match=f"a client's weight {words}"):
        rule.finish(weight=weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_autocast_changes_the_forward_and_neither_the_parameters_nor_what_is_asked_for(name: str) -> None:
    """Layers answer in bfloat16, whose values have 8 bits: a dozen roundings of 2^-9 move the loss by less than a
    twentieth. All else stays float32."""
    x, y = images()

    def run(bfloat16: bool) -> tuple[float, set[torch.dtype]]:
        model, training = net(), Training(batch_size=4, bfloat16=bfloat16)
        seen: set[torch.dtype] = set()
        model[0].register_forward_hook(lambda _module, _inputs, out: seen.add(out.dtype))
        frame, loss = train_client(model, attached(model, name, 3, lr=0.01), LocalData(x, y, 77), training)
        assert Frame.from_bytes(frame.to_bytes()) == frame
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
        return loss, seen

    (exact, full), (near, half) = run(False), run(True)
    assert (full, half) == ({torch.float32}, {torch.bfloat16})
    assert exact != near
    assert near == pytest.approx(exact, rel=0.05)
