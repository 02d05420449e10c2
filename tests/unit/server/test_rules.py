"""Server rules, each against the obvious loop; frozen weights against the document's reader."""

from collections.abc import Iterator
from itertools import product
from math import e, sqrt
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

import oracle
from fedmrn.codecs import Plane, Sign, Sparse
from fedmrn.errors import ConfigError
from fedmrn.methods import METHODS
from fedmrn.numerics.sparsity import kept
from fedmrn.server.rules import (
    MajorityVote,
    MeanMask,
    Merge,
    MergePruned,
    Prune,
    Scores,
    ServerRule,
    frozen_weights,
    normal_scores,
)
from fedmrn.server.schedule import CubicSchedule
from fedmrn.wire.layout import Group, Layout, TensorSpec

F32 = NDArray[np.float32]
TENSORS = [
    TensorSpec("conv.weight", (8, 3, 5, 5), Group.CODED),
    TensorSpec("conv.bias", (8,), Group.CODED),
    TensorSpec("nothing", (0, 4), Group.CODED),
    TensorSpec("fc.weight", (10, 50), Group.CODED),
    TensorSpec("scale", (), Group.CODED),
    TensorSpec("norm.weight", (8,), Group.DENSE),
    TensorSpec("norm.mean", (8,), Group.STATS),
]
LAYOUT = Layout.of(TENSORS)
CODED = LAYOUT.span(Group.CODED).stop


def _vector(size: int, seed: int) -> F32:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def test_every_rule_leaves_its_input_alone_and_returns_float32() -> None:
    schedule = CubicSchedule(0.5, 2)
    rules = [ServerRule(), MajorityVote(), Prune(schedule), *(MergePruned(schedule, m) for m in Merge), MeanMask(1)]
    for rule in rules:
        state, means = _vector(9, 1), [np.abs(_vector(9, 2 + i)) for i in range(len(rule.planes))]
        before = [a.copy() for a in (state, *means)]
        assert rule.step(1, state, *means).dtype == np.float32
        assert rule.start(state).dtype == np.float32
        assert all(np.array_equal(a, b) for a, b in zip((state, *means), before, strict=True))


def test_a_rule_that_says_nothing_adds_the_mean() -> None:
    rule, state = ServerRule(), _vector(LAYOUT.size, 1)
    codec = Sign()
    assert rule.planes == (Plane.VALUE,)
    assert rule.codec(3, codec) is codec
    assert rule.start(state) is state
    assert [m is state for m in rule.models(LAYOUT, state, 1)] == [True]
    assert rule.step(1, state, state).tolist() == [float(np.float32(2) * x) for x in state]


# --- majority vote ---------------------------------------------------------------------------------------------------


def test_every_vote_of_three_weighted_clients() -> None:
    """All 8 patterns of signs, for weights whose sums never tie and for weights that may."""
    for weights in ((1, 1, 1), (1, 2, 4), (1, 1, 5), (1, 1, 2)):
        total = sum(weights)
        signs = np.array(list(product((-1, 1), repeat=3)), np.float32)
        scales = np.array([0.5, 0.25, 2.0], np.float32)
        votes = (signs @ np.array(weights, np.float32)) / np.float32(total)
        scale = np.full(8, np.float32(np.dot(weights, scales) / total))
        moved = MajorityVote().step(1, np.zeros(8, np.float32), votes, scale)
        for row, found in zip(signs.astype(int).tolist(), moved, strict=True):
            count = sum(w * s for w, s in zip(weights, row, strict=True))
            assert found == (0 if count == 0 else scale[0] if count > 0 else -scale[0])


def test_a_draw_moves_nothing() -> None:
    state = np.array([0.1, -0.2, 3e38], np.float32)
    moved = MajorityVote().step(1, state, np.array([0, -0.0, 0], np.float32), np.ones(3, np.float32))
    assert moved.tobytes() == state.tobytes()


def test_the_size_of_a_majority_does_not_matter() -> None:
    votes, scale = np.array([1, 1e-7, -1e-7, -1], np.float32), np.array([2, 2, 3, 3], np.float32)
    assert MajorityVote().step(1, np.ones(4, np.float32), votes, scale).tolist() == [3, 3, -2, -2]


# --- pruning ---------------------------------------------------------------------------------------------------------


