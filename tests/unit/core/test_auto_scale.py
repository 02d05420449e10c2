"""A noise scale that follows the updates: what it sees, where it rests, and that it gets there from anywhere."""

from dataclasses import replace

import numpy as np
import pytest
from core_examples import LAYOUT, SECRET, noisy, play

from fedmrn.auto_scale import AutoScale, Level, Seen, mean_product
from fedmrn.codecs import EncodeKeys, MaskedNoise, Plane, codec_from
from fedmrn.errors import ConfigError
from fedmrn.frame import Frame, Role
from fedmrn.layout import Group, Layout, TensorSpec
from fedmrn.masking import MaskType
from fedmrn.methods import METHODS, method
from fedmrn.noise import Law, NoiseSpec
from fedmrn.server import Carried, Server
from fedmrn.update import encode_update

WITH_SCALE = [name for name, row in METHODS.items() if "scale" in row.options]
D, CLIENTS = 20_000, tuple("abcdefghij")
WIDE = Layout.of([TensorSpec("w", (D,), Group.CODED)])
KINDS = ["fedmrn", "fedmrn-s"]


def updates(rms: float, alike: float) -> dict[str, np.ndarray]:
    """Updates of ten clients: a common part with this share of the energy, the rest each one's own."""
    generator = np.random.default_rng(1)
    common = generator.normal(size=D)
    return {
        c: (rms * (np.sqrt(alike) * common + np.sqrt(1 - alike) * generator.normal(size=D))).astype(np.float32)
        for c in CLIENTS
    }


def settled(
    name: str, rms: float, start: float, *, alike: float = 0.3, law: str = "uniform", rounds: int = 12
) -> float:
    """The scale after rounds of updates like these."""
    scheme, zeros = method(name).scheme({"scale": "auto", "noise": law}), np.zeros(D, np.float32)
    carried = replace(Carried.at_start(WIDE, scheme, zeros), level=Level(float(np.float32(start))))
    server, vectors = Server(WIDE, scheme, zeros, SECRET, carried=carried), updates(rms, alike)
    for number in range(1, rounds + 1):
        play(server, number, vectors, dict.fromkeys(CLIENTS, 1)).finish()
    assert server.carried.level is not None
    return server.carried.level.scale


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("law", ["uniform", "gaussian"])
@pytest.mark.parametrize("alike", [0.3, 0.7])
def test_it_rests_at_a_scale_of_the_updates_size_wherever_it_starts(name: str, law: str, alike: float) -> None:
    for start in (0.0001, 0.01, 1.0):
        scale = settled(name, 0.01, start, law=law, alike=alike)
        assert 0.005 < scale < 0.2, "half to twenty times the rms of u: the range in which it rests is wide"


@pytest.mark.parametrize("name", KINDS)
def test_updates_a_thousand_times_larger_have_a_scale_a_thousand_times_larger(name: str) -> None:
    small, large = settled(name, 0.001, 0.001, rounds=6), settled(name, 1.0, 1.0, rounds=6)
    assert large == pytest.approx(1000 * small, rel=0.01)


@pytest.mark.parametrize("name", KINDS)
def test_within_its_range_it_rests(name: str) -> None:
    assert settled(name, 0.01, 0.04, rounds=1) == np.float32(0.04)


@pytest.mark.parametrize("name", KINDS)
def test_it_starts_from_the_size_of_the_weights(name: str) -> None:
    weights = noisy(D, 9, 0.3)
    level = Carried.at_start(WIDE, method(name).scheme({"scale": "auto"}), weights).level
    rms = float(np.sqrt(np.square(weights, dtype=np.float64).mean()))
    assert level == Level(pytest.approx(rms if name == "fedmrn" else rms / 2, rel=1e-6))
    zeros = Carried.at_start(WIDE, method(name).scheme({"scale": "auto"}), np.zeros(D, np.float32)).level
    assert zeros is not None
    assert zeros.scale > 0, "noise has to have a size"


