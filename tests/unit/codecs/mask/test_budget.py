"""FitsBudget: scales against a search that takes one doubling at a time, and bytes against what was told."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import oracle
from fedmrn.codecs import EncodeKeys, FitsUpdate, MaskedNoise, OwnScale, RandomCode, ToldScale
from fedmrn.codecs.mask.budget import LEAST_BUDGET, MOST_BUDGET, Dial, FitsBudget
from fedmrn.codecs.mask.information import histograms
from fedmrn.codecs.mask.scale import LARGEST_EXPONENT
from fedmrn.errors import ConfigError, EncodeError
from fedmrn.methods import method
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec

F32 = NDArray[np.float32]
SIZES = (288, 4000, 12000, 1280, 10)
LARGE = (288, 18432, 73728, 1280, 10)
"""What is no path is a fiftieth of a bit of these, and a tenth of the others."""
SPREADS = (0.1, 0.05, 0.005, 0.2, 1e-6)
KINDS = ("normal", "laplace", "heavy", "sparse", "one tensor", "zero")
each_mask = pytest.mark.parametrize("mask", MaskType)
each_law = pytest.mark.parametrize("law", Law)


def codec(budget: float, mask: MaskType = MaskType.BINARY, law: Law = Law.UNIFORM) -> OwnScale:
    return OwnScale(RandomCode(MaskedNoise(NoiseSpec(law, 1.0), mask), log2_states=5), budget)


def update(kind: str, seed: int = 1, sizes: tuple[int, ...] = SIZES) -> F32:
    rng = np.random.Generator(np.random.Philox(seed))
    size = sum(sizes)
    u = {
        "laplace": lambda: rng.laplace(size=size),
        "heavy": lambda: rng.standard_t(2, size=size),
        "sparse": lambda: rng.standard_normal(size) * (rng.random(size) < 0.3),
        "zero": lambda: np.zeros(size),
    }.get(kind, lambda: rng.standard_normal(size))()
    if kind == "one tensor":
        u[: sizes[0]] = u[-1290:] = 0
    return (u * np.repeat(SPREADS, sizes)).astype(np.float32)


def dial_of(mine: OwnScale, key: int = 3, caps: tuple[int, ...] = (), sizes: tuple[int, ...] = SIZES) -> Dial:
    dial = mine.dial(sizes, key, caps)
    assert dial is not None
    return dial


def spent(mine: OwnScale, u: F32, key: int = 3, sizes: tuple[int, ...] = SIZES) -> float:
    return 8 * len(mine.encode(u, EncodeKeys(7, key, sizes))) / u.size


def first_of(dial: Dial, u: F32) -> NDArray[np.int32]:
    rows = zip(np.cumsum(dial.sizes), dial.sizes, strict=True)
    means = np.array([np.abs(u[end - size : end].astype(float)).mean() for end, size in rows])
    return np.asarray(FitsUpdate.exponents(means, dial.multiple, dial.caps), np.int32)


def slow(dial: Dial, u: F32) -> list[int]:
    """One doubling after the other, of the tensor that loses least by it."""
    first = first_of(dial, u)
    shares = histograms(u, np.repeat(np.arange(len(SIZES)), SIZES), first)
    cost, error = dial.cost(shares).tolist(), dial.curves.errors(shares).tolist()
    doubled, worst = [0] * len(SIZES), [0.0] * len(SIZES)
    total = sum(row[0] for row in cost)
    while total > dial.spare:
        best, least = None, float("inf")
        for t in range(len(SIZES)):
            k = doubled[t]
            if k + 1 == len(cost[t]) or first[t] + k >= min(dial.caps[t], LARGEST_EXPONENT):
                continue
            saved = cost[t][k] - cost[t][k + 1]
            if saved <= 0:
                continue
            added = max(0.0, (error[t][k + 1] - error[t][k]) * 4.0 ** int(first[t]))
            slope = max(worst[t], added / saved)
            if slope < least:
                best, least = t, slope
        if best is None:
            break
        saved = cost[best][doubled[best]] - cost[best][doubled[best] + 1]
        if total - saved < dial.spare and total - dial.dither * saved <= dial.spare:
            break
        total, worst[best] = total - saved, least
        doubled[best] += 1
    return [int(e) + k for e, k in zip(first, doubled, strict=True)]


@each_mask
@each_law
@pytest.mark.parametrize("kind", KINDS)
def test_scales_against_a_slow_search(mask: MaskType, law: Law, kind: str) -> None:
    u = update(kind)
    for budget in (0.04, 0.1, 0.3, 0.8):
        for key in (1, 2):
            for caps in ((), (-5, -6, -8, 3, 0)):
                dial = dial_of(codec(budget, mask, law), key, caps)
                assert dial.exponents(u).tolist() == slow(dial, u)


@each_mask
@each_law
@pytest.mark.parametrize("kind", KINDS)
def test_the_budget_is_met(mask: MaskType, law: Law, kind: str) -> None:
    """Within 5 % or 0.01 bit (the larger) in the mean over the last doubling's dice; or `auto` takes no more."""
    u = update(kind, sizes=LARGE)
    usual = spent(codec(0.0, mask, law), u, sizes=LARGE)
    for budget in (0.06, 0.2, 0.4):
        mine = codec(budget, mask, law)
        low, high = (
            Dial(d.curves, d.rate, d.multiple, d.sizes, d.spare, dither, d.caps)
            for d in [dial_of(mine, sizes=LARGE)]
            for dither in (0.0, 1.0)
        )
        both = [dial.exponents(u) for dial in (low, high)]
        changed = np.flatnonzero(both[0] != both[1])
        assert changed.size <= 1, "one tensor throws dice"
        if usual <= budget:
            assert both[0].tolist() == both[1].tolist() == first_of(low, u).tolist()
            continue
        first = first_of(low, u)
        shares = histograms(u, np.repeat(np.arange(len(LARGE)), LARGE), first)
        costs = [low.cost(shares)[np.arange(len(LARGE)), e - first].sum() for e in both]
        part = 1.0 if costs[0] == costs[1] else (costs[1] - low.spare) / (costs[1] - costs[0])
        bits = []
        for e in both:
            body = mine.inner.encode(u / np.repeat(np.ldexp(np.float32(1), e), LARGE), EncodeKeys(7, 3, LARGE))
            bits.append(8 * (len(body) + 4 + 12 * len(LARGE)) / u.size)
        mean = part * bits[0] + (1 - part) * bits[1]
        assert mean == pytest.approx(budget, rel=0.05, abs=0.01)