def test_pruned_runs_start_without_zeros() -> None:
    weights = np.array([0.0, -0.0, 1.0, -2.0, 1e-45], np.float32)
    for rule in (Prune(CubicSchedule(0.5, 2)), MergePruned(CubicSchedule(0.5, 2))):
        start = rule.start(weights)
        assert start.all()
        assert np.abs(start[:2]).max() < 1e-15
        assert np.array_equal(start[2:], weights[2:])
        assert rule.start(start).tobytes() == start.tobytes()


def test_pruning_keeps_the_largest_of_the_whole_vector_round_by_round() -> None:
    schedule = CubicSchedule(0.9, 6, start=1, every=2)
    rule, state = Prune(schedule), _vector(101, 3)
    counts = []
    for t in range(1, 9):
        mean = np.where(state == 0, np.float32(0), _vector(101, 10 + t) * np.float32(0.1))
        moved = [float(np.float32(a + b)) for a, b in zip(state, mean, strict=True)]
        k = kept(schedule.density(t), 101)
        stay = sorted(range(101), key=lambda i: (-abs(moved[i]), i))[:k]
        state = rule.step(t, state, mean)
        assert state.tolist() == [moved[i] if i in stay else 0.0 for i in range(101)]
        counts.append(np.count_nonzero(state))
    # In rounds 2, 4 and 6, one, three and five after the first: 1 - 0.9 (1 - (4/5)^3), 1 - 0.9 (1 - (2/5)^3), then 0.1.
    assert counts == [101, 57, 57, 16, 16, 10, 10, 10]


def test_pruning_follows_the_published_schedule() -> None:
    """Its function of (t, s_f, t0, T, f), with s_i = 0: rounds count from 0 on, not from t0. The last round is ours."""
    for start, every in product((0, 1, 2, 5), (1, 2, 3, 4)):
        schedule = CubicSchedule(0.97, 12, start, every)
        for t in range(12):
            at = t if t % every == 0 else t // every * every
            published = 0.97 + (0 - 0.97) * (1 - (at - start) / (12 - start)) ** 3
            assert 1 - schedule.density(t) == pytest.approx(max(0.0, published), abs=1e-12)
        assert schedule.density(12) == pytest.approx(0.03)


def test_pruning_keeps_exactly_k_among_equals() -> None:
    state = Prune(CubicSchedule(0.5, 1)).step(1, np.full(10, -2, np.float32), np.ones(10, np.float32))
    assert state.tolist() == [-1] * 5 + [0] * 5


def test_pruning_of_no_elements() -> None:
    nothing = np.empty(0, np.float32)
    assert Prune(CubicSchedule(0.5, 1)).step(1, nothing, nothing).size == 0


# --- merging ---------------------------------------------------------------------------------------------------------


def _merged(how: Merge, values: list[float], weights: tuple[int, ...]) -> float:
    total = sum(weights)
    mean = sum(w * v for w, v in zip(weights, values, strict=True)) / total
    have = sum(w for w, v in zip(weights, values, strict=True) if v)
    if how is Merge.MEAN:
        return mean
    if how is Merge.MAJORITY:
        return mean if 2 * have >= total else 0.0
    return mean * total / have if have else 0.0


@pytest.mark.parametrize("how", Merge)
@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 1, 1, 1), (2, 3, 5), (1, 9, 2), (7,)])
def test_merging_is_the_obvious_loop(how: Merge, weights: tuple[int, ...]) -> None:
    """Each element kept by another subset of the clients; results are float32 sums of a few rounded terms."""
    subsets = list(product((0.0, 1.0), repeat=len(weights)))
    sent = [[s * (0.5 + i - c) for c, s in enumerate(row)] for i, row in enumerate(subsets)]
    total, array = sum(weights), np.array(sent)
    mean = (array @ weights / total).astype(np.float32)
    share = ((array != 0) @ np.array(weights) / total).astype(np.float32)
    found = MergePruned(CubicSchedule(0.5, 2), how).step(1, np.full(len(sent), np.nan, np.float32), mean, share)
    expected = [_merged(how, row, weights) for row in sent]
    np.testing.assert_allclose(found, expected, rtol=4 * 2.0**-24, atol=0)
    if how is not Merge.MEAN:
        assert [v == 0 for v in found] == [v == 0 for v in expected]


