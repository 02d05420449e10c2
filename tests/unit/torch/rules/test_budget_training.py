"""A budget in training: noise of every step, what is sent, what a server makes of it, and what is refused."""

import numpy as np
import pytest
import torch
from federating import decoded, starting_server
from numpy.typing import NDArray
from torch import nn

import oracle
from fedmrn.codecs import FitsUpdate, OwnScale
from fedmrn.codecs.scales import mean_magnitude
from fedmrn.errors import MalformedFrameError
from fedmrn.numerics.rng import Stream
from fedmrn.server import Server
from fedmrn.torch import attach
from fedmrn.torch.rules.masked_noise import MaskedTraining
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group
from fedmrn.wire.terms import read_caps, read_terms

F32 = NDArray[np.float32]
KEY, STEPS = 0xFED, 10
BUDGET = 0.25


def net() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(40, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 3))


def step(model: nn.Module, rule: MaskedTraining, at: int) -> None:
    x = torch.from_numpy(Stream(at, 1).uniform(0, 800)).reshape(20, 40) - 0.5
    y = torch.arange(20) % 3
    rule.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    rule.step()


def attached(model: nn.Module, asked: Frame | bytes, momentum: float = 0.0) -> MaskedTraining:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5, momentum=momentum)
    rule = attach(model, optimiser, asked, accept="masked", steps=STEPS, sampling_key=KEY)
    assert isinstance(rule, MaskedTraining)
    return rule


def exponents(rule: MaskedTraining, u: F32, multiples: F32 | float) -> NDArray[np.int32]:
    sizes = rule.view.layout.sizes(Group.CODED)
    means = [mean_magnitude(part) for part in np.split(u, np.cumsum(sizes)[:-1])]
    return np.asarray(FitsUpdate.exponents(np.array(means), multiples), np.int32)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", ["fedmrn-mrc", "fedmrn-s-mrc"])
def test_noise_of_every_step(name: str, momentum: float) -> None:
    """It follows the mean of |u| as without a budget; what is sent is wider, and what is shown for statistics."""
    model = net()
    asked = Frame.from_bytes(starting_server(model, name, {"budget": BUDGET}).begin(1, ["a"]).broadcast("a"))
    rule = attached(model, asked, momentum)
    codec = rule.codecs()[Group.CODED]
    assert isinstance(codec, OwnScale)
    sizes = rule.view.layout.sizes(Group.CODED)
    dial = codec.dial(sizes, KEY)
    assert dial is not None
    unit = codec.masked.noise.chunk(asked.noise_key, 0, sum(sizes))
    for at in range(STEPS):
        step(model, rule, at)
        scales = exponents(rule, rule.u.numpy(), codec.multiple)
        noise = unit * np.repeat(np.ldexp(np.float32(1), scales), sizes)
        assert rule.noise.numpy().tobytes() == noise.tobytes(), at
    u, kept = rule.u.numpy().copy(), rule.noise.numpy().copy()
    wide = exponents(rule, u, dial.multiples(u[dial.sample]))
    assert (wide > scales).any(), "the budget widened nothing: nothing was tested"
    reach = np.abs(unit) * np.repeat(np.ldexp(np.float32(1), wide), sizes)
    may = np.ones(u.size, np.bool_) if name == "fedmrn-s-mrc" else u * unit > 0
    with rule.undiced():
        shown = rule.weights.numpy() - rule.base.numpy()
    most = 2 * np.spacing(np.abs(rule.base.numpy()) + reach)  # w + u is rounded to float32
    assert (np.abs(shown - np.where(may, u.clip(-reach, reach), 0)) <= most).all()
    assert rule.noise.numpy().tobytes() == kept.tobytes()
    frame = rule.finish(weight=1)
    section = frame.select(Role.UPDATE, Group.CODED)
    assert section is not None
    scales = dial.exponents(u)
    told = [(size, 2.0 ** int(e)) for size, e in zip(sizes, scales, strict=True)]
    assert oracle.scales(bytes(section.body)) == told
    update = decoded(frame, Group.CODED)
    noise = unit * np.repeat(np.ldexp(np.float32(1), scales), sizes)
    assert np.isin(np.abs(update), [0, *np.abs(noise)]).all()


def rounds(server: Server, count: int, clients: int = 4) -> list[list[float]]:
    """Bits a parameter of each client's coded section, by rounds."""
    found = []
    for at in range(1, count + 1):
        names = [f"c{i}" for i in range(clients)]
        round_ = server.begin(at, names)
        bits = []
        for i, name in enumerate(names):
            model = net()
            broadcast = round_.broadcast(name)
            optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
            rule = attach(model, optimiser, broadcast, accept="masked", steps=STEPS, sampling_key=100 * at + i)
            assert isinstance(rule, MaskedTraining)
            for k in range(STEPS):
                step(model, rule, 1000 * i + k)
            frame = rule.finish(weight=1)
            section = frame.select(Role.UPDATE, Group.CODED)
            assert section is not None
            bits.append(8 * len(section.body) / section.count)
            round_.add(name, frame.to_bytes())
        round_.finish()
        found.append(bits)
    return found


def test_caps_do_not_fight_with_the_budget() -> None:
    """Caps lie above the median of scales that clients chose with the budget, so that they bind none of the like."""
    server = starting_server(net(), "fedmrn-mrc", {"budget": BUDGET})
    found = np.array(rounds(server, 4))
    caps = read_caps(Frame.from_bytes(server.begin(5, ["a"]).broadcast("a")))
    assert caps
    # A doubling of the largest tensor is worth up to 0.1 bit here: four clients are a third of that off in the mean.
    assert np.abs(found.mean(1) - BUDGET).max() < 0.06
    assert abs(found.mean() - BUDGET) < 0.03


def test_clients_are_told_by_a_term() -> None:
    model = net()
    told = Frame.from_bytes(starting_server(model, "fedmrn-mrc", {"budget": BUDGET}).begin(1, ["a"]).broadcast("a"))
    assert read_terms(told) == {"budget": BUDGET}
    usual = Frame.from_bytes(starting_server(model, "fedmrn-mrc").begin(1, ["a"]).broadcast("a"))
    assert read_terms(usual) == {}
    templates = [frame.select(Role.TEMPLATE, Group.CODED) for frame in (told, usual)]
    assert templates[0] == templates[1], "the codec is the same: old servers read what clients send"


@pytest.mark.parametrize(
    ("name", "options", "budget", "message"),
    [
        ("fedmrn-mrc", {}, 0.001, "a client may spend 0.03125 to 1 bits"),
        ("fedmrn-mrc", {"scale": 0.01}, 0.25, "clients meet it by the scales of their noise"),
        ("fedmrn", {}, 0.25, "a budget needs a random code, and masks travel by codec masked-noise"),
        ("fedmrn-s", {"noise_key": "round"}, 0.25, "clients meet it by the scales of their noise"),
        ("fedavg", {}, 0.25, "which method fedavg does not have"),
    ],
)
def test_hostile_budgets(name: str, options: dict[str, float | str], budget: float, message: str) -> None:
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    asked = starting_server(model, name, options, told={"budget": budget}).begin(1, ["a"]).broadcast("a")
    with pytest.raises(MalformedFrameError, match=message):
        attach(model, torch.optim.SGD(model.parameters(), lr=0.5), asked, accept="any", steps=3)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "nothing was changed"
