"""Private masks: clients train plainly, clip, throw dice of their own, and say weight 1; more is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedmrn.errors import ConfigError, MalformedFrameError, UnknownTermError, WrongParametersError
from fedmrn.methods import method
from fedmrn.numerics.private import Dice, private_codewords
from fedmrn.server import EdgeRound, Server
from fedmrn.server.partials import form_of
from fedmrn.torch import ModelLayout, attach
from fedmrn.torch.rules.private import SignedTraining
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group
from fedmrn.wire.messages import encode_update
from fedmrn.wire.partial import Partial
from fedmrn.wire.terms import read_terms, terms_section

THETA, SCALE, STEPS = 0.125, 0.5, 3
OPTIONS = {"theta": THETA, "scale": SCALE, "noise_key": "round"}


def net() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(40, 50), nn.ReLU(), nn.Linear(50, 3))


def server_of(model: nn.Module, options: dict[str, float | str], *, equal: bool = True) -> Server:
    view, scheme = ModelLayout.of(model), method("fedmrn-s").scheme(options, equal=equal)
    return Server(view.layout, scheme, view.read(), bytes(16), threads=1)


def train(rule: SignedTraining, model: nn.Module) -> None:
    for at in range(STEPS):
        x = torch.randn(20, 40, generator=torch.Generator().manual_seed(at))
        rule.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(20) % 3).backward()
        rule.step()


def client(broadcast: Frame, key: int | None = 7, weight: int = 60, lr: float = 0.5) -> tuple[Frame, np.ndarray]:
    """A client's frame, and its update before it was clipped."""
    model = net()
    rule = attach(model, torch.optim.SGD(model.parameters(), lr=lr), broadcast, steps=STEPS, sampling_key=key)
    assert isinstance(rule, SignedTraining)
    train(rule, model)
    u = rule.u.numpy().copy()
    frame = rule.finish(weight=weight)
    for tensor, received in zip(model.parameters(), net().parameters(), strict=True):  # as the server will see it
        assert set((tensor - received).abs().round(decimals=5).flatten().tolist()) == {SCALE}
    return frame, u


def test_a_client_trains_plainly_and_sends_a_private_mask() -> None:
    broadcast = Frame.from_bytes(server_of(net(), OPTIONS).begin(1, ["a", "b"]).broadcast("a"))
    assert read_terms(broadcast) == {"theta": THETA}
    frame, u = client(broadcast)
    plain = net()
    start = ModelLayout.of(plain).read()
    train(torch.optim.SGD(plain.parameters(), lr=0.5), plain)  # type: ignore[arg-type]
    np.testing.assert_allclose(u, ModelLayout.of(plain).read() - start, atol=1e-6)
    assert frame.weight == 1
    section = frame.select(Role.UPDATE, Group.CODED)
    codec = method("fedmrn-s").scheme(OPTIONS, equal=True).codecs[Group.CODED]
    sent = codec.decode(section.body, section.count, frame.noise_key)
    wanted = private_codewords(u, codec.masked.noise, broadcast.noise_key, THETA, Dice(7))
    np.testing.assert_array_equal(sent, wanted)


def test_only_a_simulation_repeats_its_dice() -> None:
    broadcast = Frame.from_bytes(server_of(net(), OPTIONS).begin(1, ["a", "b"]).broadcast("a"))
    assert client(broadcast)[0].to_bytes() == client(broadcast)[0].to_bytes()
    assert client(broadcast, None)[0].to_bytes() != client(broadcast, None)[0].to_bytes()


def test_the_mean_of_a_round_is_that_of_clipped_updates() -> None:
    """Each of n clients' bits is worth +-SCALE: the mean's variance is at most SCALE^2 / n an element."""
    server, names = server_of(net(), OPTIONS), [str(i) for i in range(60)]
    before, round_ = server.state.copy(), server.begin(1, names)
    for i, name in enumerate(names):
        frame, u = client(Frame.from_bytes(round_.broadcast(name)), key=i, weight=1 + i, lr=8.0)
        round_.add(name, frame.to_bytes())
    moved = round_.finish() - before
    clipped = np.clip(u, -2 * THETA * SCALE, 2 * THETA * SCALE)
    assert (clipped != u).any()
    error = (moved - clipped).astype(np.float64)
    deviation = SCALE / np.sqrt(len(names))
    assert abs(error.mean()) < 5 * deviation / np.sqrt(u.size)
    assert abs(np.mean(error**2) / deviation**2 - 1) < 0.1  # of some two thousand squares, and p within 1/8 of 1/2
    along = float(clipped @ error) / float(np.linalg.norm(clipped))
    assert abs(along) < 5 * deviation


