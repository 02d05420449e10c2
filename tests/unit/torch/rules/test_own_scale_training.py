"""scale = "auto" in training: each draw sees noise whose scale fits u at that step; the frame has the last."""

import numpy as np
import pytest
import torch
from federating import MASKED, decoded, starting_server, values
from numpy.typing import NDArray
from torch import nn

import oracle
from fedmrn.codecs import InterleavedMask, OwnScale, codec_from
from fedmrn.numerics.masking import MaskType, progressive_weights
from fedmrn.numerics.rng import Purpose, Stream, domain
from fedmrn.torch import ModelLayout, attach
from fedmrn.torch.rules.masked_noise import MaskedTraining
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group

KEY, STEPS = 0xFED, 6
F32 = NDArray[np.float32]
OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.5),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}


def net() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(40, 50), nn.BatchNorm1d(50), nn.ReLU(), nn.Linear(50, 3))


def asked_for(model: nn.Module, name: str, options: dict[str, str]) -> Frame:
    return Frame.from_bytes(starting_server(model, name, options).begin(1, ["a"]).broadcast("a"))


def step(model: nn.Module, rule: MaskedTraining, at: int) -> None:
    x = torch.from_numpy(Stream(at, 1).uniform(0, 800)).reshape(20, 40) - 0.5
    y = torch.arange(20) % 3
    rule.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    rule.step()


def coded_part(model: nn.Module) -> F32:
    view = ModelLayout.of(model)
    return view.read()[view.layout.span(Group.CODED)].copy()


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("law", ["uniform", "gaussian", "bernoulli"])
@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s", "fedmrn-no-pm", "fedmrn-no-sm"])
def test_weights_of_every_step(name: str, law: str, optimiser: str) -> None:
    """Against noise made anew for each step, in the scales of what u is then."""
    model = net()
    base = coded_part(model)
    asked = asked_for(model, name, {"scale": "auto", "noise": law})
    fixed = {"progressive": name != "fedmrn-no-pm", "stochastic": name != "fedmrn-no-sm"}
    rule = attach(model, OPTIMISERS[optimiser](model.parameters()), asked, accept="any", steps=STEPS, sampling_key=KEY)
    assert isinstance(rule, MaskedTraining)
    codec = rule.codecs()[Group.CODED]
    assert isinstance(codec, OwnScale)
    mask = codec.masked.mask
    unit = codec.masked.noise.chunk(asked.noise_key, 0, base.size)
    sizes = rule.view.layout.sizes(Group.CODED)
    ends = np.cumsum(sizes)
    kinds = set()
    for at in range(STEPS):
        u = rule.u.numpy().copy()
        scales = [codec.scale(u[end - size : end]) if at else 2.0**-80 for end, size in zip(ends, sizes, strict=True)]
        kinds.add(tuple(scales))
        noise = unit * np.repeat(np.array(scales, np.float32), sizes)
        q = 1.0 if name == "fedmrn-no-pm" else (at + 1) / STEPS
        stream, expected = Stream(KEY, domain(Purpose.TRAIN_MASK, at + 1)), np.empty_like(base)
        progressive_weights(rule.moved.numpy(), noise, base, q, stream, mask, expected, stochastic=fixed["stochastic"])
        assert coded_part(model).tobytes() == expected.tobytes(), at
        step(model, rule, at)
    assert len(kinds) > 2, "the scales never moved: nothing was tested"
    u = rule.u.numpy().copy()
    frame = rule.finish(weight=1)
    section = frame.select(Role.UPDATE, Group.CODED)
    assert section is not None
    scales = [codec.scale(u[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
    assert oracle.scales(bytes(section.body)) == list(zip(sizes, scales, strict=True))
    noise = unit * np.repeat(np.array(scales, np.float32), sizes)
    update = decoded(frame, Group.CODED)
    lower = -noise if mask is MaskType.SIGNED else np.zeros_like(noise)
    assert ((update == noise) | (update == lower)).all()
    assert 0.02 < (update == noise).mean() < 0.98
    assert coded_part(model).tobytes() == (base + update).tobytes(), "what the server will see"


@pytest.mark.parametrize("name", MASKED)
def test_coding_changes_nothing_but_the_bytes(name: str) -> None:
    found = []
    for coding in ("raw", "entropy"):
        model = net()
        asked = asked_for(model, name, {"scale": "auto", "coding": coding})
        rule = attach(model, OPTIMISERS["sgd"](model.parameters()), asked, accept="any", steps=3, sampling_key=KEY)
        for at in range(3):
            step(model, rule, at)
        frame = rule.finish(weight=1)
        found.append((decoded(frame, Group.CODED).tobytes(), values(model.state_dict())))
        section = frame.select(Role.UPDATE, Group.CODED)
        assert section is not None
        codec = codec_from(section.codec, section.params)
        assert isinstance(codec, OwnScale)
        assert isinstance(codec.inner, InterleavedMask) is (coding == "entropy")
    assert found[0][0] == found[1][0]
    assert all(found[0][1][k].tobytes() == found[1][1][k].tobytes() for k in found[0][1])


def test_a_tensor_without_elements_and_one_that_does_not_move() -> None:
    model = net()
    model.register_parameter("empty", nn.Parameter(torch.empty(0, 3)))
    model.register_parameter("unused", nn.Parameter(torch.ones(2, 2)))
    server = starting_server(model, "fedmrn-s", {"scale": "auto"})
    round_ = server.begin(1, ["a"])
    rule = attach(
        model, OPTIMISERS["sgd"](model.parameters()), round_.broadcast("a"), accept="any", steps=2, sampling_key=KEY
    )
    for at in range(2):
        step(model, rule, at)
    frame = rule.finish(weight=1)
    round_.add("a", frame.to_bytes())
    after = round_.finish()
    assert server.observed["noise_scale"]["unused"] == 2.0**-80
    where = server.layout.slices["unused"]
    assert np.array_equal(after[where], np.ones(4, np.float32))
    assert "empty" not in server.observed["noise_scale"]
    assert isinstance(Frame.from_bytes(frame.to_bytes()), Frame)


def test_noise_recovers_from_an_update_that_leaps() -> None:
    """From none to 10^15 and back the scale goes from 2^-80 to above 2^48: no factor of float32."""
    model = nn.Linear(40, 50, bias=False)
    asked = asked_for(model, "fedmrn", {"scale": "auto"})
    rule = attach(model, torch.optim.SGD(model.parameters(), lr=1.0), asked, accept="any", steps=3, sampling_key=KEY)
    assert isinstance(rule, MaskedTraining)
    for leap in (1e15, -1e15, 1e-3):
        model.weight.grad = torch.full_like(model.weight, leap)
        rule.step()
    unit = asked_codec(rule).masked.noise.chunk(asked.noise_key, 0, 2000)
    scale = asked_codec(rule).scale(rule.u.numpy())
    assert 2.0**-12 < scale < 1
    assert rule.noise.numpy().tobytes() == (unit * np.float32(scale)).tobytes()


def asked_codec(rule: MaskedTraining) -> OwnScale:
    codec = rule.codecs()[Group.CODED]
    assert isinstance(codec, OwnScale)
    return codec
