"""The laws of stochastic and progressive masking.

Keys are fixed, so each test gives the same answer each time. A tolerance is stated with the chance that a *sound*
implementation misses it for one choice of keys; the whole file misses with a chance below 0.1.
"""

import math
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

import oracle
from fedmrn.codecs import EncodeKeys, MaskedNoise
from fedmrn.methods import method
from fedmrn.numerics.masking import MaskType, draw_mask, fingerprint, progressive_weights, sum_of_distances
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.numerics.rng import Purpose, Stream, domain
from fedmrn.server import Server
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update

F32 = NDArray[np.float32]
SCALE = 0.01
DRAWS = 8000
# u / n for each element: feasible for both masks, for the signed one alone, for neither, and the borders.
RATIOS = np.concatenate(
    [
        np.linspace(0.02, 0.98, 25),
        np.linspace(-0.98, -0.02, 25),
        [0.0, 1.0, -1.0, 1.0001, -1.0001, 1.5, -1.5, 7.0, -7.0, 1e6, -1e6],
    ]
)
LAYOUT = Layout.of([TensorSpec("w", (RATIOS.size,), Group.CODED)])


@cache
def _decoded(law: Law, mask: MaskType) -> tuple[F32, F32, F32]:
    """(u, n, decoded frames of shape (DRAWS, d)): whole frames, encoded with private keys 0, 1, 2, ..."""
    scheme = method("fedmrn" if mask is MaskType.BINARY else "fedmrn-s").scheme(
        {"noise": law.name.lower(), "scale": SCALE}
    )
    server = Server(LAYOUT, scheme, np.zeros(LAYOUT.size, np.float32), b"a secret of tests", run=bytes(16))
    broadcast = Frame.from_bytes(server.begin(1, ["a"]).broadcast("a"))
    n = NoiseSpec(law, SCALE).chunk(broadcast.noise_key, 0, LAYOUT.size)
    u = (RATIOS * n).astype(np.float32)
    codec = scheme.codecs[Group.CODED]
    out = np.empty((DRAWS, LAYOUT.size), np.float32)
    for key in range(DRAWS):
        data = encode_update(broadcast, LAYOUT, u, weight=1, sampling_key=key).to_bytes()
        out[key] = codec.decode(Frame.from_bytes(data).sections[0].body, LAYOUT.size, broadcast.noise_key)
    return u, n, out