def test_the_merges_differ_where_they_should() -> None:
    """Kept by a quarter, by half, by all: the means are 1/4, 1/2 and 1 of what each sent, 8."""
    mean, share = np.array([0, 2, 4, 8], np.float32), np.array([0, 0.25, 0.5, 1], np.float32)
    found = {m: MergePruned(CubicSchedule(0.5, 2), m).step(1, mean, mean, share).tolist() for m in Merge}
    assert found == {Merge.MAJORITY: [0, 0, 4, 8], Merge.NONZERO: [0, 8, 8, 8], Merge.MEAN: [0, 2, 4, 8]}


def test_the_codec_of_a_merge_follows_the_schedule() -> None:
    schedule = CubicSchedule(0.97, 10, start=2, every=3)
    rule = MergePruned(schedule)
    for t in range(12):
        assert rule.codec(t, Sparse(1.0)) == Sparse(schedule.density(t))
    assert rule.planes == (Plane.VALUE, Plane.KEPT)


def test_the_published_merge_is_the_majority() -> None:
    assert METHODS["fedsparsify-local"].scheme().rule == MergePruned(CubicSchedule(0.97, 100), Merge.MAJORITY)
    assert METHODS["fedsparsify-local"].scheme({"merge": "nonzero"}).rule == MergePruned(
        CubicSchedule(0.97, 100), Merge.NONZERO
    )


# --- frozen weights and mean masks -----------------------------------------------------------------------------------


def test_frozen_weights_are_the_documents() -> None:
    shapes = [(t.name, t.shape, int(t.group)) for t in TENSORS]
    assert frozen_weights(LAYOUT, 77).tolist() == oracle.frozen(77, shapes)


def test_frozen_weights_have_the_magnitude_of_their_fan_in() -> None:
    weights = np.abs(frozen_weights(LAYOUT, 5))
    fan_in = {"conv.weight": 75, "conv.bias": 8, "nothing": 1, "fc.weight": 50, "scale": 1}
    assert weights.dtype == np.float32
    assert weights.shape == (CODED,)
    for name, n in fan_in.items():
        assert (weights[LAYOUT.slices[name]] == np.float32(e / sqrt(n))).all()


def test_frozen_signs_are_balanced() -> None:
    """Of n fair signs the sum has variance n; and neighbours agree half of the time."""
    n = 100_000
    weights = frozen_weights(Layout.of([TensorSpec("w", (n,), Group.CODED)]), 9)
    plus = weights > 0
    assert abs(2 * int(plus.sum()) - n) < 4.5 * sqrt(n)
    assert abs(2 * int((plus[1:] == plus[:-1]).sum()) - n) < 4.5 * sqrt(n)


def test_frozen_weights_depend_on_the_seed_and_the_shapes_alone() -> None:
    other = [TensorSpec("x" + t.name, t.shape, t.group) for t in TENSORS if t.group is Group.CODED]
    weights = frozen_weights(LAYOUT, 3)
    assert frozen_weights(Layout.of(other), 3).tobytes() == weights.tobytes()
    assert len({frozen_weights(LAYOUT, seed).tobytes() for seed in (3, 4, 3 + (1 << 32), (1 << 64) - 1)}) == 4


def test_mean_masks_start_at_one_half() -> None:
    assert MeanMask(1).start(_vector(5, 1)).tolist() == [0.5] * 5


def test_fedpm_starts_from_scores_drawn_from_the_seed_where_that_is_asked_for() -> None:
    rule = METHODS["fedpm"].scheme({"initial": "normal", "seed": 3}).rule
    assert rule == MeanMask(3, initial=Scores.NORMAL)
    count = 20_000
    p = rule.start(_vector(count, 1))
    assert p.dtype == np.float32
    rule.check(p)
    scores = normal_scores(3, count)
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-scores.astype(np.float64))), rtol=2.0**-23)
    assert p.tolist() == MeanMask(3, initial=Scores.NORMAL).start(_vector(count, 9)).tolist(), "of the seed alone"
    assert (normal_scores(4, count) != scores).mean() > 0.99
    # Kolmogorov and Smirnov: a distance above 1.95 / sqrt(n) has a chance of one in a thousand.
    law = np.array([NormalDist().cdf(float(s)) for s in np.sort(scores)])
    steps = np.arange(count + 1) / count
    assert max((law - steps[:-1]).max(), (steps[1:] - law).max()) < 1.95 / sqrt(count)
    # Scores say nothing of the signs of the frozen weights: the correlation of n pairs has a deviation of 1/sqrt(n).
    frozen = np.sign(frozen_weights(Layout.of([TensorSpec("w", (count,), Group.CODED)]), 3))
    assert abs(float((np.sign(scores) * frozen).mean())) < 4 / sqrt(count)