def test_the_mean_over_clients_is_what_was_told() -> None:
    """Costs of 64 clients are within a doubling of each other: the standard error of their mean is below 4 %."""
    u = update("laplace")
    costs = [spent(codec(0.2), u, key) for key in range(64)]
    assert len(set(costs)) == 2
    assert np.mean(costs) == pytest.approx(0.2, rel=0.1)


def test_bits_go_where_they_help_most() -> None:
    """For the same bits, the error is below that of scales that are one multiple of the mean |u| for all tensors."""
    u = update("laplace")
    mine = codec(0.1)
    dial = dial_of(mine)
    wide = dial.exponents(u)
    shares = histograms(u, np.repeat(np.arange(len(SIZES)), SIZES), first_of(dial, u))
    cost, error = dial.cost(shares), dial.curves.errors(shares) * (4.0 ** first_of(dial, u))[:, None]
    rows = np.arange(len(SIZES))
    more = wide - first_of(dial, u)
    same = min(range(12), key=lambda k: abs(cost[:, k].sum() - cost[rows, more].sum()))
    assert cost[:, same].sum() > 0.9 * cost[rows, more].sum()
    assert error[rows, more].sum() < 0.8 * error[:, same].sum()


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(KINDS),
    st.lists(st.floats(LEAST_BUDGET, MOST_BUDGET), min_size=2, max_size=2),
    st.integers(0, 2**64 - 1),
    st.lists(st.integers(-126, 127), min_size=5, max_size=5),
)
def test_less_is_spent_by_wider_noise(kind: str, budgets: list[float], key: int, caps: list[int]) -> None:
    u = update(kind)
    tight, loose = (dial_of(codec(b), key, tuple(caps)).exponents(u) for b in sorted(budgets))
    first = first_of(dial_of(codec(1.0), key, tuple(caps)), u)
    assert (tight >= loose).all()
    assert (loose >= first).all()
    assert (tight <= np.maximum(np.minimum(caps, LARGEST_EXPONENT), -80)).all()


def test_a_budget_that_is_more_than_scales_cost_changes_nothing() -> None:
    u, keys = update("normal"), EncodeKeys(7, 3, SIZES)
    assert codec(1.0).encode(u, keys) == codec(0.0).encode(u, keys)


@each_mask
@pytest.mark.parametrize("budget", [1 / 32, 0.1, 0.25, 1.0])
@pytest.mark.parametrize("sizes", [(3, 4), (90, 10), (1000,) * 5, (3072,) * 24, (300,) * 100])
def test_what_tables_take_is_not_taken_out_of_the_update(budget: float, mask: MaskType, sizes: tuple[int, ...]) -> None:
    """A small model, or one of many small tensors such as LoRA's: half of the budget is always for paths."""
    rng = np.random.Generator(np.random.Philox(1))
    u, mine = rng.standard_normal(sum(sizes)).astype(np.float32), codec(budget, mask)
    dial = dial_of(mine, sizes=sizes)
    exponents, first = dial.exponents(u), first_of(dial, u)
    shares = histograms(u, np.repeat(np.arange(len(sizes)), sizes), first)
    left = dial.cost(shares)[np.arange(len(sizes)), exponents - first].sum() / u.size
    usual = dial.cost(shares)[:, 0].sum() / u.size
    assert left >= min(usual, budget / 4)  # the last doubling saves half
    if sum(sizes) <= 100:  # masks travel as they are, which no width of the noise changes
        assert exponents.tolist() == first.tolist()