def _target(u: F32, n: F32, mask: MaskType) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The clipped u and the variance of one decoded element."""
    u64, n64 = u.astype(np.float64), n.astype(np.float64)
    lower = np.minimum(0, n64) if mask is MaskType.BINARY else -np.abs(n64)
    upper = np.maximum(0, n64) if mask is MaskType.BINARY else np.abs(n64)
    clipped = np.clip(u64, lower, upper)
    variance = clipped * (n64 - clipped) if mask is MaskType.BINARY else n64**2 - clipped**2
    return clipped, variance


@pytest.mark.parametrize("mask", MaskType)
@pytest.mark.parametrize("law", Law)
def test_the_mean_of_frames_is_the_clipped_update(law: Law, mask: MaskType) -> None:
    """Standard error sqrt(variance / DRAWS), with the variance known: u (n - u) or n^2 - u^2. In all six cases some 225
    coordinates are random; at 4 standard errors a chance of 225 * 6.3e-5 = 0.014 to miss. The sum of their squares has
    mean k and variance near 2 k; 5 deviations are allowed (the upper tail of chi-square with 25 degrees: 1e-4)."""
    u, n, decoded = _decoded(law, mask)
    clipped, variance = _target(u, n, mask)
    mean = decoded.astype(np.float64).mean(axis=0)
    random = variance > 1e-3 * n.astype(np.float64) ** 2
    assert random.sum() == (25 if mask is MaskType.BINARY else 51)
    z = (mean - clipped)[random] / np.sqrt(variance[random] / DRAWS)
    assert np.abs(z).max() < 4
    assert abs((z**2).sum() - z.size) < 5 * math.sqrt(2 * z.size)
    # Outside, and on the border: no randomness is left, every frame decodes to the clipped u itself. (u / n may round
    # across a border: 1.0 * n and 0.0 * n are exact, -1.0 * n too.)
    assert (decoded[:, ~random] == clipped[~random].astype(np.float32)).all()
    assert (~random).sum() == (36 if mask is MaskType.BINARY else 10)


@pytest.mark.parametrize("mask", MaskType)
@pytest.mark.parametrize("law", Law)
def test_the_variance_of_frames(law: Law, mask: MaskType) -> None:
    """The mean of (x - u)^2 has standard error sqrt((E (x - u)^4 - v^2) / DRAWS) for two points a, b with chances 1 - p
    and p: E (x - u)^4 = (b - a)^4 p (1 - p) ((1 - p)^3 + p^3). Where p = 1/2 it is constant, so float32 rounding of u
    (relative 1e-6) remains."""
    u, n, decoded = _decoded(law, mask)
    clipped, variance = _target(u, n, mask)
    n64 = n.astype(np.float64)
    random = variance > 1e-3 * n64**2
    width = n64 if mask is MaskType.BINARY else 2 * n64
    p = clipped / n64 if mask is MaskType.BINARY else (clipped / n64 + 1) / 2
    fourth = width**4 * p * (1 - p) * ((1 - p) ** 3 + p**3)
    error = np.sqrt(np.maximum(fourth - variance**2, 0) / DRAWS)
    seen = ((decoded - clipped) ** 2).mean(axis=0)
    assert (np.abs(seen - variance) <= 4 * error + 1e-6 * n64**2)[random].all()


@pytest.mark.parametrize("mask", MaskType)
def test_elements_are_masked_independently(mask: MaskType) -> None:
    """Correlations over DRAWS frames between all pairs of the k random coordinates: each near N(0, 1 / DRAWS). At most
    1,275 pairs at 5 standard errors: a chance of 7e-4."""
    u, n, decoded = _decoded(Law.UNIFORM, mask)
    random = _target(u, n, mask)[1] > 1e-3 * n.astype(np.float64) ** 2
    correlation = np.corrcoef(decoded[:, random].astype(np.float64).T)
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 5 / math.sqrt(DRAWS)


# --- the formulas, in plain float32 arrays, fed the same uniforms ---------------------------------------------------


def _plain_probability(u: F32, n: F32, mask: MaskType) -> F32:
    with np.errstate(over="ignore"):
        p = u / n
    if mask is MaskType.SIGNED:
        p = (p + np.float32(1)) / np.float32(2)
    return np.clip(p, np.float32(0), np.float32(1))


def _plain_mask(u: F32, n: F32, r: F32, mask: MaskType, stochastic: bool) -> NDArray[np.bool_]:
    p = _plain_probability(u, n, mask)
    return r < p if stochastic else p >= np.float32(0.5)


def _plain_progressive(moved: F32, n: F32, base: F32, q: float, r: F32, mask: MaskType, stochastic: bool) -> F32:
    q32, u = np.float32(q), moved - base
    p = _plain_probability(u, n, mask)
    if not stochastic:
        p = (p >= np.float32(0.5)).astype(np.float32)
    lower = -n if mask is MaskType.SIGNED else np.zeros_like(n)
    clipped = np.clip(u, np.minimum(lower, n), np.maximum(lower, n))
    kept = np.where(clipped == u, moved, base + clipped)
    selected, upper = r < q32, r < q32 * p
    return np.where(selected, base + np.where(upper, n, lower), kept)


def _inputs(law: Law, size: int) -> tuple[F32, F32, F32, Stream]:
    n = NoiseSpec(law, SCALE).chunk(5, 0, size)
    u = (n * (Stream(6, 0).uniform(0, size) * np.float32(6) - np.float32(3))).astype(np.float32)
    edges = np.array([0, -0.0, 3e38, -3e38, 1e-45, -1e-45, SCALE, -SCALE, SCALE / 2, -SCALE / 2], np.float32)
    u[:10] = edges
    u[10:20], u[20:30], u[30:40] = n[10:20], -n[20:30], n[30:40] / np.float32(2)
    base = Stream(7, 0).uniform(0, size) * np.float32(2) - np.float32(1)
    return u, n, base, Stream(8, domain(Purpose.TRAIN_MASK, 3))


@pytest.mark.parametrize("stochastic", [True, False], ids=["sm", "no-sm"])
@pytest.mark.parametrize("mask", MaskType)
@pytest.mark.parametrize("law", Law)
def test_draw_mask_is_the_formula(law: Law, mask: MaskType, stochastic: bool) -> None:
    u, n, _, stream = _inputs(law, 20_000)
    expected = _plain_mask(u, n, stream.uniform(0, u.size), mask, stochastic)
    for start, stop in [(0, u.size), (0, 1), (1000, 1100), (1023, 5001), (19_999, 20_000), (5, 5)]:
        part = draw_mask(u[start:stop], n[start:stop], stream, start, mask, stochastic=stochastic)
        assert part.dtype == np.bool_
        assert np.array_equal(part, expected[start:stop])
    assert expected.any()
    assert not expected.all()


@pytest.mark.parametrize("stochastic", [True, False], ids=["sm", "no-sm"])
@pytest.mark.parametrize("mask", MaskType)
@pytest.mark.parametrize("q", [0.0, 2.0**-24, 0.1, 0.5, 2 / 3, 1 - 2.0**-24, 1.0])
def test_progressive_weights_are_the_formula(q: float, mask: MaskType, stochastic: bool) -> None:
    """Equal to the bit: the same float32 operations in the same order."""
    for law in Law:
        u, n, base, stream = _inputs(law, 5000)
        out = np.full_like(base, np.nan)
        moved = base + u
        progressive_weights(moved, n, base, q, stream, mask, out, stochastic=stochastic)
        expected = _plain_progressive(moved, n, base, q, stream.uniform(0, u.size), mask, stochastic)
        assert np.array_equal(out.view(np.uint32), expected.view(np.uint32))


def test_the_uniforms_are_the_oracles() -> None:
    """Closes the circle for a few elements: mask bits from integers, without the library's own stream."""
    n = NoiseSpec(Law.UNIFORM, SCALE).chunk(5, 0, 300)
    u = (n * np.float32(0.5)).astype(np.float32)
    drawn = draw_mask(u, n, Stream(99, oracle.FINAL_MASK_DOMAIN), 0, MaskType.BINARY)
    assert drawn.tolist() == [oracle.uniform(99, 3 << 32, i) < 0.5 for i in range(300)]


