"""Training in scales that the server tells: the same noise at every step, and the same scales in the frame."""

import numpy as np
import pytest
import torch
from federating import MASKED, decoded, starting_server
from torch import nn

import oracle
from fedmrn.codecs import ToldScale
from fedmrn.numerics.masking import MaskType, progressive_weights
from fedmrn.numerics.rng import Purpose, Stream, domain
from fedmrn.torch import ModelLayout, attach
from fedmrn.torch.rules.masked_noise import MaskedTraining
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group
from fedmrn.wire.terms import read_scales

KEY, STEPS = 0xFED, 4
LAWS = ["uniform", "gaussian", "bernoulli"]


def net() -> nn.Sequential:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(40, 50), nn.ReLU(), nn.Linear(50, 3))
    nn.init.zeros_(model[2].weight)
    model.register_parameter("single", nn.Parameter(torch.ones(1)))
    return model


def step(model: nn.Module, rule: MaskedTraining, at: int) -> None:
    x = torch.from_numpy(Stream(at, 1).uniform(0, 800)).reshape(20, 40) - 0.5
    rule.zero_grad()
    nn.functional.cross_entropy(model(x) * model.single, torch.arange(20) % 3).backward()  # type: ignore[operator]
    rule.step()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s", "fedmrn-no-pm"])
def test_weights_of_every_step(name: str, law: str) -> None:
    """Against noise of scale 1 times the told powers of two."""
    model = net()
    view = ModelLayout.of(model)
    base = view.read()[view.layout.span(Group.CODED)].copy()
    server = starting_server(model, name, {"noise_key": "round", "noise": law})
    round_ = server.begin(1, ["a"])
    asked = Frame.from_bytes(round_.broadcast("a"))
    rule = attach(model, torch.optim.SGD(model.parameters(), lr=0.5), asked, steps=STEPS, sampling_key=KEY)
    assert isinstance(rule, MaskedTraining)
    codec, told = rule.codecs()[Group.CODED], read_scales(asked)
    assert isinstance(codec, ToldScale)
    sizes = view.layout.sizes(Group.CODED)
    assert len(told) == len(sizes) == 5
    unit = codec.masked.noise.chunk(asked.noise_key, 0, base.size)
    noise = unit * np.repeat(np.exp2(np.array(told, np.float32)), sizes)
    for at in range(STEPS):
        q = 1.0 if name == "fedmrn-no-pm" else (at + 1) / STEPS
        expected = np.empty_like(base)
        progressive_weights(
            rule.moved.numpy().copy(),
            noise,
            base,
            q,
            Stream(KEY, domain(Purpose.TRAIN_MASK, at + 1)),
            codec.masked.mask,
            expected,
        )
        assert view.read()[: base.size].tobytes() == expected.tobytes(), at
        step(model, rule, at)
    frame = rule.finish(weight=1)
    assert oracle.scales(bytes(frame.sections[0].body)) == [(n, 2.0**e) for n, e in zip(sizes, told, strict=True)]
    update = decoded(frame, Group.CODED)
    lower = -noise if codec.masked.mask is MaskType.SIGNED else np.zeros_like(noise)
    assert ((update == noise) | (update == lower)).all()
    assert view.read()[: base.size].tobytes() == (base + update).tobytes(), "what the server will see"
    round_.add("a", frame.to_bytes())


@pytest.mark.parametrize("noise_key", ["client", "round"])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", MASKED)
def test_clients_of_one_step_a_tensor_of_zeros_and_one_of_one_element(name: str, law: str, noise_key: str) -> None:
    """By default: the first draw sees no update, and the frame has what the one step did."""
    model = net()
    server = starting_server(model, name, {"noise": law, "noise_key": noise_key})
    moved = 0.0
    for number in (1, 2):
        round_ = server.begin(number, range(3))
        for client in range(3):
            rule = attach(
                model,
                torch.optim.SGD(model.parameters(), lr=0.1),
                round_.broadcast(client),
                steps=1,
                sampling_key=client,
            )
            assert isinstance(rule, MaskedTraining)
            step(model, rule, client)
            round_.add(client, rule.finish(weight=1).to_bytes())
        before = server.state
        after = round_.finish()
        moved = float(np.abs(after - before).max())
    where = server.layout.slices["2.weight"]
    assert 0 < np.abs(server.state[where]).max() < 1, "what was zero has moved, and by no more than its noise"
    assert 0 < moved < 1
