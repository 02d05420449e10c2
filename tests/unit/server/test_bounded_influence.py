"""One client of ten moves no element far, whatever it sends that is legal, and weighs little more than another."""

import re
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedmrn.codecs import MaskCodec
from fedmrn.errors import BoundError, ConfigError, WrongParametersError
from fedmrn.methods import METHODS, method
from fedmrn.numerics.masking import MaskType
from fedmrn.server import Clipping, Round, Server
from fedmrn.server.optimizer import Scaled
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update
from fedmrn.wire.terms import read_caps

F32 = NDArray[np.float32]
LAYOUT = Layout.of(
    [
        TensorSpec("large", (40, 50), Group.CODED),
        TensorSpec("small", (30,), Group.CODED),
        TensorSpec("none", (0, 3), Group.CODED),
        TensorSpec("zero", (20,), Group.CODED),
        TensorSpec("scale", (16,), Group.DENSE),
        TensorSpec("mean", (16,), Group.STATS),
    ]
)
STEPS = {"large": 1e-3, "small": 3e-2, "zero": 1e-2, "scale": 1e-2, "mean": 0.5}
CODED = LAYOUT.span(Group.CODED)
HOSTILE = 9
MASKED = [
    ("fedmrn", {"scale": 0.01}),
    ("fedmrn", {"scale": 0.01, "noise": "gaussian"}),
    ("fedmrn-s", {"scale": 0.005}),
    ("fedmrn-mrc", {"scale": 0.01}),
    ("fedmrn-no-pm", {"scale": 0.01}),
    ("fedmrn-no-sm", {"scale": 0.01}),
    ("fedmrn-s-mrc", {"scale": 0.005}),
    ("fedmrn-post", {"scale": 0.01}),
    ("fedmrn", {"noise_key": "round"}),
    ("fedmrn-s", {"noise_key": "round", "noise": "gaussian"}),
    ("fedmrn-s", {"noise_key": "round", "coding": "entropy"}),
    ("fedmrn", {"scale": "auto"}),
    ("fedmrn", {"scale": "auto", "coding": "entropy"}),
    ("fedmrn", {"scale": "auto", "noise": "gaussian"}),
    ("fedmrn-s", {"scale": "auto"}),
    ("fedmrn-s", {"scale": "auto", "noise": "bernoulli"}),
    ("fedmrn-mrc", {"scale": "auto"}),
    ("fedmrn-post", {"scale": "auto"}),
    ("signsgd", {}),
    ("signsgd-stochastic", {}),
    ("signsgd-vote", {}),
    ("fedbat", {}),
    ("terngrad", {}),
]
NAMED = [pytest.param(n, o, id="-".join([n, *map(str, o.values())])) for n, o in MASKED]


def honest(client: int, round: int) -> F32:
    rng = np.random.default_rng([client, round])
    parts = [rng.standard_normal(t.size) * STEPS.get(t.name, 0) for t in LAYOUT.tensors]
    return np.concatenate(parts).astype(np.float32)


def begun(name: str, options: dict[str, object], clipping: Clipping | None = Clipping()) -> Server:  # noqa: B008
    state = np.random.default_rng(0).uniform(-0.2, 0.2, LAYOUT.size).astype(np.float32)
    state[LAYOUT.slices["zero"]] = 0
    return Server(LAYOUT, method(name).scheme(options), state, bytes(16), run=bytes(16), clipping=clipping)


def sent(round_: Round, client: int, vector: F32, weight: int = 100) -> bytes:
    asked = Frame.from_bytes(round_.broadcast(client))
    return encode_update(asked, LAYOUT, vector, weight=weight, sampling_key=client + 1).to_bytes()


def legal(round_: Round, vector: F32, weight: int) -> None:
    """Send a vector with the largest magnitudes that are taken."""
    for size in (30_000.0, 3_000.0, 300.0, 30.0):
        try:
            round_.add(HOSTILE, sent(round_, HOSTILE, vector * np.float32(size), weight))
        except BoundError:
            continue
        return