def test_a_published_run_of_fedpm_starts_from_the_same_state_anywhere() -> None:
    """Words of a stream of its own, through the table of noise: as the document says it."""
    found = normal_scores(7, 2_000)
    for i in (0, 1, 255, 256, 1023, 1024, 1999):
        w = oracle.word(7, 12 << 32, i)
        assert found[i] == (-1 if w >> 19 & 1 else 1) * oracle.table()[w >> 20]


def test_mean_masks_never_reach_zero_or_one() -> None:
    mean = np.array([0, 0.25, 0.5, 1], np.float32)
    np.testing.assert_allclose(MeanMask(1).step(1, mean, mean), [0.01, 0.255, 0.5, 0.99], rtol=2.0**-22)
    np.testing.assert_allclose(MeanMask(1, 0.1).step(1, mean, mean), [0.1, 0.3, 0.5, 0.9], rtol=2.0**-22)
    assert MeanMask(1, 0.0).step(1, mean, mean).tolist() == mean.tolist()


def _state(p: float | F32) -> F32:
    state = _vector(LAYOUT.size, 8)
    state[:CODED] = p
    return state


def test_models_are_masked_frozen_weights_and_dense_parts_as_they_are() -> None:
    state, frozen = _state(0.5), frozen_weights(LAYOUT, 4)
    before = state.copy()
    models = list(MeanMask(4, samples=4).models(LAYOUT, state, 7))
    assert np.array_equal(state, before)
    assert len(models) == 4
    for model in models:
        assert model.dtype == np.float32
        assert model.shape == state.shape
        assert ((model[:CODED] == frozen) | (model[:CODED] == 0)).all()
        assert model[CODED:].tobytes() == state[CODED:].tobytes()


def test_models_are_reproducible_and_all_different() -> None:
    def masks(rule: MeanMask, round_: int) -> Iterator[bytes]:
        return ((m[:CODED] != 0).tobytes() for m in rule.models(LAYOUT, _state(0.5), round_))

    rule = MeanMask(4)
    seen = [mask for round_ in range(1, 6) for mask in masks(rule, round_)]
    assert len(seen) == len(set(seen)) == 5 * rule.samples
    assert [mask for round_ in range(1, 6) for mask in masks(rule, round_)] == seen
    assert set(masks(MeanMask(5), 1)).isdisjoint(seen)


@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.99])
def test_models_respect_the_probabilities(p: float) -> None:
    """The number of weights in use is binomial: within 4.5 deviations, for 20 samples of each layout element."""
    rule = MeanMask(11, samples=20)
    used = sum(int(np.count_nonzero(m[:CODED])) for m in rule.models(LAYOUT, _state(p), 1))
    n = 20 * CODED
    assert abs(used - n * p) < 4.5 * sqrt(n * p * (1 - p))


def test_each_weight_has_its_own_probability() -> None:
    p = np.zeros(CODED, np.float32)
    p[::2] = 1
    (model,) = MeanMask(4, samples=1).models(LAYOUT, _state(p), 1)
    assert np.array_equal(model[:CODED], frozen_weights(LAYOUT, 4) * p)


def test_the_draws_of_a_model_are_the_documents() -> None:
    """Purpose 10, index round * samples + sample; a draw that equals the probability leaves the weight out."""
    rule, frozen = MeanMask(4, samples=2), frozen_weights(LAYOUT, 4)
    for sample in range(2):
        u = np.array([oracle.uniform(4, (10 << 32) + 7 * 2 + sample, i) for i in range(300)], np.float32)
        for p, used in ((u, False), (np.nextafter(u, np.float32(2)), True)):
            state = _state(0.5)
            state[:300] = p
            model = list(rule.models(LAYOUT, state, 7))[sample]
            assert np.array_equal(model[:300], frozen[:300] * used)


@pytest.mark.parametrize("samples", [0, -1])
def test_no_models_to_evaluate(samples: int) -> None:
    with pytest.raises(ConfigError, match="at least 1 sampled model"):
        METHODS["fedpm"].scheme({"samples": samples})


def test_fedpm_masks_the_weights_of_its_own_seed() -> None:
    scheme = METHODS["fedpm"].scheme({"seed": 9, "samples": 2})
    assert scheme.rule == MeanMask(9, samples=2)
    assert scheme.codecs[Group.CODED].params() == bytes([9, 0, 0, 0, 0, 0, 0, 0])
    assert not scheme.weighted