@pytest.mark.parametrize("name", KINDS)
def test_what_is_seen_is_the_sum_over_pairs_of_clients(name: str) -> None:
    """By the obvious loop: what clients sent, each with each other, with weights."""
    scheme, vectors = method(name).scheme({"scale": "auto"}), updates(0.02, 0.3)
    weights = {c: 1 + k for k, c in enumerate(CLIENTS)}
    server = Server(WIDE, scheme, np.full(D, 0.02, np.float32), SECRET)
    round_ = server.begin(1, CLIENTS)
    values, smalls, total = [], [], sum(weights.values())
    for client in CLIENTS:
        broadcast = Frame.from_bytes(round_.broadcast(client))
        frame = encode_update(broadcast, WIDE, vectors[client], weight=weights[client], sampling_key=weights[client])
        round_.add(client, frame.to_bytes())
        section = frame.sections[0]
        codec = codec_from(section.codec, section.params)
        assert isinstance(codec, MaskedNoise)
        value = codec.decode(section.body, D, frame.noise_key).astype(np.float64) * weights[client] / total
        values.append(value)
        smalls.append(np.where(np.abs(codec.noise.chunk(frame.noise_key, 0, D)) < codec.noise.median, value, 0))
    mean = round_.aggregator.finish()
    seen = round_._seen(mean, round_.aggregator.finish_plane(Plane.SMALL))
    pairs = [(j, k) for j in range(len(CLIENTS)) for k in range(len(CLIENTS)) if j != k]
    common = sum(float(values[j] @ values[k]) for j, k in pairs) / D
    small = sum(float(smalls[j] @ values[k]) for j, k in pairs) / D
    squares = sum(w**2 for w in weights.values())
    assert seen.clients == pytest.approx(total**2 / squares)
    # The fold rounds a mean to float32: 6e-8 of it, of each element at random.
    assert seen.power - seen.own == pytest.approx(common, rel=1e-5)
    assert seen.small - seen.own_small == pytest.approx(small, rel=1e-5)


def test_the_mean_of_products_is_the_obvious_sum_in_any_order() -> None:
    a, b = noisy(600_000, 1), noisy(600_000, 2)
    found, order = mean_product(a, b), np.random.default_rng(0).permutation(a.size)
    assert found == mean_product(a[order], b[order])
    # Rounding to 2^-30 of the largest product, 2.9e-31 of it squared an element, averages out.
    exact = sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)) / a.size
    assert found == pytest.approx(exact, abs=1e-4 * 2.0**-30)
    assert mean_product(a[:0], b[:0]) == mean_product(a[:9] * 0, b[:9]) == 0.0


@pytest.mark.parametrize("law", [Law.UNIFORM, Law.GAUSSIAN, Law.BERNOULLI])
def test_the_plane_of_small_noise_is_the_obvious_choice(law: Law) -> None:
    codec, key = MaskedNoise(NoiseSpec(law, 0.02), MaskType.SIGNED), 77
    body = codec.encode(noisy(D, 3), EncodeKeys(key, 5))
    reader, noise = codec.open(body, D, key, 1.0), codec.noise.chunk(key, 0, D)
    whole, small = np.empty(D, np.float32), np.empty(D, np.float32)
    reader.read(0, whole)
    reader.small.read(0, small)
    half = float(np.median(np.abs(noise)))
    assert codec.noise.median == pytest.approx(half, rel=0.03)
    for value, n, found in zip(whole.tolist(), noise.tolist(), small.tolist(), strict=True):
        assert found == (value if abs(n) < codec.noise.median else 0.0)


def seen(small: float, large: float, *, clients: float = 4.0) -> Seen:
    """What four clients show that have this in common over the halves of the elements, under noise of scale 1."""
    pairs = 1 - 1 / clients
    return Seen(10**10, clients, (small + large) * pairs + 0.1, small * pairs + 0.02, 0.1, 0.02)