def worst(
    name: str,
    options: dict[str, object],
    clipping: Clipping,
    rounds: int,
    weight: int = 100,
    among: slice | None = None,
) -> list[float]:
    """Return, for each round, how far one of ten clients moved an element, in honest steps of its tensor.

    With `among`, how far it moved one of these elements, as a number.

    Against the same round without it: of ten, with an update of nothing in its place.
    """
    server, found = begun(name, options, clipping), []
    for number in range(1, rounds + 1):
        signs = np.where(np.random.default_rng(number).random(LAYOUT.size) < 0.5, 1, -1).astype(np.float32)
        moved = []
        for attack in (False, True):
            copy = Server(
                LAYOUT, server.scheme, server.state, bytes(16), run=bytes(16), clipping=clipping, round=number - 1,
                carried=server.carried,
            )  # fmt: skip
            round_ = copy.begin(number, range(10))
            for client in range(9):
                round_.add(client, sent(round_, client, honest(client, number)))
            if attack:
                legal(round_, signs, weight)
            else:
                round_.add(HOSTILE, sent(round_, HOSTILE, np.zeros(LAYOUT.size, np.float32)))
            moved.append(round_.finish())
        server = copy
        far = np.abs(moved[1].astype(np.float64) - moved[0])
        if among is not None:
            found.append(float(far[among].max()))
            continue
        steps = [np.median([np.abs(honest(c, number)[w]).max() for c in range(9)]) for _, w in _tensors()]
        found.append(max(float(far[w].max() / s) for (_, w), s in zip(_tensors(), steps, strict=True)))
    return found


def _tensors() -> list[tuple[str, slice]]:
    return [(t.name, LAYOUT.slices[t.name]) for t in LAYOUT.tensors if t.size]


WAYS = [Clipping(), Clipping(hold=0, first_weight=400)]


@pytest.mark.parametrize("clipping", WAYS, ids=["kept", "as they come"])
@pytest.mark.parametrize(("name", "options"), NAMED)
def test_one_of_ten_moves_no_element_by_more_than_four_honest_steps(
    name: str, options: dict[str, object], clipping: Clipping
) -> None:
    """The noise of a fixed scale is not clipped: it is as large as the server chose, 0.01 here.

    Where a first round is not kept, its caps are configured; the bound holds from the second on.
    """
    found = worst(name, options, clipping, 4)
    assert all(found)
    if "scale" in options or not name.startswith("fedmrn"):
        assert max(found if clipping.hold else found[1:]) <= 4, found
    else:
        codec = MaskCodec.of(method(name).scheme(options).codecs[Group.CODED])
        assert codec is not None
        twice = 2 if codec.masked.mask is MaskType.SIGNED else 1  # from one end to the other
        assert max(worst(name, options, clipping, 4, among=CODED)) <= twice * codec.masked.noise.bound / 10 * 1.0001
    assert max(worst(name, options, clipping, 3, weight=1 << 20)[0 if clipping.hold else 1 :]) <= 12


def test_the_table_of_bounds_names_each_method_once() -> None:
    """The named ones are measured above; what it calls all others have neither caps nor a known magnitude."""
    text = (Path(__file__).parents[3] / "docs" / "guarantees.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `") and line.count("|") == 4]
    named = [name for row in rows for name in re.findall(r"`([a-z0-9-]+)`", row.split("|")[1]) if name in METHODS]
    assert len(named) == len(set(named))
    measured = {name for name, _ in MASKED}
    assert set(named) == measured | {"fedpm"}
    for name in set(METHODS) - set(named):
        codec = method(name).scheme().codecs[Group.CODED]
        assert not codec.sends_scales
        assert not codec.known_magnitude
    assert max(worst("fedavg", {}, Clipping(), 1)) > 1000