def test_borders_belong_to_the_right_side() -> None:
    """r = p gives the lower codeword, r = q the clipped u: only so do p = 0 and q = 0 mean never."""
    stream = Stream(3, domain(Purpose.TRAIN_MASK))
    r = stream.uniform(0, 3000)
    n = NoiseSpec(Law.BERNOULLI, 1.0).chunk(5, 0, r.size)
    above = r + np.float32(2.0**-24)
    for p, expected in ((r, False), (above, True)):
        assert (draw_mask(p * n, n, stream, 0, MaskType.BINARY) == expected).all()
        out = np.empty_like(n)
        progressive_weights(p * n, n, np.zeros_like(n), 1.0, stream, MaskType.BINARY, out)
        assert np.array_equal(out, n if expected else 0 * n)
    u = np.float32(0.5) * n
    for i in range(50):
        for q, clipped in ((r[i], True), (above[i], False)):
            progressive_weights(u, n, np.zeros_like(n), float(q), stream, MaskType.SIGNED, out)
            assert (out[i] == u[i]) == clipped


@pytest.mark.parametrize("mask", MaskType)
def test_q_of_one_is_stochastic_masking_and_q_of_zero_is_clipping(mask: MaskType) -> None:
    u, n, base, stream = _inputs(Law.GAUSSIAN, 5000)
    zero, out = np.zeros_like(base), np.empty_like(base)
    lower = -n if mask is MaskType.SIGNED else zero
    progressive_weights(u, n, zero, 1.0, stream, mask, out)
    assert np.array_equal(out, np.where(draw_mask(u, n, stream, 0, mask), n, lower))
    progressive_weights(u, n, zero, 0.0, stream, mask, out)
    assert np.array_equal(out, np.clip(u, np.minimum(lower, n), np.maximum(lower, n)))


# --- one uniform has the law of two ---------------------------------------------------------------------------------

PSM_SIZE = 120_000


def _outcomes(p: F32, q: float, mask: MaskType, key: int) -> NDArray[np.int64]:
    """0 upper, 1 lower, 2 clipped for each element, read off the weights; p strictly between 0 and 1."""
    n = NoiseSpec(Law.BERNOULLI, 1.0).chunk(key, 0, p.size)
    ratio = p if mask is MaskType.BINARY else 2 * p - 1
    u = (ratio * n).astype(np.float32)
    out = np.empty_like(u)
    progressive_weights(u, n, np.zeros_like(u), q, Stream(key, domain(Purpose.TRAIN_MASK)), mask, out)
    lower = -n if mask is MaskType.SIGNED else np.zeros_like(n)
    found = np.select([out == n, out == lower, out == u], [0, 1, 2], -1)
    assert (found >= 0).all()
    return found


