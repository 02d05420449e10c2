"""Server optimizers against loops over single numbers, and with every method's rule."""

from math import sqrt

import numpy as np
import pytest
from core_examples import LAYOUT, PUBLISHED, SECRET, fitting, noisy, play, start
from numpy.typing import NDArray

from fedmrn.errors import ConfigError
from fedmrn.methods import METHODS, method
from fedmrn.server import Carried, Server
from fedmrn.server.optimizer import SERVER, Adam, Momentum, Scaled, ServerOptimizer, server_options
from fedmrn.server.rules import MeanMask
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group
from fedmrn.wire.messages import encode_update

D, ROUNDS = 7, 5
DELTAS = [noisy(D, key, 0.1) for key in range(ROUNDS)]
MOST = 64 * 2.0**-24  # a few dozen float32 roundings of numbers below 1


def walk(optimizer: ServerOptimizer) -> NDArray[np.float64]:
    """Where the optimizer leads from 0."""
    at, moments = np.zeros(D), optimizer.start(D)
    for delta in DELTAS:
        before = moments.copy()
        moves, after = optimizer.step(delta, moments)
        assert moments.tobytes() == before.tobytes(), "a round that fails later must find them as they were"
        assert moves.dtype == after.dtype == np.float32
        assert after.shape == (optimizer.slots, D)
        at, moments = at + moves, after
    return at


def test_the_mean_times_the_rate() -> None:
    expected = [sum(0.25 * float(delta[i]) for delta in DELTAS) for i in range(D)]
    assert walk(Scaled(0.25)) == pytest.approx(expected, abs=MOST)


def test_momentum_is_the_obvious_loop() -> None:
    for i, found in enumerate(walk(Momentum(0.5, 0.75))):
        m = at = 0.0
        for delta in DELTAS:
            m = 0.75 * m + float(delta[i])
            at += 0.5 * m
        assert found == pytest.approx(at, abs=MOST)


def test_adam_is_the_obvious_loop() -> None:
    for i, found in enumerate(walk(Adam(0.02, 0.9, 0.99, 0.001))):
        m, v, at = 0.0, 0.001**2, 0.0
        for delta in DELTAS:
            m = 0.9 * m + 0.1 * float(delta[i])
            v = 0.99 * v + 0.01 * float(delta[i]) ** 2
            at += 0.02 * m / (sqrt(v) + 0.001)
        assert found == pytest.approx(at, abs=MOST)


def test_momentum_without_memory_is_the_mean() -> None:
    assert (walk(Momentum(1.0, 0.0)) == walk(Scaled(1.0))).all()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Scaled(0.0), "server_lr"),
        (lambda: Momentum(-1.0, 0.9), "server_lr"),
        (lambda: Momentum(1.0, 1.0), "server_beta"),
        (lambda: Adam(1.0, -0.1, 0.99, 0.001), "server_beta"),
        (lambda: Adam(1.0, 0.9, 1.0, 0.001), "server_beta2"),
        (lambda: Adam(1.0, 0.9, 0.99, 0.0), "server_tau"),
        (lambda: Scaled(float("nan")), "server_lr"),
    ],
)
def test_a_value_out_of_its_range_is_named(make: object, name: str) -> None:
    with pytest.raises(ConfigError, match=name + " "):
        make()  # type: ignore[operator]


def two_rounds(name: str, optimizer: ServerOptimizer, **options: object) -> list[NDArray[np.float32]]:
    """States of a server of this method at the start and after each of two rounds of the same updates."""
    server = start(name)
    scheme = method(name).scheme(options, optimizer=optimizer)
    server = Server(LAYOUT, scheme, server.state, SECRET, run=bytes(16))
    states = [server.state.copy()]
    for number in (1, 2):
        vectors = {c: fitting(server, noisy(LAYOUT.size, 10 * number + k)) for k, c in enumerate(("ann", "bob", "cyd"))}
        play(server, number, vectors, {"ann": 3, "bob": 4, "cyd": 5}).finish()
        states.append(server.state.copy())
    return states


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", SERVER)
def test_every_method_moves_by_every_optimizer_and_stays_what_its_clients_expect(name: str, kind: str) -> None:
    values = {
        "server_lr": 0.01 if kind == "adam" else 0.5,
        "server_beta": 0.9,
        "server_beta2": 0.99,
        "server_tau": 0.001,
    }
    optimizer = SERVER[kind](*(values[key] for key in server_options(kind)))
    states = two_rounds(name, optimizer)
    rule, coded = method(name).scheme().rule, LAYOUT.span(Group.CODED)
    assert len({s.tobytes() for s in states}) == 3
    for state in states:
        assert np.isfinite(state).all()
        assert state.dtype == np.float32
        rule.check(state[coded])
        if isinstance(rule, MeanMask):
            assert state[coded].min() >= np.float32(rule.low)


