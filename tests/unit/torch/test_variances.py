"""Running variances in training: which buffers they are, what every rule sends of them, and models that stay usable."""

from collections import defaultdict
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch
from federating import SECRET, decoded
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from fedmrn.errors import BoundError, ConfigError, EncodeError, UnsupportedModelError
from fedmrn.methods import METHODS, method
from fedmrn.methods.method import DOWN, GRID, SIDE
from fedmrn.server import Server
from fedmrn.torch import ModelLayout, Selection, attach
from fedmrn.torch.selection import is_variance
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.held import Held
from fedmrn.wire.layout import Group
from fedmrn.wire.messages import state_sections
from fedmrn.wire.variance import FLOOR


class Whitening(nn.Module):
    """A layer of somebody's own: two buffers of variances, of which only one has the usual name."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(3))
        self.register_buffer("running_var", torch.ones(3))
        self.register_buffer("spread", torch.ones(3))
        self.register_buffer("seen", torch.zeros(1))


def groups(view: ModelLayout) -> dict[str, Group]:
    return {t.name: t.group for t in view.layout.tensors if not t.group.trained}


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(3),
        nn.BatchNorm2d(3),
        nn.SyncBatchNorm(3),
        nn.InstanceNorm2d(3, track_running_stats=True),
        nn.BatchNorm1d(3, affine=False),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_normalisation_layers_are_known(layer: nn.Module) -> None:
    found = groups(ModelLayout.of(nn.Sequential(nn.Linear(2, 3), layer)))
    assert found == {"1.running_mean": Group.STATS, "1.running_var": Group.VARIANCE}


def test_others_are_known_by_both_names_or_named() -> None:
    model = nn.Sequential(nn.Linear(2, 3), Whitening())
    usual = {"1.running_mean": Group.STATS, "1.running_var": Group.VARIANCE}
    assert groups(ModelLayout.of(model)) == usual
    assert ModelLayout.of(model).local == ("1.spread", "1.seen")
    named = ModelLayout.of(model, variances=["1.spread"])
    assert groups(named) == usual | {"1.spread": Group.VARIANCE}
    assert named.local == ("1.seen",)
    assert "variance: 6 values in 2 tensors: 1.running_var, 1.spread" in named.describe()
    assert set(groups(ModelLayout.of(model, variances=lambda *_: False)).values()) == {Group.STATS}
    assert ModelLayout.of(model, Selection(variances=["*.spread"])).layout == named.layout
    assert ModelLayout.of(model, Selection(variances=["1.spread"]), ["1.running_var"]).layout == named.layout
    both = ModelLayout.of(model, variances=lambda name, owner, b: is_variance(name, owner, b) or "spread" in name)
    assert both.layout == named.layout
    model[1].register_buffer("running_mean", None)
    assert groups(ModelLayout.of(model))["1.running_var"] is Group.STATS
    model[1].register_buffer("running_mean", torch.zeros(4))
    assert groups(ModelLayout.of(model))["1.running_var"] is Group.STATS


def test_a_name_that_is_no_buffer() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    for names in (["1.running_vra"], ["0.weight"], ["1.num_batches_tracked"]):
        with pytest.raises(ConfigError, match=r"no buffer of floats of the model; did you mean|; choose one of"):
            ModelLayout.of(model, variances=names)
    with pytest.raises(ConfigError, match="give a list of names"):
        ModelLayout.of(model, variances="1.running_var")
    with pytest.raises(UnsupportedModelError):
        ModelLayout.of(nn.Sequential(nn.BatchNorm1d(3)))


def net(features: int = 6, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.BatchNorm1d(features), nn.Linear(features, classes))


def server_for(model: nn.Module, name: str = "fedmrn", side: str = "float32", down: str = "float32") -> Server:
    view, scheme = ModelLayout.of(model), method(name).scheme(None, side, down)
    return Server(view.layout, scheme, Server.initial(view.layout, scheme, view.read()), SECRET)


HELD: WeakKeyDictionary[Server, defaultdict[int, Held]] = WeakKeyDictionary()
"""What the clients of a server keep of public models."""


def rounds(
    model: nn.Module, server: Server, parts: list[tuple[Tensor, Tensor]], first: int, last: int, steps: int = 2
) -> None:
    """Rounds of honest clients with these samples; after each the model must be usable."""
    view = ModelLayout.of(model)
    for number in range(first, last + 1):
        round_ = server.begin(number, range(len(parts)))
        for client, (x, y) in enumerate(parts):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            memory = {"memory": None} if server.scheme.method == METHODS["topk-ef"].id else {}
            held = HELD.setdefault(server, defaultdict(Held))[client]
            data = round_.broadcast(client)
            rule = attach(model, optimizer, data, accept="any", steps=steps, sampling_key=client, held=held, **memory)
            model.train()
            for _ in range(steps):
                rule.zero_grad()
                F.cross_entropy(model(x), y).backward()
                rule.step()
            round_.add(client, rule.finish(weight=len(x)).to_bytes())
        state = round_.finish()
        assert np.isfinite(state).all()
        assert (state[view.layout.span(Group.VARIANCE)] >= 0).all()
        model.eval()
        for values in server.models(number):
            view.write(values)
            for x, _ in parts:
                assert torch.isfinite(model(x)).all()


def samples(clients: int, features: int, scales: Tensor, seed: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(16, features, generator=generator) * scales,
            torch.randint(0, 3, (16,), generator=generator),
        )
        for _ in range(clients)
    ]


@pytest.mark.parametrize("down", DOWN)
@pytest.mark.parametrize("side", SIDE)
def test_one_loud_feature_among_64(side: str, down: str) -> None:
    """With levels, a norm for all 64 made seven variances negative in one round of ten honest clients."""
    scales = torch.full((64,), 0.1)
    scales[7] = 100
    model, parts = net(64), samples(10, 64, scales)
    server = server_for(model, "fedavg", side, down)
    rounds(model, server, parts, 1, 2)
    after = model.get_buffer("0.running_var")
    assert after[7] > 1e3
    exact = net(64)
    rounds(exact, server_for(exact, "fedavg"), parts, 1, 2)
    quiet = (after / exact.get_buffer("0.running_var"))[torch.arange(64) != 7]
    # What is lost of two changes of at most 4: in 16 bits; in 8, whose steps are 1/8 there; and by a public model.
    lost = (2.0**-2 if side == "float8" else 2.0**-8) + (2.0**-6 if down == GRID else 0)
    assert (quiet.log().abs() < lost).all()


@pytest.mark.parametrize("side", SIDE)
@pytest.mark.parametrize("name", ["fedavg", "fedmrn"])
def test_batch_norm_on_the_pixels_of_digits(name: str, side: str) -> None:
    """Some pixels are constant: their variances decay towards 0, and levels made seven negative in round 1."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels, dtype=torch.float32), torch.tensor(labels)
    parts = [(x[i : 200 + i : 10], y[i : 200 + i : 10]) for i in range(10)]
    model = net(64, 10)
    rounds(model, server_for(model, name, side), parts, 1, 4, steps=20)
    # In 8 bits each change, of -2.1, is rounded at random to eighths: a deviation of a sixteenth at most for each of
    # ten clients and four rounds, and six of their mean's sum.
    lost = 6 / 16 * (4 / 10) ** 0.5 if side == "float8" else 0.02
    assert float(model.get_buffer("0.running_var")[0]) == pytest.approx(0.9**80, rel=lost)


