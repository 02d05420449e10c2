"""What holds for every local rule: the model comes back whole, frames repeat, any broadcast and optimiser will do."""

import copy
from collections.abc import Callable, Mapping
from importlib import import_module
from pkgutil import iter_modules

import numpy as np
import pytest
import torch
from federating import starting_server, values
from torch import Tensor, nn
from torch.nn import functional as F

from fedmrn.codecs import codec_from
from fedmrn.errors import ConfigError, MalformedFrameError
from fedmrn.methods import METHODS
from fedmrn.torch import LocalRule, ModelLayout, attach, local_rule, rules
from fedmrn.torch.rules.through import Through
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group

STEPS = 4
CODED = 16 * 12 + 16 + 1  # of the model below
every_method = pytest.mark.parametrize("name", METHODS)
RANDOM = {
    *("fedmrn", "fedmrn-s", "fedmrn-mrc", "fedmrn-s-mrc", "fedmrn-no-pm", "fedmrn-post"),
    *("fedbat", "fedpm", "signsgd-stochastic", "terngrad", "qsgd"),
}
"""Methods that draw with the client's own key, in training or in what is sent."""
OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}


class Odd(nn.Module):
    """A tied parameter, one without elements, one without axes, a frozen one, and a normalisation layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 12)
        self.norm = nn.BatchNorm1d(12)
        self.empty = nn.Parameter(torch.zeros(0, 12))
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.frozen = nn.Linear(12, 12).requires_grad_(False)
        self.output = nn.Linear(12, 16)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.norm(self.embedding(tokens).mean(1) + self.empty.sum())
        return self.output(self.gain * torch.tanh(self.frozen(h)))


def example(n: int = 10) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(0, 16, (n, 5))
    return tokens, tokens[:, 0]


def train(broadcast: bytes | Frame, *, optimiser: str = "sgd", key: int = 9) -> tuple[nn.Module, LocalRule, Frame]:
    """One client's round of the odd model, the same data each time."""
    torch.manual_seed(7)
    model = Odd()
    model.train()
    rule = attach(
        model,
        OPTIMISERS[optimiser](model.parameters()),
        broadcast,
        accept="any",
        steps=STEPS,
        sampling_key=key,
        memory=None,
    )
    for _ in range(STEPS):
        x, y = example()
        rule.zero_grad()
        F.cross_entropy(model(x), y).backward()
        rule.step()
    return model, rule, rule.finish(weight=10)


def broadcast_for(name: str) -> bytes:
    torch.manual_seed(6)
    return starting_server(Odd(), name).begin(1, ["a"]).broadcast("a")


def test_every_method_has_a_rule_and_every_rule_a_method() -> None:
    used = {local_rule(row.local) for row in METHODS.values()}
    modules = [import_module(f"fedmrn.torch.rules.{m.name}") for m in iter_modules(rules.__path__)]
    classes = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    assert used == {kind for kind in classes if issubclass(kind, LocalRule)} - {Through}


@every_method
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_round_with_tied_empty_and_frozen_parameters_is_taken_by_the_server(name: str, optimiser: str) -> None:
    torch.manual_seed(6)
    server = starting_server(Odd(), name)
    before = server.state.copy()
    round_ = server.begin(1, ["a"])
    model, rule, frame = train(round_.broadcast("a"), optimiser=optimiser)
    round_.add("a", frame.to_bytes())
    after = round_.finish()
    assert np.isfinite(after).all()
    for group in Group:
        span = server.layout.span(group)
        assert not np.array_equal(after[span], before[span]), group
    assert model.output.weight is model.embedding.weight
    assert model.empty.shape == (0, 12)
    assert server.layout.size == CODED + 2 * 12 + 2 * 12
    assert rule.taken == STEPS


def test_fedbat_sends_a_scale_for_each_parameter_that_has_elements_and_one_for_a_tied_pair() -> None:
    _, rule, frame = train(broadcast_for("fedbat"))
    section = frame.select(Role.UPDATE, Group.CODED)
    assert section is not None
    table = np.dtype([("size", "<u8"), ("scale", "<f4")])
    assert int.from_bytes(bytes(section.body[:4]), "little") == 3
    sizes = np.frombuffer(section.body, table, 3, 4)["size"].tolist()
    assert sizes == [t.size for t in rule.view.layout.tensors if t.group is Group.CODED and t.size]
    assert sorted(sizes) == [1, 16, 192]