@pytest.mark.parametrize("clipping", WAYS, ids=["kept", "as they come"])
@pytest.mark.parametrize(("name", "options"), [("fedmrn", {"scale": "auto"}), ("signsgd-vote", {})])
def test_caps_cannot_be_ratcheted(name: str, options: dict[str, object], clipping: Clipping) -> None:
    """Four of ten send the most that they may for 30 rounds: caps stay within a power of two of those without them."""
    caps = []
    for attack in (False, True):
        server = begun(name, options, clipping)
        for number in range(1, 31):
            round_ = server.begin(number, range(10))
            for client in range(10):
                most = attack and client >= 6
                vector = np.full(LAYOUT.size, 1000, np.float32) if most else honest(client, number)
                round_.add(client, sent(round_, client, vector, 1 << 20 if most else 100))
            round_.finish()
        caps.append(server.carried.caps)
    quiet, attacked = caps
    assert quiet is not None
    assert attacked is not None
    assert attacked.weight == quiet.weight == 400
    for a, b in zip((*quiet.scales, *quiet.values), (*attacked.scales, *attacked.values), strict=True):
        assert a is not None
        assert b is not None
        assert abs(a - b) <= 1


def test_a_round_of_hostile_clients_moves_a_cap_by_one_power_of_two() -> None:
    server = begun("fedmrn", {"scale": "auto"}, Clipping(hold=0))
    for number in range(1, 12):
        play(server, number, [honest(c, number) for c in range(10)])
    before = server.carried.caps
    for size, step in ((1e3, 1), (0.0, 0), (1e-20, -1)):
        other = Server(
            LAYOUT, server.scheme, server.state, bytes(16), clipping=Clipping(hold=0), round=11, carried=server.carried
        )
        play(other, 12, [np.full(LAYOUT.size, size, np.float32)] * 10)
        after = other.carried.caps
        assert before is not None
        assert after is not None
        assert [a - b for a, b in zip(after.scales, before.scales, strict=True) if a is not None and b is not None] == [
            step
        ] * 3


def play(server: Server, number: int, vectors: list[F32], weights: list[int] | None = None) -> Round:
    round_ = server.begin(number, range(len(vectors)))
    for client, vector in enumerate(vectors):
        round_.add(client, sent(round_, client, vector, 100 if weights is None else weights[client]))
    round_.finish()
    return round_


def test_caps_rise_with_honest_clients_and_they_keep_to_them() -> None:
    """Updates grow 64-fold from one round to the next: each client clips itself, and caps follow, a power a round."""
    server = begun("fedmrn", {"scale": "auto"})
    told = []
    for number in range(1, 10):
        round_ = server.begin(number, range(10))
        told.append(read_caps(Frame.from_bytes(round_.broadcast(0))))
        for client in range(10):
            vector = honest(client, number) * np.float32(1 if number == 1 else 64)
            round_.add(client, sent(round_, client, vector))
        round_.finish()
    assert told[0] == ()
    assert all(len(caps) == 3 for caps in told[1:])
    rises = [[b - a for a, b in zip(x, y, strict=True)] for x, y in pairwise(told[1:])]
    assert all(rise in (0, 1) for row in rises for rise in row)
    assert all(5 <= sum(column) <= 7 for column in zip(*rises, strict=True))


@pytest.mark.parametrize(("name", "options"), [("fedmrn", {"scale": "auto"}), ("signsgd-vote", {}), ("terngrad", {})])
def test_a_scale_above_what_was_told_is_refused_by_name(name: str, options: dict[str, object]) -> None:
    server = begun(name, options)
    round_ = server.begin(1, range(10))
    larger = sent(round_, 0, np.full(LAYOUT.size, 100, np.float32))
    for client in range(10):
        round_.add(client, sent(round_, client, honest(client, 1)))
    round_.finish()
    round_ = server.begin(2, range(10))
    asked = Frame.from_bytes(round_.broadcast(0))
    section = Frame.from_bytes(larger).sections[0]
    frame = encode_update(asked, LAYOUT, honest(0, 2), weight=1, sampling_key=1)
    wrong = Frame(
        frame.kind, frame.method, 2, frame.noise_key, frame.layout_digest, 1, (section, *frame.sections[1:])
    ).to_bytes()
    with pytest.raises(BoundError, match=r"the scale of large is .*; clients were told to send .* at most"):
        round_.add(0, wrong)
    round_.add(0, frame.to_bytes())