@pytest.mark.parametrize("side", SIDE)
def test_constant_features_to_the_floor(side: str) -> None:
    """A variance that decays to 0 stops at the floor, and from there goes back to an ordinary one in a round."""
    model = net()
    model[0].momentum = 0.999999
    constant = [(torch.full((8, 6), 3.0), torch.zeros(8, dtype=torch.long)) for _ in range(2)]
    server = server_for(model, "fedavg", side)
    rounds(model, server, constant, 1, 8)
    where = server.layout.span(Group.VARIANCE)
    np.testing.assert_allclose(server.state[where], FLOOR, rtol=0.1)
    rounds(model, server, samples(2, 6, torch.ones(6)), 9, 9)
    assert ((server.state[where] > 0.2) & (server.state[where] < 5)).all()


@pytest.mark.parametrize("down", DOWN)
@pytest.mark.parametrize("name", ["fedavg", "fedmrn"])
def test_raw_tabular_features_for_12_rounds(name: str, down: str) -> None:
    """Means of 1e6 and variances of 1e12 within a few rounds; 16 bits down ended this in round 8."""
    parts = [(x + 3e6, y) for x, y in samples(3, 6, torch.tensor([1e6, 1e5, 1.0, 1e-3, 1e7, 10.0]))]
    model = net()
    rounds(model, server_for(model, name, "float16", down), parts, 1, 12)
    assert float(model.get_buffer("0.running_var")[0]) > 1e11
    assert float(model.get_buffer("0.running_mean")[0]) > 65504


