"""A noise scale that follows the updates: what it sees, where it rests, and that it gets there from anywhere."""

from dataclasses import replace

import numpy as np
import pytest
from core_examples import LAYOUT, SECRET, noisy, play

from fedmrn.auto_scale import AutoScale, Level, Seen, mean_product
from fedmrn.codecs import EncodeKeys, MaskedNoise
from fedmrn.errors import ConfigError
from fedmrn.frame import Frame, Role
from fedmrn.layout import Group, Layout, TensorSpec
from fedmrn.masking import MaskType
from fedmrn.methods import METHODS, method
from fedmrn.noise import Law, NoiseSpec
from fedmrn.server import Carried, Server

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
    name: str, rms: float, start: float, *, alike: float = 0.3, law: str = "uniform", rounds: int = 40
) -> float:
    """The scale after rounds of updates like these."""
    scheme = method(name).scheme({"scale": "auto", "noise": law})
    carried = replace(Carried.at_start(WIDE, scheme), level=Level(float(np.float32(start))))
    server, vectors = Server(WIDE, scheme, np.zeros(D, np.float32), SECRET, carried=carried), updates(rms, alike)
    for number in range(1, rounds + 1):
        play(server, number, vectors, dict.fromkeys(CLIENTS, 1)).finish()
    assert server.carried.level is not None
    return server.carried.level.scale


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("law", ["uniform", "gaussian", "bernoulli"])
@pytest.mark.parametrize("alike", [0.05, 0.5])
def test_it_rests_at_a_scale_of_the_updates_size_wherever_it_starts(name: str, law: str, alike: float) -> None:
    if (name, law) == ("fedmrn-s", "bernoulli"):
        with pytest.raises(ConfigError, match="uniform"):
            settled(name, 0.01, 0.01, law=law)
        return
    for start in (0.0001, 0.01, 1.0):
        scale = settled(name, 0.01, start, law=law, alike=alike, rounds=14)
        assert 0.005 < scale < 0.5, "0.5 to 50 times the rms of u: the range in which it rests is wide"


@pytest.mark.parametrize("name", KINDS)
def test_updates_a_thousand_times_larger_have_a_scale_a_thousand_times_larger(name: str) -> None:
    small, large = settled(name, 0.001, 0.001, rounds=8), settled(name, 1.0, 1.0, rounds=8)
    assert large == pytest.approx(1000 * small, rel=0.01)


@pytest.mark.parametrize("name", KINDS)
def test_within_its_range_it_rests(name: str) -> None:
    scale = settled(name, 0.01, 0.03, rounds=1)
    assert scale == np.float32(0.03)


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


def test_what_clients_have_in_common_is_the_mean_over_pairs_without_the_dice() -> None:
    vectors, alike, rms, scale = updates(0.002, 0.5), 0.5, 0.002, 0.02
    server = Server(WIDE, method("fedmrn-s").scheme({"scale": scale}), np.zeros(D, np.float32), SECRET)
    round_ = play(server, 1, vectors, dict.fromkeys(CLIENTS, 1))
    mean = round_.finish().astype(np.float64)
    k = len(CLIENTS)
    found = (k * np.square(mean).mean() / scale**2 - 1 / 3) / (k - 1)
    # u is far inside the noise, so that nothing is clipped. K mean^2 has a variance near 2 (scale^2 / 3)^2 an element.
    sigma = np.sqrt(2 / D) / 3 / (k - 1)
    assert found == pytest.approx(alike * rms**2 / scale**2, abs=4 * sigma)


def signed(small: float, large: float) -> Seen:
    """What four clients show that have this in common over the halves of the elements; uniform noise of scale 1."""
    power, half = (3 * (small + large) + 1 / 3) / 4, (3 * small + 1 / 24) / 4
    return Seen(10**6, 4.0, 0.5, power, half)