@every_method
def test_after_finish_the_model_is_an_ordinary_one(name: str) -> None:
    broadcast = broadcast_for(name)
    model, rule, _ = train(broadcast, optimiser="momentum")
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == 6  # tied: once
    for p in model.parameters():
        assert p.is_leaf
        assert p.untyped_storage().nbytes() == 4 * p.numel()
    places = [p.data_ptr() for p in model.parameters() if p.numel()]
    assert len(set(places)) == len(places)
    # A copy, and a fresh model that loads the state, compute the same.
    x, y = example()
    fresh = Odd()
    fresh.load_state_dict(model.state_dict())
    copied = copy.deepcopy(model)
    with torch.no_grad():
        out = model.eval()(x)
        assert torch.equal(fresh.eval()(x), out)
        assert torch.equal(copied.eval()(x), out)
    # Plain SGD trains it as it trains the fresh one, and nothing of the rule comes in between.
    held = ModelLayout.of(model).read()
    for each in (model, fresh):
        each.train()
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(each(x), y).backward()
            optimizer.step()
    moved = ModelLayout.of(model).read()
    np.testing.assert_array_equal(moved, ModelLayout.of(fresh).read())
    assert not np.array_equal(moved, held)
    # The buffers of the rule are its own: training on did not write there.
    if isinstance(rule, Through):
        assert not any(p.data_ptr() == rule.weights.data_ptr() for p in model.parameters())


@every_method
def test_nothing_goes_on_after_finish_until_the_model_is_attached_anew(name: str) -> None:
    broadcast = broadcast_for(name)
    model, rule, _ = train(broadcast)
    held = values(model.state_dict())
    with pytest.raises(ConfigError, match="attach again"):
        rule.step()
    with pytest.raises(ConfigError, match="called already"):
        rule.finish(weight=1)
    assert all(np.array_equal(held[k], v) for k, v in values(model.state_dict()).items())
    again = attach(
        model, OPTIMISERS["sgd"](model.parameters()), broadcast, accept="any", steps=1, sampling_key=1, memory=None
    )
    x, y = example()
    F.cross_entropy(model(x), y).backward()
    again.step()
    assert again.finish(weight=1).weight == 1


@every_method
def test_frames_repeat_to_the_bit_from_bytes_or_a_parsed_broadcast(name: str) -> None:
    broadcast = broadcast_for(name)
    runs = [train(given) for given in (broadcast, Frame.from_bytes(broadcast), broadcast)]
    sent = {frame.to_bytes() for _, _, frame in runs}
    assert len(sent) == 1
    assert len({ModelLayout.of(model).read().tobytes() for model, _, _ in runs}) == 1
    kept = {None if rule.memory is None else rule.memory.tobytes() for _, rule, _ in runs}
    assert len(kept) == 1
    assert (kept == {None}) is not local_rule(METHODS[name].local).remembers


@every_method
def test_the_sampling_key_changes_what_random_methods_send_and_no_others(name: str) -> None:
    broadcast = broadcast_for(name)
    bodies = []
    for key in (1, 2):
        _, _, frame = train(broadcast, key=key)
        section = frame.select(Role.UPDATE, Group.CODED)
        assert section is not None
        bodies.append(bytes(section.body))
    if name != "fedmrn-no-sm":  # draws which elements are masked in training, which need not change what is sent
        assert (bodies[0] != bodies[1]) is (name in RANDOM)


@every_method
def test_the_model_ends_at_what_the_server_reads_or_at_the_trained_weights(name: str) -> None:
    """Rules that train through a code leave the model at the coded weights; the others as it was trained."""
    torch.manual_seed(6)
    server = starting_server(Odd(), name)
    coded = server.layout.span(Group.CODED)
    state = server.state[coded].copy()
    model, rule, frame = train(server.begin(1, ["a"]).broadcast("a"))
    section = frame.select(Role.UPDATE, Group.CODED)
    assert section is not None
    codec = codec_from(section.codec, section.params).bind(state)
    read = codec.decode(section.body, section.count, frame.noise_key)
    held = ModelLayout.of(model).read()[coded]
    local = METHODS[name].local
    if local == "learned:ProbabilityMask":
        assert np.array_equal(held != 0, read == 1)
    elif isinstance(rule, Through):
        np.testing.assert_array_equal(held, state + read)
    elif local == "after:HandOverWeights":
        np.testing.assert_array_equal(held[read != 0], read[read != 0])
    elif local == "after:KeepSupport" or name == "fedavg":
        np.testing.assert_array_equal(held - state, read)
    else:
        assert not np.array_equal(held - state, read)