@pytest.mark.parametrize("name", METHODS)
def test_every_local_rule_sends_the_change_of_logarithms(name: str) -> None:
    model = net()
    model.get_buffer("0.running_var").copy_(torch.tensor([0.0, 1e-3, 1.0, 4.0, 1e6, 1e10]))
    before = model.get_buffer("0.running_var").double().numpy().copy()
    round_ = server_for(model, name).begin(1, ["a"])
    memory = {"memory": None} if name == "topk-ef" else {}
    rule = attach(
        model, torch.optim.SGD(model.parameters(), lr=0.01), round_.broadcast("a"), accept="any", steps=1, **memory
    )
    model.train()
    F.cross_entropy(model(torch.randn(8, 6)), torch.zeros(8, dtype=torch.long)).backward()
    rule.step()
    after = model.get_buffer("0.running_var").double().numpy().copy()
    sent = decoded(rule.finish(weight=1), Group.VARIANCE)
    np.testing.assert_allclose(sent, np.log(after) - np.log(np.maximum(before, FLOOR)), rtol=2.0**-22, atol=2.0**-50)
    assert sent[0] > 30


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["fedavg", "fedmrn", "fedpm", "fedsparsify-local"])
def test_a_client_whose_variance_came_out_impossible_says_so(name: str, value: float) -> None:
    model = net()
    round_ = server_for(model, name).begin(1, ["a"])
    rule = attach(model, torch.optim.SGD(model.parameters(), lr=0.01), round_.broadcast("a"), accept="any", steps=1)
    model.train()
    F.cross_entropy(model(torch.randn(8, 6)), torch.zeros(8, dtype=torch.long)).backward()
    rule.step()
    model.get_buffer("0.running_var")[2] = value
    with pytest.raises(EncodeError, match=r"tensor 0\.running_var has .* in element 2"):
        rule.finish(weight=1)


def test_an_impossible_broadcast_does_not_reach_the_users_model() -> None:
    model = net()
    server = server_for(model)
    frame = Frame.from_bytes(server.begin(1, ["a"]).broadcast("a"))
    state = server.state.copy()
    state[server.layout.slices["0.running_var"].start] = -5
    templates = tuple(s for s in frame.sections if s.role is Role.TEMPLATE)
    bad = replace(frame, sections=templates + state_sections(server.layout, state))
    before = ModelLayout.of(model).read()
    with pytest.raises(BoundError, match=r"tensor 0\.running_var has -5"):
        attach(model, torch.optim.SGD(model.parameters(), lr=0.01), bad.to_bytes(), steps=1)
    assert ModelLayout.of(model).read().tobytes() == before.tobytes()
