from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from core_examples import CLIENTS, LAYOUT, SECRET, begin, fitting, noisy, play, start, update

from fedmrn.codecs import Plane, Raw, Sign, Sparse, codec_from
from fedmrn.errors import (
    ChecksumError,
    ConfigError,
    DuplicateFrameError,
    EmptyRoundError,
    UnknownClientError,
    WrongKeyError,
    WrongKindError,
    WrongRoundError,
)
from fedmrn.methods import method
from fedmrn.numerics.rng import derive_key
from fedmrn.server import Server
from fedmrn.server.rules import F32, MeanMask, ServerRule
from fedmrn.server.scheme import Scheme
from fedmrn.wire.frame import Frame, Kind, Limits, Role
from fedmrn.wire.layout import Group
from fedmrn.wire.messages import encode_update, read_state


def _server(name: str = "fedavg", **options: object) -> Server:
    return Server(LAYOUT, method(name).scheme(), noisy(LAYOUT.size, 1, 1.0), SECRET, **options, run=bytes(16))  # type: ignore[arg-type]


def test_broadcasts_differ_in_the_key_alone() -> None:
    round_ = begin(number=7)
    frames = {c: Frame.from_bytes(round_.broadcast(c), kind=Kind.BROADCAST) for c in CLIENTS}
    for client, frame in frames.items():
        assert frame.noise_key == derive_key(SECRET, "noise", "00" * 16, 7, client)
        assert (frame.round, frame.method, frame.weight) == (7, 2, 0)
        assert frame.sections == frames["ann"].sections
        assert np.array_equal(read_state(frame, LAYOUT), noisy(LAYOUT.size, 1, 1.0))
    assert len({f.noise_key for f in frames.values()}) == 3
    assert Frame.from_bytes(begin(number=8).broadcast("ann")).noise_key != frames["ann"].noise_key


def test_a_number_and_its_text_are_two_clients() -> None:
    round_ = _server().begin(1, [1, "1"])
    assert Frame.from_bytes(round_.broadcast(1)).noise_key != Frame.from_bytes(round_.broadcast("1")).noise_key


def test_a_round_of_fedavg_is_the_weighted_mean() -> None:
    server = _server()
    before = server.state.copy()
    round_ = server.begin(1, CLIENTS)
    weights = {"ann": 3, "bob": 20, "cyd": 7}
    vectors = {c: noisy(LAYOUT.size, 10 + i) for i, c in enumerate(CLIENTS)}
    for c in CLIENTS:
        frame = encode_update(
            Frame.from_bytes(round_.broadcast(c)), LAYOUT, vectors[c], weight=weights[c], sampling_key=0
        )
        assert round_.add(c, frame.to_bytes()) == frame
    mean = [float(sum(weights[c] * Fraction(float(vectors[c][i])) for c in CLIENTS) / 30) for i in range(LAYOUT.size)]
    after = round_.finish()
    assert after is server.state
    # The mean is rounded to float32, and then the sum with the state: half a unit of each in the last place.
    assert np.abs(after - (before.astype(np.float64) + mean)).max() <= 2.0**-25 + 2.0**-30
    assert not np.array_equal(after, before)


def test_the_next_round_sends_the_new_state() -> None:
    server = _server("fedmrn-s")
    round_ = server.begin(1, CLIENTS)
    round_.add("bob", update(round_, "bob"))
    state = round_.finish()
    assert np.array_equal(read_state(Frame.from_bytes(server.begin(2, CLIENTS).broadcast("ann")), LAYOUT), state)


def test_a_client_answers_once() -> None:
    round_ = begin()
    round_.add("ann", update(round_, "ann"))
    with pytest.raises(DuplicateFrameError, match="client ann answered already"):
        round_.add("ann", update(round_, "ann", seed=6))
    assert round_.aggregator.count == 1


def test_a_client_may_try_again_after_a_refusal() -> None:
    round_ = begin()
    good = update(round_, "ann")
    with pytest.raises(ChecksumError):
        round_.add("ann", good[:-1] + bytes([good[-1] ^ 1]))
    round_.add("ann", good)
    assert round_.aggregator.count == 1


def test_a_client_that_was_not_asked() -> None:
    round_ = begin()
    with pytest.raises(UnknownClientError, match="client dan was not asked in round 1"):
        round_.broadcast("dan")
    with pytest.raises(UnknownClientError, match="client dan"):
        round_.add("dan", update(round_, "ann"))
    assert round_.aggregator.count == 0