def test_a_table_of_scales_is_cut_at_the_tensors() -> None:
    """Were it not, one could give an element a scale that is another tensor's to have."""
    round_ = begun("signsgd", {}).begin(1, range(10))
    frame = Frame.from_bytes(sent(round_, 0, honest(0, 1)))
    body = bytes(frame.sections[0].body)
    sizes = [int.from_bytes(body[4 + 12 * k : 12 + 12 * k], "little") for k in range(3)]
    assert sizes == [2000, 30, 20]
    swapped = body[:4] + body[16:28] + body[4:16] + body[28:]
    section = frame.sections[0]
    wrong = (type(section)(section.codec, section.role, section.group, section.count, section.params, swapped),)
    with pytest.raises(WrongParametersError, match="scales are of other tensors"):
        round_.add(
            0,
            Frame(
                frame.kind, frame.method, 1, frame.noise_key, frame.layout_digest, 1, wrong + frame.sections[1:]
            ).to_bytes(),
        )


def test_tensors_that_nobody_moves_yet() -> None:
    """The cap of one stays the configured one until most clients move it (LoRA's A, a bias that is zero)."""
    server = begun("fedmrn", {"scale": "auto"})
    where = LAYOUT.slices["large"]
    for number in range(1, 4):
        vectors = [honest(c, number) for c in range(10)]
        for vector in vectors:
            vector[where] = 0
        play(server, number, vectors)
    assert server.carried.caps is not None
    assert server.carried.caps.scales[0] is None
    largest = float(np.abs(server.state[where]).max())
    told = read_caps(Frame.from_bytes(server.begin(4, range(10)).broadcast(0)))
    assert 2.0 ** (told[0] - 1) < largest <= 2.0 ** told[0]


@pytest.mark.parametrize("clipping", WAYS, ids=["kept", "as they come"])
@pytest.mark.parametrize("tiny", [1e-30, 1e-40])
def test_tensors_that_have_all_but_vanished(tiny: float, clipping: Clipping) -> None:
    """A cap follows their magnitude, and noise has no scale below 2^-80: nobody who keeps to caps is refused."""
    state = begun("fedmrn", {}).state.copy()
    state[LAYOUT.slices["small"]] = tiny
    server = Server(LAYOUT, method("fedmrn").scheme({"scale": "auto"}), state, bytes(16), clipping=clipping)
    for number in (1, 2, 3):
        vectors = [honest(c, number) for c in range(3)]
        for vector in vectors:
            vector[LAYOUT.slices["small"]] = 0
        assert play(server, number, vectors).answered == {0, 1, 2}


def test_one_client_does_not_outweigh_nine() -> None:
    """In the first round and later, kept or as they come, on a first round that is configured or not."""
    for clipping in (Clipping(), Clipping(hold=0), Clipping(hold=0, first_weight=400)):
        server = begun("fedavg", {}, clipping)
        for number in (1, 2, 3):
            before = server.state
            vectors = [np.zeros(LAYOUT.size, np.float32)] * 9 + [np.ones(LAYOUT.size, np.float32)]
            play(server, number, vectors, [2000] * 9 + [1 << 20])
            share = float((server.state - before)[0])
            assert share <= 4 / 13 + 1e-6


def test_weights_count_in_full_up_to_four_times_the_median() -> None:
    weights = [1, 2, 3, 4, 5, 6, 8, 12, 20, 1000]
    counted = [min(w, 20) for w in weights]
    server = begun("fedavg", {}, Clipping(first_weight=7, hold=1 << 20))
    vectors = [honest(c, 1) for c in range(10)]
    before = server.state
    play(server, 1, vectors, weights)
    for i in (0, 7, 2010):
        mean = sum(w * Fraction(float(v[i])) for w, v in zip(counted, vectors, strict=True)) / sum(counted)
        assert float(server.state[i]) == pytest.approx(float(before[i] + mean), abs=2.0**-25)