def _chi_square(seen: NDArray[np.int64], expected: NDArray[np.float64]) -> float:
    return float(((seen - expected) ** 2 / expected).sum())


def _limit(degrees: int) -> float:
    """The 1 - 1e-5 quantile of chi-square (Wilson and Hilferty's cube; 4.265 is the normal quantile). Some 40 tests
    below: a chance of 4e-4 to miss."""
    c = 2 / (9 * degrees)
    return degrees * (1 - c + 4.265 * math.sqrt(c)) ** 3


@pytest.mark.parametrize("mask", MaskType)
@pytest.mark.parametrize("q", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("p", [0.03, 0.25, 0.5, 0.8])
def test_psm_has_the_law_of_two_draws(p: float, q: float, mask: MaskType) -> None:
    """Three outcomes, so two degrees of freedom. Two independent draws, selection b and mask m, give upper q p, lower
    q (1 - p), clipped 1 - q. Drawn with numpy, they pass the same test."""
    key = int(1000 * p + 10_000 * q) + mask
    seen = np.bincount(_outcomes(np.full(PSM_SIZE, p, np.float32), q, mask, key), minlength=3)
    expected = PSM_SIZE * np.array([q * p, q * (1 - p), 1 - q])
    assert _chi_square(seen, expected) < _limit(2)

    draws = np.random.default_rng(key).random((2, PSM_SIZE))
    selected, upper = draws[0] < q, draws[1] < p
    two = np.bincount(np.where(selected, np.where(upper, 0, 1), 2), minlength=3)
    assert _chi_square(two, expected) < _limit(2)
    pooled = (seen + two) / 2
    assert _chi_square(seen, pooled) + _chi_square(two, pooled) < _limit(2)


def test_a_wrong_law_is_noticed() -> None:
    """The mistake of comparing with p where q p belongs: far beyond the limit, so the test above has teeth."""
    p, q = 0.25, 0.3
    r = Stream(1, 1).uniform(0, PSM_SIZE)
    wrong = np.bincount(np.where(r < q, np.where(r < p, 0, 1), 2), minlength=3)
    assert _chi_square(wrong, PSM_SIZE * np.array([q * p, q * (1 - p), 1 - q])) > 100 * _limit(2)


@pytest.mark.parametrize("mask", MaskType)
def test_psm_over_many_probabilities_at_once(mask: MaskType) -> None:
    """Joint bins of p (20) and outcome (3): the size of each p bin is given, so 20 * 2 degrees of freedom."""
    q = 0.37
    p = np.clip(Stream(31, 0).uniform(0, PSM_SIZE), 0.001, 0.999).astype(np.float32)
    bins = np.minimum((p * 20).astype(int), 19)
    seen = np.bincount(bins * 3 + _outcomes(p, q, mask, 77), minlength=60).reshape(20, 3)
    expected = np.stack(
        [np.bincount(bins, chance, minlength=20) for chance in (q * p, q * (1 - p), np.full(PSM_SIZE, 1 - q))], axis=1
    )
    assert _chi_square(seen, expected) < _limit(40)


@pytest.mark.parametrize("apart", [1, 256, 512, 768, 1024])
def test_psm_of_two_elements_is_independent(apart: int) -> None:
    """Nine joint outcomes of elements i and i + apart with known chances: eight degrees of freedom. Pairs overlap in no
    element; 256 and its multiples are the planes of one generator call."""
    p, q = 0.4, 0.6
    found = _outcomes(np.full(2048 * 60, p, np.float32), q, MaskType.SIGNED, 400 + apart)
    pairs = found.reshape(-1, 2048)
    first = np.arange(2048) // apart % 2 == 0
    first &= np.arange(2048) + apart < 2048
    index = np.flatnonzero(first)
    seen = np.bincount((pairs[:, index] * 3 + pairs[:, index + apart]).ravel(), minlength=9)
    chances = np.array([q * p, q * (1 - p), 1 - q])
    assert _chi_square(seen, seen.sum() * np.outer(chances, chances).ravel()) < _limit(8)


@pytest.mark.parametrize("degrees", [2, 8, 40])
def test_the_limit_is_the_quantile(degrees: int) -> None:
    """The closed form of the tail for even degrees: e^(-x/2) sum_{i < k/2} (x/2)^i / i!."""
    x = _limit(degrees) / 2
    tail = math.exp(-x) * sum(x**i / math.factorial(i) for i in range(degrees // 2))
    assert 2e-6 < tail < 2e-5


@pytest.mark.parametrize("mask", MaskType)
def test_the_expectation_of_psm_is_the_clipped_update(mask: MaskType) -> None:
    """For any q. Standard error sqrt(q * variance / draws): only masked elements vary about the clipped u."""
    q, size = 0.7, PSM_SIZE
    p = np.float32(0.3)
    n = NoiseSpec(Law.BERNOULLI, 1.0).chunk(5, 0, size)
    u = (n * (p if mask is MaskType.BINARY else 2 * p - 1)).astype(np.float32)
    out = np.empty_like(u)
    progressive_weights(u, n, np.zeros_like(u), q, Stream(5, domain(Purpose.TRAIN_MASK)), mask, out)
    variance = float(_target(u, n, mask)[1][0])
    assert abs(float(((out - u) * n).mean(dtype=np.float64))) < 4 * math.sqrt(q * variance / size) + 1e-6


@pytest.mark.parametrize("mask", MaskType)
def test_without_sampling_the_nearer_codeword_is_taken(mask: MaskType) -> None:
    """The ablation needs no randomness: any sampling key gives the same bytes."""
    noise = NoiseSpec(Law.UNIFORM, SCALE)
    codec = MaskedNoise(noise, mask, stochastic=False)
    u, _, _, _ = _inputs(Law.UNIFORM, 3000)
    n = noise.chunk(5, 0, u.size)
    first, second = (codec.encode(u, EncodeKeys(5, sampling)) for sampling in (1, 2))
    assert first == second
    decoded = codec.decode(first, u.size, 5).astype(np.float64)
    other = np.where(decoded == n, -n if mask is MaskType.SIGNED else 0, n).astype(np.float64)
    # Nearer, up to the rounding of u / n near the middle.
    assert (np.abs(decoded - u) <= np.abs(other - u) + 2.0**-22 * np.abs(n)).all()


@pytest.mark.parametrize("mask", MaskType)
def test_what_is_neither_masked_nor_clipped_is_what_was_moved(mask: MaskType) -> None:
    """To the bit, also where the weights received and their distance add up to a neighbour of it."""
    rng = np.random.default_rng(1)
    base = rng.standard_normal(20_000).astype(np.float32)
    moved = (base + rng.uniform(0, 0.5, base.size) * 10.0 ** rng.uniform(-8, 0, base.size)).astype(np.float32)
    assert (base + (moved - base) != moved).any(), "no element here tells the two apart"
    out = np.empty_like(base)
    progressive_weights(moved, np.ones_like(base), base, 0.0, Stream(1, 2), mask, out)
    assert out.tobytes() == moved.tobytes()


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 5000])
def test_the_sum_of_distances_is_that_of_exact_numbers(size: int) -> None:
    """Differences are rounded to float32; each of at most `size` additions in float64 rounds by 2^-53 of the sum."""
    rng = np.random.default_rng(size)
    a, b = (rng.standard_normal(size).astype(np.float32) for _ in range(2))
    exact = math.fsum(np.abs(a - b).astype(np.float64).tolist())
    assert abs(sum_of_distances(a, b) - exact) <= size * 2.0**-53 * exact


@pytest.mark.parametrize("size", [0, 1, 300, 1023, 1024, 1025, 5000, 70_000])
def test_a_step_in_the_pass_that_sums_is_a_step_and_a_sum(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, in any number of threads."""
    monkeypatch.setattr("fedmrn.numerics.threads.PIECE", 1)
    a, b, g = (np.random.default_rng(size + k).standard_normal(size).astype(np.float32) for k in range(3))
    moved, out = a.copy(), np.empty_like(a)
    progressive_weights(moved, np.ones_like(a), b, 0.0, Stream(1, 2), MaskType.SIGNED, out, gradient=g, rate=0.37)
    expected = sum_of_distances(moved, b)
    for threads in (1, 2, 5):
        mine = a.copy()
        assert sum_of_distances(mine, b, gradient=g, rate=0.37, threads=threads) == expected
        assert mine.tobytes() == moved.tobytes()
        assert sum_of_distances(moved, b, threads=threads) == expected


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_any_one_change_changes_the_fingerprint(kind: type[np.generic]) -> None:
    values = np.random.default_rng(1).standard_normal(257).astype(kind)
    before = fingerprint(values)
    assert fingerprint(values.copy()) == before
    for i in range(values.size):
        changed = values.copy()
        changed[i] = np.nextafter(changed[i], kind(9))
        assert fingerprint(changed) != before
    assert fingerprint(np.roll(values, 1)) != before