def test_a_frame_is_its_clients_own() -> None:
    round_ = begin()
    with pytest.raises(WrongKeyError):
        round_.add("bob", update(round_, "ann"))
    with pytest.raises(WrongKindError):
        round_.add("bob", round_.broadcast("bob"))
    assert round_.aggregator.count == 0


def test_an_empty_round_keeps_the_state() -> None:
    server = _server()
    before = server.state.tobytes()
    with pytest.raises(EmptyRoundError, match="round 4"):
        server.begin(4, CLIENTS).finish()
    assert server.state.tobytes() == before


def test_a_round_needs_a_client() -> None:
    with pytest.raises(ConfigError, match="at least one client"):
        _server().begin(1, [])


@pytest.mark.parametrize("state", [np.zeros(28, np.float32), np.zeros((29, 1), np.float32), np.zeros(29)])
def test_a_state_of_another_shape_or_type(state: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="the state must be float32 of shape"):
        Server(LAYOUT, method("fedavg").scheme(), state, SECRET, run=bytes(16))


@pytest.mark.parametrize("size", [0, 15, 65])
def test_a_secret_has_16_to_64_bytes(size: int) -> None:
    with pytest.raises(ConfigError, match=f"16 to 64 bytes, got {size}"):
        Server(LAYOUT, method("fedavg").scheme(), np.zeros(29, np.float32), bytes(size), run=bytes(16))


def test_limits_reach_the_aggregator() -> None:
    round_ = _server(limits=Limits(max_weight=5), threads=2).begin(1, CLIENTS)
    assert round_.aggregator.plan.limits == Limits(max_weight=5)
    assert round_.aggregator.sums.threads == 2
    assert round_.aggregator.plan.max_clients == 3


def test_a_finished_round_is_over() -> None:
    server = _server()
    round_ = server.begin(1, ["ann", "bob"])
    data = encode_update(
        Frame.from_bytes(round_.broadcast("ann")), LAYOUT, noisy(LAYOUT.size, 2), weight=1, sampling_key=0
    ).to_bytes()
    round_.add("ann", data)
    state = round_.finish().copy()
    with pytest.raises(WrongRoundError, match="finished"):
        round_.finish()
    with pytest.raises(WrongRoundError, match="finished"):
        round_.add("bob", data)
    assert np.array_equal(server.state, state)


@pytest.mark.parametrize("number", [0, -1, 1 << 32])
def test_rounds_are_numbered_from_one_in_32_bits(number: int) -> None:
    with pytest.raises(ConfigError, match="numbered from 1"):
        _server().begin(number, ["ann"])


# --- rules that do not add the mean ----------------------------------------------------------------------------------

CODED, REST = LAYOUT.span(Group.CODED), slice(LAYOUT.span(Group.CODED).stop, LAYOUT.size)
WEIGHTS = {"ann": 3, "bob": 20, "cyd": 7}


def _vectors(server: Server) -> dict[str, np.ndarray]:
    return {c: fitting(server, noisy(LAYOUT.size, 10 + i)) for i, c in enumerate(CLIENTS)}


@pytest.mark.parametrize("name", ["signsgd-vote", "fedpm", "fedsparsify-global", "fedsparsify-local"])
def test_dense_parts_and_statistics_move_by_the_mean_whatever_the_rule(name: str) -> None:
    server = start(name)
    before, vectors = server.state.copy(), _vectors(server)
    after = play(server, 60, vectors, WEIGHTS).finish()
    weights = WEIGHTS if server.scheme.weighted else dict.fromkeys(CLIENTS, 1)
    total = sum(weights.values())
    for i in range(REST.start, REST.stop):
        mean = float(sum(weights[c] * Fraction(float(vectors[c][i])) for c in CLIENTS) / total)
        # The sum, below 2, is rounded to float32; the mean, of 0.01, by far less than 2^-25 in all.
        assert abs(float(after[i]) - (float(before[i]) + mean)) <= 2.0**-24 + 2.0**-25
    assert after is server.state
    assert after.dtype == np.float32
    assert not np.array_equal(after[REST], before[REST])
    assert not np.array_equal(after[CODED], before[CODED])