def test_ten_thousand_honest_clients_find_room() -> None:
    """2,000 samples each: 1,612 of them were refused once."""
    layout = Layout.of([TensorSpec("w", (8,), Group.CODED)])
    server = Server(layout, method("fedmrn").scheme(), np.zeros(8, np.float32), bytes(16))
    round_ = server.begin(1, range(10_000))
    for client in range(10_000):
        asked = round_.broadcast_frame(client)
        frame = encode_update(asked, layout, np.full(8, 0.001, np.float32), weight=2000, sampling_key=client)
        round_.add(client, frame.to_bytes())
    assert round_.aggregator.count == 10_000
    assert round_.aggregator.total_weight == 20_000_000
    round_.finish()


def test_without_clipping_the_limits_alone_bound_a_client() -> None:
    server = begun("fedmrn", {"scale": "auto"}, None)
    play(server, 1, [honest(c, 1) for c in range(9)] + [np.full(LAYOUT.size, 1000, np.float32)])
    assert np.abs(server.state[CODED]).max() > 100
    assert read_caps(Frame.from_bytes(server.begin(2, range(3)).broadcast(0))) == ()


def test_the_order_of_arrival_does_not_matter() -> None:
    for clipping in WAYS:
        states = set()
        for seed in range(4):
            server = begun("fedmrn", {"scale": "auto"}, clipping)
            for number in (1, 2):
                round_ = server.begin(number, range(10))
                data = {c: sent(round_, c, honest(c, number) * (1 + 9 * (c == 3)), 10 + c) for c in range(10)}
                for client in np.random.default_rng(seed).permutation(10).tolist():
                    round_.add(client, data[client])
                round_.finish()
            states.add(server.state.tobytes() + str(server.carried.caps).encode())
        assert len(states) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"weights": 0}, {"first_weight": 0}, {"scales": -1}, {"hold": -1}, {"first": 0.0}, {"first": float("inf")}],
)
def test_clipping_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Clipping(**wrong)  # type: ignore[arg-type]


def test_server_optimizers_see_the_clipped_mean() -> None:
    scheme = method("fedmrn").scheme({"scale": "auto"}, optimizer=Scaled(2.0))
    server = Server(LAYOUT, scheme, begun("fedmrn", {}).state, bytes(16), run=bytes(16))
    once = begun("fedmrn", {"scale": "auto"})
    vectors = [honest(c, 1) for c in range(9)] + [np.full(LAYOUT.size, 100, np.float32)]
    before = server.state
    play(server, 1, vectors)
    play(once, 1, vectors)
    trained = slice(0, LAYOUT.trainable)
    assert np.abs((server.state - before) - 2 * (once.state - before))[trained].max() < 1e-6


@pytest.mark.parametrize("size", [1e-30, 1e9])
def test_a_first_round_of_hostile_clients_does_not_hold_training_up_for_long(size: float) -> None:
    """Two of three, once: caps are at most 2^20 from the configured ones, and come back by a power a round."""
    server = begun("fedmrn", {"scale": "auto"})
    play(server, 1, [np.full(LAYOUT.size, min(size, 10_000), np.float32)] * 2 + [honest(2, 1)])
    for number in range(2, 26):
        play(server, number, [honest(c, number) for c in range(3)])
    told = read_caps(Frame.from_bytes(server.begin(26, range(3)).broadcast(0)))
    for cap, name in zip(told, ("large", "small", "zero"), strict=True):
        assert STEPS[name] <= 2.0**cap <= 32 * STEPS[name], name


@pytest.mark.parametrize(("name", "options"), NAMED)
def test_an_honest_client_whose_update_is_beyond_all_limits_is_not_refused(
    name: str, options: dict[str, object]
) -> None:
    """It sends the largest scale that is taken."""
    round_ = begun(name, options).begin(1, range(3))
    round_.add(0, sent(round_, 0, np.full(LAYOUT.size, 1e9, np.float32)))
    assert round_.aggregator.count == 1