@pytest.mark.parametrize(
    ("mask", "what", "factor"),
    [
        (MaskType.BINARY, seen(0.0025, 0.0075), 8.0),  # R = 1/3
        (MaskType.BINARY, seen(0.0035, 0.0085), 2.155),
        (MaskType.BINARY, seen(0.005, 0.007), 1.0),
        (MaskType.BINARY, seen(0.0004, 0.000384), 0.8),
        (MaskType.BINARY, seen(0.0, 0.0), 0.125),
        (MaskType.BINARY, seen(-0.01, -0.01), 0.125),
        (MaskType.SIGNED, seen(0.0025, 0.0075), 8.0),
        (MaskType.SIGNED, seen(0.0026, 0.0074), 3.778),
        (MaskType.SIGNED, seen(0.0040, 0.0060), 1.0),
        (MaskType.SIGNED, seen(0.001568, 0.001568), 0.8),
        (MaskType.SIGNED, seen(0.0, 0.0), 0.125),
        (MaskType.SIGNED, seen(0.0025, 0.0075, clients=1.0), 1.0),
    ],
)
def test_the_step_of_a_round(mask: MaskType, what: Seen, factor: float) -> None:
    assert AutoScale(Law.UNIFORM, mask).next(Level(1.0), what).scale == pytest.approx(factor, rel=1e-3)


@pytest.mark.parametrize("mask", MaskType)
def test_what_is_hardly_seen_moves_nothing(mask: MaskType) -> None:
    """R looks saturated; but of what clients have in common, little more than its own doubt is left."""
    rule, doubt = AutoScale(Law.UNIFORM, mask), np.sqrt(2e-10) * 0.1 / 0.75
    for large, moves in ((5 * doubt, False), (60 * doubt, True)):
        assert (rule.next(Level(1.0, 10.0), seen(large / 3, large)).scale > 1) is moves


@pytest.mark.parametrize("mask", MaskType)
def test_the_scale_does_not_follow_updates_down(mask: MaskType) -> None:
    rule, faint = AutoScale(Law.UNIFORM, mask), seen(0.0001, 0.0001)
    assert rule.next(Level(1.0, 0.2), faint) == Level(1.0, float(np.float32(0.2)))
    assert rule.next(Level(1.0), faint).scale < 1
    assert rule.next(Level(16.0, 0.2), faint).scale < 16, "too large for the largest so far"


@pytest.mark.parametrize("start", [2.0**-80, 2.0**80])
def test_the_scale_stays_one_that_noise_can_have(start: float) -> None:
    rule = AutoScale(Law.UNIFORM, MaskType.BINARY)
    for what in (seen(0.0, 0.0), seen(0.0025, 0.0075)):
        NoiseSpec(Law.UNIFORM, rule.next(Level(start), what).scale)


@pytest.mark.parametrize("name", WITH_SCALE)
def test_every_method_with_a_scale_can_follow_and_tells_its_clients(name: str) -> None:
    scheme = method(name).scheme({"scale": "auto"})
    fixed = method(name).scheme().codecs[Group.CODED]
    assert scheme.codecs[Group.CODED] == fixed
    carried = replace(Carried.at_start(LAYOUT, scheme, noisy(LAYOUT.size, 1)), level=Level(0.5))
    server = Server(LAYOUT, scheme, noisy(LAYOUT.size, 1), SECRET, carried=carried)
    section = Frame.from_bytes(server.begin(1, ["ann"]).broadcast("ann")).select(Role.TEMPLATE, Group.CODED)
    assert section is not None
    assert section.params == fixed.rescaled(0.5).params() != fixed.params()


def test_rescaling_changes_the_scale_alone() -> None:
    codec = MaskedNoise(NoiseSpec(Law.GAUSSIAN, 0.25), MaskType.SIGNED)
    assert codec.rescaled(0.5) == MaskedNoise(NoiseSpec(Law.GAUSSIAN, 0.5), MaskType.SIGNED)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("topk", {"density": "auto"}),
        ("fedmrn", {"noise": "auto"}),
        ("fedmrn", {"scale": "auto", "noise": "bernoulli"}),
        ("fedmrn-s", {"scale": "auto", "noise": "bernoulli"}),
        ("fedmrn", {"scale": "auto", "noise_key": "round"}),
    ],
)
def test_what_cannot_follow(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="auto"):
        method(name).scheme(options)


def test_a_scale_belongs_to_a_scheme_that_adapts_it() -> None:
    moments = np.zeros((0, LAYOUT.trainable), np.float32)
    for options, level in (({}, Level(0.5)), ({"scale": "auto"}, None)):
        with pytest.raises(ConfigError, match="noise level"):
            Server(
                LAYOUT, method("fedmrn").scheme(options), noisy(LAYOUT.size, 1), SECRET, carried=Carried(moments, level)
            )
