"""A round that leads to no usable model is refused in words, and the server stays as it was."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fedmrn.errors import ConfigError, EncodeError, FedmrnError, UnusableModelError, WrongRoundError
from fedmrn.federation.conduct import Conduct
from fedmrn.methods import METHODS, method
from fedmrn.methods.method import DOWN, SIDE
from fedmrn.server import Server
from fedmrn.server.optimizer import Adam, Momentum, Scaled, ServerOptimizer
from fedmrn.wire.frame import DEFAULT_LIMITS, Frame, Limits
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update, read_state

F32 = NDArray[np.float32]
LAYOUT = Layout.of(
    [
        TensorSpec("w", (4, 3), Group.CODED),
        TensorSpec("scale", (4,), Group.DENSE),
        TensorSpec("mean", (4,), Group.STATS),
        TensorSpec("var", (4,), Group.VARIANCE),
    ]
)
WHERE = {group: LAYOUT.span(group) for group in Group}
SECRET = b"sixteen letters!"


def server(
    name: str = "fedavg",
    *,
    side: str = "float32",
    down: str = "float32",
    optimizer: ServerOptimizer | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Server:
    scheme, start = method(name).scheme(None, side, down, optimizer), np.full(LAYOUT.size, 0.5, np.float32)
    return Server(LAYOUT, scheme, Server.initial(LAYOUT, scheme, start), SECRET, limits=limits)


def play(here: Server, number: int, vectors: dict[str, F32], limits: Limits = DEFAULT_LIMITS) -> F32:
    round_ = here.begin(number, list(vectors))
    for client, vector in vectors.items():
        asked = Frame.from_bytes(round_.broadcast(client))
        frame = encode_update(asked, LAYOUT, vector, weight=3, sampling_key=number, limits=limits)
        round_.add(client, frame.to_bytes())
    return round_.finish()


def zero(**groups: float) -> F32:
    vector = np.zeros(LAYOUT.size, np.float32)
    for name, value in groups.items():
        vector[WHERE[Group[name]]] = value
    return vector


def test_variances_move_by_the_mean_of_their_logarithms() -> None:
    here = server()
    state = play(here, 1, {"a": zero(VARIANCE=np.log(4)), "b": zero(VARIANCE=-np.log(2)), "c": zero()})
    np.testing.assert_allclose(state[WHERE[Group.VARIANCE]], 0.5 * 2 ** (1 / 3), rtol=2.0**-20)
    others = slice(0, WHERE[Group.VARIANCE].start)
    assert (state[others] == 0.5).all()


@pytest.mark.parametrize("side", SIDE)
@pytest.mark.parametrize("value", [-5.0, -65536.0, 65536.0])
def test_one_client_of_three_cannot_make_a_variance_negative(side: str, value: float) -> None:
    here = server(side=side)
    for number in range(1, 6):
        state = play(here, number, {"a": zero(VARIANCE=value), "b": zero(), "c": zero()})
        variances = state[WHERE[Group.VARIANCE]]
        assert (variances > 0).all()
        assert np.isfinite(1 / np.sqrt(variances + 1e-12)).all()


def _too_far(here: Server) -> Callable[[], F32]:
    return lambda: play(here, 2, {"a": zero(DENSE=60000.0), "b": zero()})


@pytest.mark.parametrize(
    "optimizer",
    [Scaled(1e38), Momentum(1e38, 0.9), Adam(1e38, 0.9, 0.99, 1e-3)],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_a_round_that_overflows_is_lost_and_nothing_else(optimizer: ServerOptimizer) -> None:
    here = server("fedmrn", optimizer=replace(optimizer, lr=0.1))
    play(here, 1, {"a": zero(DENSE=1.0), "b": zero()})
    here.scheme = replace(here.scheme, optimizer=optimizer)
    state, moments, observed = here.state, here.carried.moments, here.observed
    copies = state.copy(), moments.copy()
    with pytest.raises(UnusableModelError, match=r"round 2: in the new model tensor scale has .* old model stays"):
        _too_far(here)()
    assert here.state is state
    assert here.carried.moments is moments
    assert here.observed is observed
    assert (here.state.tobytes(), here.carried.moments.tobytes()) == tuple(copy.tobytes() for copy in copies)
    here.scheme = replace(here.scheme, optimizer=replace(optimizer, lr=0.1))
    assert np.isfinite(play(here, 3, {"a": zero(DENSE=1.0), "b": zero()})).all()  # the server goes on


def test_moments_that_overflow_would_hold_the_model_still_for_ever() -> None:
    """Adam with an infinite second moment takes steps of 0: the state alone looks usable."""
    limits = Limits(max_value=1e30)
    here = server(optimizer=Adam(0.1, 0.9, 0.99, 1e-3), limits=limits)
    with pytest.raises(UnusableModelError, match="moments of the server's optimizer would not be finite"):
        play(here, 1, {"a": zero(DENSE=1e30)}, limits)
    assert np.isfinite(here.carried.moments).all()
    moments = here.carried.moments.copy()
    moments[1, 3] = np.inf
    with pytest.raises(ConfigError, match="moments are not finite"):
        Server(LAYOUT, here.scheme, here.state, SECRET, carried=replace(here.carried, moments=moments))


def test_a_lost_round_is_finished() -> None:
    here = server(optimizer=Scaled(1e38))
    round_ = here.begin(2, ["a"])
    vector = zero(DENSE=60000.0)
    data = encode_update(Frame.from_bytes(round_.broadcast("a")), LAYOUT, vector, weight=1, sampling_key=1).to_bytes()
    round_.add("a", data)
    with pytest.raises(UnusableModelError):
        round_.finish()
    with pytest.raises(WrongRoundError, match="round 2 is finished"):
        round_.finish()
    with pytest.raises(WrongRoundError, match="round 2 is finished"):
        round_.add("a", data)


def test_a_conduct_says_it_too() -> None:
    here = server(optimizer=Scaled(1e38))
    conduct = Conduct(here.begin(1, [7]), LAYOUT.trainable)
    frame = conduct.train(7).content
    assert isinstance(frame, Frame)
    conduct.fold(7, encode_update(frame, LAYOUT, zero(DENSE=60000.0), weight=1, sampling_key=1).to_bytes())
    with pytest.raises(FedmrnError, match="the round is lost and the old model stays"):
        conduct.finish()
    assert conduct.report.folded == [7]
    assert (here.state == 0.5).all()


@pytest.mark.parametrize("down", DOWN)
@pytest.mark.parametrize("side", SIDE)
def test_a_client_that_sends_the_largest_legal_values_for_20_rounds_ends_no_run(side: str, down: str) -> None:
    """One of ten: its side data is clipped to what others send, and the honest ones' own steps remain."""
    here, rng = server(side=side, down=down), np.random.default_rng(1)
    for number in range(1, 21):
        hostile = np.full(LAYOUT.size, 1e9, np.float32)
        hostile[WHERE[Group.CODED]] = 65536.0
        honest = {f"h{i}": rng.normal(0, 0.01, LAYOUT.size).astype(np.float32) for i in range(9)}
        state = play(here, number, {**honest, "x": hostile})
        assert np.isfinite(state).all()
        assert (state[WHERE[Group.VARIANCE]] >= 0).all()
        got = read_state(Frame.from_bytes(here.begin(number + 1, ["a"]).broadcast("a")), LAYOUT)
        assert np.isfinite(got).all()
    start = server(side=side, down=down).state
    for group in (Group.DENSE, Group.STATS):
        assert np.abs((state - start)[WHERE[group]]).max() < 20 * 4 * 0.05  # a step of 0.01, five deviations at most