@pytest.mark.parametrize("name", METHODS)
def test_the_default_is_the_rule_alone(name: str) -> None:
    server = start(name)
    vectors = {c: fitting(server, noisy(LAYOUT.size, k)) for k, c in enumerate(("ann", "bob", "cyd"))}
    before, round_ = server.state.copy(), play(server, 1, vectors, dict.fromkeys(vectors, 1))
    coded, means = LAYOUT.span(Group.CODED), [round_.aggregator.finish_plane(p) for p in server.scheme.rule.planes]
    others = round_.aggregator.finish()[coded.stop :]
    found = round_.finish()
    assert found[coded].tobytes() == server.scheme.rule.step(1, before[coded], *means).tobytes()
    assert found[coded.stop :].tobytes() == (before[coded.stop :] + others).tobytes()


def test_affine_parameters_follow_the_optimizer_and_statistics_the_mean() -> None:
    plain, slow = two_rounds("fedavg", Scaled(1.0)), two_rounds("fedavg", Scaled(0.5))
    trained, stats = slice(0, LAYOUT.trainable), LAYOUT.span(Group.STATS)
    assert slow[1][trained] - slow[0][trained] == pytest.approx((plain[1] - plain[0])[trained] / 2, abs=2.0**-23)
    assert slow[1][stats].tobytes() == plain[1][stats].tobytes()


@pytest.mark.parametrize("name", ["fedsparsify-global", "fedsparsify-local"])
def test_pruned_weights_stay_pruned(name: str) -> None:
    coded = LAYOUT.span(Group.CODED)
    options = {"rounds": 2, "sparsity": 0.5}
    plain, moved = two_rounds(name, Scaled(1.0), **options), two_rounds(name, Momentum(0.5, 0.9), **options)
    assert (plain[1][coded] == 0).any()
    assert ((plain[1][coded] == 0) == (moved[1][coded] == 0)).all()


def test_moments_of_another_shape_are_refused() -> None:
    scheme = method("fedavg").scheme(optimizer=Momentum(1.0, 0.9))
    state = noisy(LAYOUT.size, 1)
    for wrong in (np.zeros((2, LAYOUT.trainable), np.float32), np.zeros((1, LAYOUT.trainable))):
        with pytest.raises(ConfigError, match="moments"):
            Server(LAYOUT, scheme, state, SECRET, carried=Carried(wrong), run=bytes(16))


@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s", "fedpm"])
def test_the_density_is_the_share_of_ones_a_tensor(name: str) -> None:
    server = start(name, **PUBLISHED.get(name, {}))
    vectors = {c: fitting(server, noisy(LAYOUT.size, k)) for k, c in enumerate(("ann", "bob", "cyd"))}
    round_ = server.begin(1, sorted(vectors))
    bits: list[NDArray[np.uint8]] = []
    for client, vector in vectors.items():
        broadcast = Frame.from_bytes(round_.broadcast(client))
        frame = encode_update(broadcast, LAYOUT, vector, weight=ord(client[0]), sampling_key=7)
        bits.append(np.unpackbits(np.frombuffer(frame.sections[0].body, np.uint8), bitorder="little"))
        round_.add(client, frame.to_bytes())
    round_.finish()
    expected = {
        tensor.name: sum(float(b[LAYOUT.slices[tensor.name]].sum()) for b in bits) / (3 * tensor.size)
        for tensor in LAYOUT.tensors
        if tensor.group is Group.CODED
    }
    assert server.observed["density"] == pytest.approx(expected)
    assert set(server.observed["density"]) == {"a.weight", "a.bias"}


def test_methods_without_masks_have_no_density() -> None:
    for name in ("fedavg", "drive", "signsgd", "topk"):
        server = start(name)
        vectors = {"ann": fitting(server, noisy(LAYOUT.size, 1))}
        play(server, 1, vectors, {"ann": 1}).finish()
        assert server.observed == {}