def test_a_majority_of_weight_decides() -> None:
    """From the bytes: signs and scales by hand, in exact fractions."""
    server = start("signsgd-vote")
    before, vectors = server.state.copy(), _vectors(server)
    after = play(server, 1, vectors, WEIGHTS).finish()
    sizes = (12, 9)
    for at, size in zip((0, 12), sizes, strict=True):
        scale = sum(WEIGHTS[c] * np.abs(vectors[c][at : at + size]).mean(dtype=np.float64) for c in CLIENTS) / 30
        for i in range(at, at + size):
            votes = sum(WEIGHTS[c] * (1 if vectors[c][i] >= 0 else -1) for c in CLIENTS)
            assert votes != 0
            assert after[i] == pytest.approx(before[i] + np.sign(votes) * scale, abs=2.0**-24)
    bob = np.where(vectors["bob"][CODED] >= 0, 1, -1)
    assert np.array_equal(np.sign(after[CODED] - before[CODED]), bob), "with 20 of 30 bob has his way"


def test_a_draw_between_two_clients_moves_nothing() -> None:
    server = start("signsgd-vote")
    before, vector = server.state.copy(), noisy(LAYOUT.size, 10)
    after = play(server, 1, {"ann": vector, "bob": -vector}, {"ann": 9, "bob": 9}).finish()
    assert after[CODED].tobytes() == before[CODED].tobytes()


def test_pruned_weights_stay_pruned_and_the_schedule_is_met() -> None:
    server = start("fedsparsify-global", rounds=4, sparsity=0.8)
    counts, pruned = [], np.zeros(CODED.stop, np.bool_)
    for number in range(1, 6):
        round_ = play(server, number, _vectors(server), WEIGHTS)
        state = round_.finish()[CODED]
        assert not state[pruned].any()
        pruned = state == 0
        counts.append(CODED.stop - int(pruned.sum()))
    # Of 21: 1 - 0.8 * 37/64, 1 - 0.8 * 7/8, 1 - 0.8 * 63/64, then 0.2; to the nearest whole number.
    assert counts == [11, 6, 4, 4, 4]


def test_clients_are_asked_for_the_density_of_the_round() -> None:
    server = start("fedsparsify-local", rounds=4, sparsity=0.8)
    for number, density in ((1, 1 - 0.8 * 37 / 64), (4, 1 - 0.8), (9, 1 - 0.8)):
        broadcast = Frame.from_bytes(server.begin(number, CLIENTS).broadcast("ann"))
        asked = broadcast.select(Role.TEMPLATE, Group.CODED)
        assert asked is not None
        assert codec_from(asked.codec, asked.params) == Sparse(density)


def test_merged_weights_replace_the_state() -> None:
    """Two of three clients keep the first 4 elements, one the last 4: what a minority kept is gone."""
    server = start("fedsparsify-local", rounds=1, sparsity=1 - 4 / 21)
    first, last = np.zeros((2, LAYOUT.size), np.float32)
    first[:4], last[CODED.stop - 4 : CODED.stop] = [1, -2, 3, -4], 5
    vectors = {"ann": first, "bob": last, "cyd": first * 2}
    after = play(server, 1, vectors, {"ann": 1, "bob": 2, "cyd": 1}).finish()[CODED]
    assert after.tolist() == [0.75, -1.5, 2.25, -3, *[0] * 13, *[2.5] * 4], "2 of 4 is a majority"
    server = start("fedsparsify-local", rounds=1, sparsity=1 - 4 / 21)
    after = play(server, 1, vectors, {"ann": 1, "bob": 1, "cyd": 1}).finish()[CODED]
    assert after.tolist() == [1, -2, 3, -4, *[0] * 17]


def test_the_mean_of_masks_becomes_the_probability() -> None:
    server = start("fedpm")
    assert (server.state[CODED] == 0.5).all()
    vectors = {c: np.zeros(LAYOUT.size, np.float32) for c in CLIENTS}
    for i, c in enumerate(CLIENTS):
        vectors[c][: 5 * (i + 1)] = 1
    after = play(server, 1, vectors, WEIGHTS).finish()[CODED]
    expected = [0.99] * 5 + [0.01 + 0.98 * 2 / 3] * 5 + [0.01 + 0.98 / 3] * 5 + [0.01] * 6
    np.testing.assert_allclose(after, expected, rtol=2.0**-22)