@pytest.mark.parametrize(
    ("mask", "seen", "factor"),
    [
        (MaskType.BINARY, Seen(10**6, 4.0, 0.6, 0.0), 64.0),
        (MaskType.BINARY, Seen(10**6, 4.0, 0.45, 0.0), 4.0),
        (MaskType.BINARY, Seen(10**6, 4.0, 0.3, 0.0), 1.0),
        (MaskType.BINARY, Seen(10**6, 1.0, 0.05, 0.0), 1.0),
        (MaskType.BINARY, Seen(10**6, 4.0, 0.04, 0.0), 0.8),
        (MaskType.BINARY, Seen(10**6, 4.0, 0.0, 0.0), 1 / 64),
        (MaskType.SIGNED, signed(0.0025, 0.0075), 4.0),
        (MaskType.SIGNED, signed(0.0026, 0.0074), 1.971),
        (MaskType.SIGNED, signed(0.0040, 0.0060), 1.0),
        (MaskType.SIGNED, signed(0.001568, 0.001568), 0.8),
        (MaskType.SIGNED, signed(0.0, 0.0), 0.25),
        (MaskType.SIGNED, signed(-0.001, -0.001), 0.25),
        (MaskType.SIGNED, Seen(10**6, 1.0, 0.5, 1.0, 1.0), 1.0),
    ],
)
def test_the_step_of_a_round(mask: MaskType, seen: Seen, factor: float) -> None:
    assert AutoScale(0.01, Law.UNIFORM, mask).next(Level(1.0), seen).scale == pytest.approx(factor, rel=1e-3)


@pytest.mark.parametrize(
    ("mask", "seen"), [(MaskType.BINARY, Seen(10**6, 4.0, 0.01, 0.0)), (MaskType.SIGNED, signed(0.0001, 0.0001))]
)
def test_the_scale_does_not_follow_updates_down(mask: MaskType, seen: Seen) -> None:
    rule = AutoScale(0.01, Law.UNIFORM, mask)
    assert rule.next(Level(1.0, 0.2), seen) == Level(1.0, float(np.float32(0.2)))
    assert rule.next(Level(1.0), seen).scale < 1
    assert rule.next(Level(16.0, 0.2), seen).scale < 16, "too large for the largest so far"


@pytest.mark.parametrize("name", WITH_SCALE)
def test_every_method_with_a_scale_can_follow_and_tells_its_clients(name: str) -> None:
    scheme = method(name).scheme({"scale": "auto"})
    fixed = method(name).scheme().codecs[Group.CODED]
    assert scheme.codecs[Group.CODED] == fixed, "it starts from the default"
    carried = replace(Carried.at_start(LAYOUT, scheme), level=Level(0.5))
    server = Server(LAYOUT, scheme, noisy(LAYOUT.size, 1), SECRET, carried=carried)
    section = Frame.from_bytes(server.begin(1, ["ann"]).broadcast("ann")).select(Role.TEMPLATE, Group.CODED)
    assert section is not None
    assert section.params == fixed.rescaled(0.5).params() != fixed.params()


def test_rescaling_changes_the_scale_alone() -> None:
    codec = MaskedNoise(NoiseSpec(Law.GAUSSIAN, 0.25), MaskType.SIGNED)
    assert codec.rescaled(0.5) == MaskedNoise(NoiseSpec(Law.GAUSSIAN, 0.5), MaskType.SIGNED)


@pytest.mark.parametrize(("name", "options"), [("topk", {"density": "auto"}), ("fedmrn", {"noise": "auto"})])
def test_other_options_do_not_follow(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="auto"):
        method(name).scheme(options)


def test_a_scale_belongs_to_a_scheme_that_adapts_it() -> None:
    moments = np.zeros((0, LAYOUT.trainable), np.float32)
    for options, level in (({}, Level(0.5)), ({"scale": "auto"}, None)):
        with pytest.raises(ConfigError, match="noise level"):
            Server(
                LAYOUT, method("fedmrn").scheme(options), noisy(LAYOUT.size, 1), SECRET, carried=Carried(moments, level)
            )
