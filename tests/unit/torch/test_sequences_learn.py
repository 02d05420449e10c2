"""Sequence models learn through one-bit frames: rounds of several clients on a small task."""

import pytest
import torch
from federating import MASKED, server_of
from torch import Tensor
from zoo import Recurrent, Transformer

from fedmrn.numerics.rng import derive_key
from fedmrn.torch import LocalData, ModelLayout, Training, attach, evaluate, train_client

CLIENTS, SAMPLES, ROUNDS = 3, 40, 40


def tokens(n: int) -> tuple[Tensor, Tensor]:
    """Five tokens of eight; the class is the last one, modulo three."""
    x = torch.randint(0, 8, (n, 5))
    return x, x[:, -1] % 3


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize(("make", "lr"), [(Recurrent, 5.0), (Transformer, 1.0)])
def test_loss_falls_over_the_rounds_on_samples_no_client_has(name: str, make: type[torch.nn.Module], lr: float) -> None:
    torch.manual_seed(3)
    model = make()
    server = server_of(model, name, scale=0.1 if name == "fedmrn" else 0.05)
    view = ModelLayout.of(model)
    parts, test = [tokens(SAMPLES) for _ in range(CLIENTS)], tokens(200)
    _, before = evaluate(model, *test)
    for number in range(1, ROUNDS + 1):
        round_ = server.begin(number, range(CLIENTS))
        for client, (x, y) in enumerate(parts):
            data, training = LocalData(x, y, derive_key(number, client)), Training(local_epochs=2, batch_size=10, lr=lr)
            optimizer = training.make_optimizer(model)
            key = derive_key(1, number, client)
            steps = training.steps(len(data))
            rule = attach(model, optimizer, round_.broadcast(client), accept="any", steps=steps, sampling_key=key)
            round_.add(client, train_client(model, rule, data, training)[0].to_bytes())
        view.write(round_.finish())
    accuracy, after = evaluate(model, *test)
    assert after < 0.4 * before
    # Guessing the most frequent class gives 3/8.
    assert accuracy > 0.8
