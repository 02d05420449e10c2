"""Private masks: their law, their bounds, and that only a key repeats them."""

import numpy as np
import pytest

from fedmrn.errors import ConfigError, EncodeError
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.numerics.private import Dice, draw_private, private_codewords

SIZE = 400_000


@pytest.mark.parametrize("theta", [0.01, 0.25])
@pytest.mark.parametrize("share", [-1.0, -0.4, 0.0, 0.7, 1.0])
def test_the_mean_is_the_update_inside_the_clip(theta: float, share: float) -> None:
    """Of SIZE draws of +-scale: the mean of a bit's value is u, its variance scale^2 - u^2."""
    scale = 0.5
    u = np.full(SIZE, share * 2 * theta * scale, np.float32)
    noise = np.where(np.arange(SIZE) % 3, scale, -scale).astype(np.float32)
    for key in (7, None):
        values = np.where(draw_private(u, noise, theta, Dice(key)), noise, -noise).astype(np.float64)
        deviation = np.sqrt((scale**2 - float(u[0]) ** 2) / SIZE)
        assert abs(values.mean() - float(u[0])) < 5 * deviation


def test_beyond_the_clip_a_bit_keeps_its_doubt() -> None:
    noise = np.full(SIZE, 0.1, np.float32)
    for u in (0.2, 1e30, np.finfo(np.float32).max):
        share = draw_private(np.full(SIZE, u, np.float32), noise, 0.25, Dice(1)).mean()
        assert abs(share - 0.75) < 5 * np.sqrt(0.1875 / SIZE)


def test_only_a_key_repeats_the_dice() -> None:
    u, noise = np.zeros(600_000, np.float32), np.ones(600_000, np.float32)
    a, b, other = (draw_private(u, noise, 0.1, Dice(key)) for key in (5, 5, 6))
    np.testing.assert_array_equal(a, b)
    free = [draw_private(u, noise, 0.1, Dice()) for _ in range(2)]
    for one, two in ((a, other), free, (a[: 1 << 18], a[1 << 18 : 2 << 18])):  # the pieces differ as well
        assert abs((one == two).mean() - 0.5) < 5 * np.sqrt(0.25 / one.size)


def test_words_of_a_key_are_shake_256() -> None:
    """Known answers: SHAKE-256 of the label, the key and the piece, both little-endian."""
    assert Dice(1).words(0, 2).tolist() == [541801589, 3043288906]


def test_codewords_are_the_noise_or_its_opposite() -> None:
    spec = NoiseSpec(Law.BERNOULLI, 0.25)
    u = np.linspace(-1, 1, 5000, dtype=np.float32)
    found, noise = private_codewords(u, spec, 99, 0.2, Dice(3)), np.empty(5000, np.float32)
    spec.fill(99, 0, noise)
    np.testing.assert_array_equal(found == noise, draw_private(u, noise, 0.2, Dice(3)))
    assert set(np.abs(found)) == {np.float32(0.25)}


def test_what_is_refused() -> None:
    u, noise = np.zeros(3, np.float32), np.ones(3, np.float32)
    for theta in (0.0, -0.1, 0.2500001, float("nan")):
        with pytest.raises(ConfigError, match="theta"):
            draw_private(u, noise, theta, Dice())
    with pytest.raises(EncodeError, match="finite"):
        draw_private(np.array([1, np.nan, 0], np.float32), noise, 0.1, Dice())
    with pytest.raises(ConfigError, match="Bernoulli"):
        private_codewords(u, NoiseSpec(Law.UNIFORM, 1.0), 1, 0.1, Dice())


@pytest.mark.parametrize("theta", [0.01, 0.25])
def test_bits_are_those_of_whole_numbers(theta: float) -> None:
    """The rule of docs/writing-a-client.md in Python's own numbers, by the words that a key gives."""
    draw = np.random.default_rng(8)
    u, noise = draw.normal(0, 2 * theta * 0.5, 3000).astype(np.float32), np.float32(0.5) * draw.choice([-1, 1], 3000)
    noise = noise.astype(np.float32)
    found, words, most = draw_private(u, noise, theta, Dice(9)), Dice(9).words(0, 3000), int(theta * 2**32)
    for i in range(3000):
        aim = min(max(round(float(u[i]) / float(noise[i]) * 2**31), -most), most)
        assert found[i] == (int(words[i]) < 2**31 + aim), i