def test_a_round_asks_for_the_planes_of_its_rule() -> None:
    assert start("signsgd-vote").begin(1, CLIENTS).aggregator.plan.planes == (Plane.SIGN, Plane.SCALE)
    assert start("fedsparsify-local").begin(1, CLIENTS).aggregator.plan.planes == (Plane.VALUE, Plane.KEPT)
    assert start("signsgd").begin(1, CLIENTS).aggregator.plan.planes == (Plane.VALUE,)
    scheme = replace(method("fedsparsify-local").scheme(), codecs={g: Sign() for g in Group if g is not Group.VARIANCE})
    scheme = replace(scheme, rule=method("signsgd-vote").scheme().rule)
    Server(LAYOUT, scheme, noisy(LAYOUT.size, 1), SECRET, run=bytes(16)).begin(1, CLIENTS)
    scheme = replace(scheme, codecs=method("fedavg").scheme().codecs)
    with pytest.raises(ConfigError, match="codec raw has no plane sign or scale"):
        Server(LAYOUT, scheme, noisy(LAYOUT.size, 1), SECRET, run=bytes(16)).begin(1, CLIENTS)


def test_the_initial_state_is_the_models_but_for_the_coded_part_of_some() -> None:
    model = noisy(LAYOUT.size, 1, 1.0)
    model[[0, 22]] = 0
    before = model.copy()
    for name in ("fedavg", "fedmrn", "signsgd-vote", "topk-ef"):
        found = Server.initial(LAYOUT, method(name).scheme(), model)
        assert found.tobytes() == model.tobytes()
        assert found is not model
    for name in ("fedsparsify-global", "fedsparsify-local"):
        found = Server.initial(LAYOUT, method(name).scheme(), model)
        assert np.flatnonzero(found != model).tolist() == [0]
        assert found[0] > 0
    found = Server.initial(LAYOUT, method("fedpm").scheme(), model)
    assert (found[CODED] == 0.5).all()
    assert found[REST].tobytes() == model[REST].tobytes()
    assert model.tobytes() == before.tobytes()


def test_a_state_stands_for_itself_or_for_several_models() -> None:
    server = start("fedavg")
    assert [m.tobytes() for m in server.models(3)] == [server.state.tobytes()]
    server = start("fedpm", samples=5, seed=8)
    models = list(server.models(3))
    expected = list(MeanMask(8, samples=5).models(LAYOUT, server.state, 3))
    assert [m.tobytes() for m in models] == [m.tobytes() for m in expected]
    assert len({m.tobytes() for m in models}) == 5
    assert [m.tobytes() for m in server.models(4)] != [m.tobytes() for m in models]


class MeanItself(ServerRule):
    """A rule may return what it is given."""

    def step(self, round: int, state: F32, *means: F32) -> F32:
        return means[0]


class NoMove(ServerRule):
    def step(self, round: int, state: F32, *means: F32) -> F32:
        return state


@pytest.mark.parametrize("rule", [ServerRule(), MeanItself(), NoMove()])
def test_a_rule_may_return_the_mean_or_the_state_itself(rule: ServerRule) -> None:
    codecs = {Group.CODED: Raw(), Group.DENSE: Raw(), Group.STATS: Raw()}
    state = noisy(LAYOUT.size, 1)
    server = Server(LAYOUT, Scheme(0, codecs, rule), state.copy(), bytes(16), run=bytes(16))
    round_ = play(server, 1, {"ann": noisy(LAYOUT.size, 2), "bob": noisy(LAYOUT.size, 3)}, {"ann": 1, "bob": 3})
    mean = round_.aggregator.finish()
    coded, rest = LAYOUT.span(Group.CODED), slice(LAYOUT.span(Group.CODED).stop, None)
    expected = {"ServerRule": state + mean, "MeanItself": mean, "NoMove": state}[type(rule).__name__]
    found = round_.finish()
    assert found[coded].tobytes() == expected[coded].tobytes()
    assert found[rest].tobytes() == (state + mean)[rest].tobytes()


def test_a_state_may_be_strided() -> None:
    state = noisy(2 * LAYOUT.size, 4)[::2]
    codecs = {Group.CODED: Raw(), Group.DENSE: Raw(), Group.STATS: Raw()}
    server, whole = (Server(LAYOUT, Scheme(0, codecs), s, bytes(16), run=bytes(16)) for s in (state, state.copy()))
    assert server.begin(1, ["ann"]).broadcast("ann") == whole.begin(1, ["ann"]).broadcast("ann")


def test_a_client_whose_name_is_no_text() -> None:
    with pytest.raises(ConfigError, match=r"a client's name cannot be written as UTF-8: '\\ud83d'"):
        _server().begin(1, ["ann", "\ud83d"])