@pytest.mark.parametrize("side", SIDE)
def test_an_honest_client_keeps_its_training(side: str) -> None:
    """A dense difference beyond what travels is clipped; one in the coded group that is not finite is an error."""
    here = server(side=side)
    state = play(here, 1, {"a": zero(DENSE=1e6, STATS=-3e38)})
    assert 3e4 < state[WHERE[Group.DENSE]].min() <= 65536.5
    assert -65536.5 < state[WHERE[Group.STATS]].max() < -3e4
    for group, value in ((Group.CODED, np.nan), (Group.DENSE, np.inf), (Group.VARIANCE, np.nan)):
        with pytest.raises(EncodeError, match="NaN or infinite"):
            play(here, 2, {"a": zero(**{group.name: value})})


@pytest.mark.parametrize("name", METHODS)
def test_every_method_moves_variances_alike(name: str) -> None:
    here = server(name)
    vector = zero(CODED=0.0, VARIANCE=1.0)
    if name == "fedpm":
        vector[WHERE[Group.CODED]] = 0.5
    state = play(here, 1, {"a": vector})
    np.testing.assert_allclose(state[WHERE[Group.VARIANCE]], 0.5 * np.e, rtol=2.0**-20)
    for model in here.models(1):
        assert model[WHERE[Group.VARIANCE]].tobytes() == state[WHERE[Group.VARIANCE]].tobytes()
        assert np.isfinite(model).all()


@pytest.mark.parametrize("clients", [2, 3, 10])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_client_moves_no_variance_of_others_that_keep_still(clients: int, sign: float) -> None:
    """Layers in evaluation mode change nothing. Of two clients nobody knows which is right: a factor of two a round."""
    here, rounds = server(), 8
    for number in range(1, rounds + 1):
        others = {str(k): zero() for k in range(clients - 1)}
        play(here, number, {"loud": zero(VARIANCE=sign * 6e4), **others})
    moved = np.abs(np.log2(here.state[WHERE[Group.VARIANCE]] / 0.5))
    assert (moved <= (rounds + 1e-3 if clients == 2 else 0)).all()


def test_of_two_clients_neither_order_nor_sign_matters() -> None:
    states = set()
    for names in ("ab", "ba"):
        here = server()
        changes = {"a": zero(VARIANCE=3.0), "b": zero(VARIANCE=-3.0)}
        states.add(play(here, 1, {name: changes[name] for name in names}).tobytes())
    assert len(states) == 1


def test_what_two_clients_agree_on_gets_through_at_once() -> None:
    here = server()
    state = play(here, 1, {"a": zero(VARIANCE=23.0), "b": zero(VARIANCE=23.1)})
    np.testing.assert_allclose(np.log(state[WHERE[Group.VARIANCE]] / 0.5), 23.05, atol=1e-3)


@pytest.mark.parametrize("side", SIDE)
@pytest.mark.parametrize("clients", [3, 10])
@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0], ids=["up", "down", "to and fro"])
def test_one_client_takes_no_variance_away_from_its_order_of_magnitude(clients: int, side: str, sign: float) -> None:
    """Others measure 1e-6 to 1e4, 20 % apart; they get there in the first round, and stay within a factor of three."""
    here, rng = server(side=side), np.random.default_rng(1)
    true = np.array([1e-6, 0.5, 30.0, 1e4])
    for number in range(1, 21):
        before = here.state[WHERE[Group.VARIANCE]].astype(np.float64)
        vectors = {"loud": zero(VARIANCE=6e4 * (sign or (-1) ** number))}
        for k in range(clients - 1):
            vector = zero()
            vector[WHERE[Group.VARIANCE]] = np.log(true * rng.lognormal(0, 0.2, 4) / before)
            vectors[str(k)] = vector
        state = play(here, number, vectors)
        assert np.abs(np.log(state[WHERE[Group.VARIANCE]] / true)).max() < np.log(3), number