@pytest.mark.parametrize("name", ["fedavg", "fedmrn", "fedpm", "fedbat", "topk-ef", "fedsparsify-global"])
def test_a_memory_of_another_shape_is_refused_by_every_rule(name: str) -> None:
    model = Odd()
    broadcast = starting_server(model, name).begin(1, ["a"]).broadcast("a")
    with pytest.raises(ConfigError, match=rf"a memory is float32 of shape \({CODED},\), got float32 \(56,\)"):
        attach(
            model,
            OPTIMISERS["sgd"](model.parameters()),
            broadcast,
            accept="any",
            steps=1,
            memory=np.zeros(56, np.float32),
        )


class TestOptionsOfARow:
    """What a row of the table sets of its rule, and what a server tells."""

    @staticmethod
    def rule(
        name: str, options: Mapping[str, float] | None = None, told: Mapping[str, float] | None = None
    ) -> LocalRule:
        model = Odd()
        broadcast = starting_server(model, name, options, told).begin(1, ["a"]).broadcast("a")
        return attach(model, OPTIMISERS["sgd"](model.parameters()), broadcast, accept="any", steps=STEPS, memory=None)

    @pytest.mark.parametrize(
        ("name", "progressive", "stochastic"),
        [
            ("fedmrn", True, True),
            ("fedmrn-s", True, True),
            ("fedmrn-no-pm", False, True),
            ("fedmrn-no-sm", True, False),
        ],
    )
    def test_ablations_reach_the_rule_as_does_what_is_told(
        self, name: str, progressive: bool, stochastic: bool
    ) -> None:
        found = self.rule(name)
        assert (found.progressive, found.stochastic) == (progressive, stochastic)  # type: ignore[attr-defined]
        for term, flag in (("progressive", not progressive), ("stochastic", not stochastic)):
            if term in METHODS[name].fixed:
                with pytest.raises(MalformedFrameError, match=f"sets {term}, which method {name} fixes"):
                    self.rule(name, told={term: flag})
                continue
            other = self.rule(name, told={term: flag})
            expected = {"progressive": progressive, "stochastic": stochastic, term: flag}
            assert (other.progressive, other.stochastic) == tuple(expected.values())  # type: ignore[attr-defined]

    def test_masking_at_the_end_only_trains_plainly(self) -> None:
        assert type(self.rule("fedmrn-post")) is LocalRule

    def test_fedbats_options_have_the_published_values_and_can_be_set(self) -> None:
        assert (self.rule("fedbat").warmup, self.rule("fedbat").rho) == (0.5, 6.0)  # type: ignore[attr-defined]
        found = self.rule("fedbat", {"warmup": 0.25, "rho": 1})
        assert (found.warmup, found.rho) == (0.25, 1.0)  # type: ignore[attr-defined]

    def test_what_a_row_fixes_and_offers_are_options_of_its_rule(self) -> None:
        rows = [row for row in METHODS.values() if row.fixed]
        assert {row.name for row in rows} == {"fedmrn-no-pm", "fedmrn-no-sm"}
        for row in rows:
            assert set(row.fixed) <= set(local_rule(row.local).options)

    @pytest.mark.parametrize(("name", "term"), [("fedpm", "progressive"), ("fedmrn", "rho"), ("fedavg", "warmup")])
    def test_a_term_that_the_rule_does_not_have_is_refused(self, name: str, term: str) -> None:
        with pytest.raises(MalformedFrameError, match=f"sets {term}, which method {name} does not have"):
            self.rule(name, told={term: 0})

    def test_a_client_cannot_set_what_the_server_tells(self) -> None:
        model = Odd()
        broadcast = starting_server(model, "fedmrn").begin(1, ["a"]).broadcast("a")
        with pytest.raises(TypeError, match="progressive"):
            attach(model, OPTIMISERS["sgd"](model.parameters()), broadcast, accept="any", steps=1, progressive=False)  # type: ignore[call-arg]