@pytest.mark.parametrize("weight", [2, 60])
def test_who_counts_its_samples_draws_no_private_mask(weight: int) -> None:
    """At the root and at an edge; without theta a weight is what it was."""
    for options in (OPTIONS, {**OPTIONS, "theta": 0.0}):
        round_ = server_of(net(), options).begin(1, ["a", "b"])
        edge = EdgeRound.from_bytes(round_.assign({"edge": ["b"]})["edge"], ModelLayout.of(net()).layout)
        for node, name in ((round_, "a"), (edge, "b")):
            broadcast = Frame.from_bytes(round_.broadcast(name) if node is round_ else node.broadcast(name))
            frame = encode_update(broadcast, round_.layout, round_.shown * 0, weight=weight, sampling_key=1)
            if options["theta"]:
                with pytest.raises(WrongParametersError, match=f"weight {weight}.*theta = 0.125"):
                    node.add(name, frame.to_bytes())
                assert not node.answered
                frame = replace(frame, weight=1)
            node.add(name, frame.to_bytes())
            assert name in node.answered
        form = form_of(round_.aggregator, 1)
        good = Partial.read(Frame.from_bytes(edge.partial()), form)
        forged = replace(good, weights=good.weights * 0 + weight).frame(form).to_bytes()
        if options["theta"]:
            with pytest.raises(WrongParametersError, match=f"weight {weight}.*theta = 0.125"):
                round_.merge("edge", forged)
            round_.merge("edge", edge.partial())
        else:
            round_.merge("edge", forged)
        assert round_.answered == {"a", "b"}


def test_a_model_with_normalisation_layers_is_refused_on_both_sides() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    with pytest.raises(ConfigError, match=r"theta.*travel beside"):
        server_of(model, OPTIONS)
    good = server_of(model, {"scale": SCALE, "noise_key": "round"})
    frame = Frame.from_bytes(good.begin(1, ["a"]).broadcast("a"))
    told = replace(frame, sections=(*frame.sections, *terms_section({"theta": 0.1})))
    with pytest.raises(ConfigError, match=r"theta.*travel beside"):
        attach(model, torch.optim.SGD(model.parameters(), lr=0.1), told, steps=1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fedmrn-s", {"noise": "uniform", "scale": 1.0}),
        ("fedmrn-s", {}),
        ("fedmrn-s", {"coding": "entropy", "scale": 1.0}),
    ],
)
def test_a_client_refuses_theta_over_other_masks(name: str, options: dict[str, float | str]) -> None:
    model = net()
    view, scheme = ModelLayout.of(model), method(name).scheme(options)
    frame = Frame.from_bytes(Server(view.layout, scheme, view.read(), bytes(16)).begin(1, ["a"]).broadcast("a"))
    told = replace(frame, sections=(*frame.sections, *terms_section({"theta": 0.1})))
    with pytest.raises(MalformedFrameError, match="theta"):
        attach(model, torch.optim.SGD(model.parameters(), lr=0.1), told, steps=1)


@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s-mrc"])
def test_other_methods_have_no_such_term(name: str) -> None:
    model = net()
    view, scheme = ModelLayout.of(model), method(name).scheme({"scale": 1.0})
    frame = Frame.from_bytes(Server(view.layout, scheme, view.read(), bytes(16)).begin(1, ["a"]).broadcast("a"))
    told = replace(frame, sections=(*frame.sections, *terms_section({"theta": 0.1})))
    with pytest.raises((MalformedFrameError, UnknownTermError), match="theta"):
        attach(model, torch.optim.SGD(model.parameters(), lr=0.1), told, steps=1)