def test_extremes() -> None:
    mine = codec(0.1)
    for u in (np.zeros(9, np.float32), np.full(3, 3e38, np.float32), np.array([1e-45, 0, 3e38], np.float32)):
        body = mine.encode(u, EncodeKeys(7, 3))
        assert np.isfinite(mine.decode(body, u.size, 7)).all()
    assert oracle.scales(mine.encode(np.zeros(9, np.float32), EncodeKeys(7, 3))) == [(9, 2.0**-80)]
    assert mine.decode(mine.encode(np.empty(0, np.float32), EncodeKeys(7, 3)), 0, 7).size == 0
    with pytest.raises(EncodeError, match="NaN or infinite"):
        mine.encode(np.array([np.nan], np.float32), EncodeKeys(7, 3))
    with pytest.raises(EncodeError, match="2 caps for the scales of 1 tensors"):
        mine.encode(np.ones(4, np.float32), EncodeKeys(7, 3, caps=(1, 2)))


def test_a_sample_gives_the_scales_of_the_whole() -> None:
    """Of each tensor 4,096 elements or a few more: shares of bins to within two percent."""
    u = np.concatenate([update("laplace", seed) for seed in range(12)])
    sizes = [size for _ in range(12) for size in SIZES]
    sizes[:5] = [sum(SIZES)]
    dial = codec(0.2).dial(sizes, 3)
    assert dial is not None
    at = dial.sample
    assert at.size < u.size
    assert np.unique(at).size == at.size
    ends = np.cumsum(sizes)
    means = np.array([np.abs(u[e - s : e].astype(float)).mean() for e, s in zip(ends, sizes, strict=True)])
    multiples = dial.multiples(u[at])
    assert multiples.shape == (len(sizes),)
    found, whole = FitsUpdate.exponents(means, multiples, dial.caps), dial.exponents(u)
    assert np.abs(found - whole).max() <= 1
    assert (found == whole).mean() > 0.8
    still = dial.multiples(np.zeros(at.size, np.float32))
    assert (still == dial.multiple).all()
    with np.errstate(invalid="ignore", over="ignore"):
        assert (dial.multiples(np.full(at.size, np.nan, np.float32)) == dial.multiple).all()


@pytest.mark.parametrize("budget", [0.03, 1.001, -0.25, 1e300, float("nan")])
def test_budgets_that_nobody_can_meet(budget: float) -> None:
    with pytest.raises(ConfigError, match=r"budget = .*: a client may spend 0.03125 to 1 bits on a parameter"):
        FitsBudget(budget, MaskType.BINARY, Law.UNIFORM, 16, 1.125)
    with pytest.raises(ConfigError, match=r"a client may spend|is not finite"):
        method("fedmrn-mrc").scheme({"budget": budget})


def test_what_has_no_scales_to_choose() -> None:
    masked = MaskedNoise(NoiseSpec(Law.UNIFORM, 1.0), MaskType.BINARY)
    with pytest.raises(ConfigError, match="a budget needs a random code, and masks travel by codec masked-noise"):
        OwnScale(masked, 0.25)
    for other in (masked, RandomCode(masked), ToldScale(masked)):
        assert other.spending(0.0) is other
        assert other.dial((5,), 1) is None
        with pytest.raises(ConfigError, match=r'budget = 0.25: clients meet it by .*; set scale = "auto"'):
            other.spending(0.25)
    with pytest.raises(ConfigError, match=r'method fedmrn-mrc: budget = 0.25: .* set scale = "auto"'):
        method("fedmrn-mrc").scheme({"budget": 0.25, "scale": 0.01})
    with pytest.raises(ConfigError, match="has no option 'budget'"):
        method("fedmrn").scheme({"budget": 0.25})


def test_the_noise_scale_says_what_it_follows() -> None:
    assert isinstance(codec(0.0).noise_scale, FitsUpdate)
    found = codec(0.25).noise_scale
    assert isinstance(found, FitsBudget)
    assert found.follows_update
    assert found.of_parameters == 1
    assert codec(0.25).params() == codec(0.0).params(), "a reader need not know"
    assert method("fedmrn-s-mrc").scheme({"budget": 0.25}).terms == {"budget": 0.25}
    assert method("fedmrn-s-mrc").scheme({}).terms == {}
