"""Priors and informations of contexts against their definition in float64; and scores."""

from math import log

import numpy as np
import pytest

from fedmrn.codecs.mask.priors import Means, Priors, mark, scores

EDGES = [0.0, 1.0, 0.5, 1e-30, 2.0**-24, 1 - 2.0**-24, 2.0**-0.5, 1 - 2.0**-0.5, 1e-45, 1.2e-38]


def entropy(p: float) -> float:
    return -sum(x * np.log2(x) for x in (p, 1 - p) if x > 0)


def looked_at(p: np.ndarray, context: np.ndarray, count: int) -> tuple[Means, np.ndarray]:
    means, levels = Means(count), np.empty(p.size, np.uint16)
    means.look(p, context, levels)
    return means, levels


@pytest.mark.parametrize("p", EDGES + [x / 97 for x in range(98)])
def test_a_context_of_one_probability_has_no_information(p: float) -> None:
    """What is left is what its prior, a multiple of 1/256, costs it."""
    x = np.full(3, p, np.float32)
    prior, information = looked_at(x, np.zeros(3, np.uint32), 1)[0].tables(1.0)
    k = min(255, max(1, round(float(x[0]) * 256)))
    assert prior.tolist() == [k]
    q, m = k / 256, float(x[0])
    cross = -(m * np.log2(q) + (1 - m) * np.log2(1 - q))
    assert information.tolist() == [max(1, round((cross - entropy(m)) * 256))]


@pytest.mark.parametrize("count", [*range(0, 40), 1023, 1024, 1025, 3000])
def test_tables_of_any_length(count: int) -> None:
    g = np.random.Generator(np.random.Philox(count))
    p, context = g.random(count).astype(np.float32) ** 3, g.integers(0, 5, count).astype(np.uint32)
    means, levels = looked_at(p, context, 6)
    assert levels.tolist() == [round(float(x) * 1024) for x in p]
    prior, information = means.tables(1.5)
    for c in range(6):
        here = p[context == c].astype(np.float64)
        if not here.size:
            assert prior[c] == information[c] == 0
            continue
        m, q = here.mean(), prior[c] / 256
        assert prior[c] == min(255, max(1, round(m * 256)))
        exact = 1.5 * 256 * (-(m * np.log2(q) + (1 - m) * np.log2(1 - q)) - np.mean([entropy(x) for x in here]))
        # Rounded, from entropies within 2^-20: half a unit, and a little more.
        assert abs(information[c] - min(255, max(1, exact))) < 0.5 + 1.5 * 256 * 2.0**-20


@pytest.mark.parametrize("count", [0, 1, 31, 1024, 1025, 2500])
def test_looking_up(count: int) -> None:
    g = np.random.Generator(np.random.Philox(count))
    prior, information = g.integers(0, 256, (2, 70)).astype(np.uint8)
    context = g.integers(0, 60, count).astype(np.uint32)
    k, d = Priors(prior, information).of(context)
    assert np.array_equal(k, prior[context])
    assert np.array_equal(d, information[context])
    seen = np.zeros(70, np.bool_)
    mark(context, seen)
    assert np.flatnonzero(seen).tolist() == sorted(set(context.tolist()))


def test_scores_are_differences_of_logits() -> None:
    levels = np.arange(1025, dtype=np.uint16)
    for k in (1, 64, 200, 255):
        found = scores(levels, np.full(1025, k, np.uint8)).tolist()
        for j, score in enumerate(found):
            x, y = min(2047 / 2048, max(1 / 2048, j / 1024)), k / 256
            assert score == round(256 * log(x / (1 - x))) - round(256 * log(y / (1 - y)))
