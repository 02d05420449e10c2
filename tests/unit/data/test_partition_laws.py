import time

import numpy as np
import pytest

from fedmrn.data import PartitionSpec, partition
from fedmrn.errors import ConfigError

FASHION = np.tile(np.arange(10), 6000)  # as many labels of each class as Fashion-MNIST


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "labels", "labels-in-order"])
def test_sixty_thousand_labels_take_less_than_a_second(kind):
    began = time.process_time()
    parts = partition(FASHION, PartitionSpec(kind), 100, 1)
    assert time.process_time() - began < 1
    assert sum(map(len, parts)) == 60_000


def test_published_shares_of_labels():
    held = [set(FASHION[part]) for part in partition(FASHION, PartitionSpec("labels", share=0.3), 100, 3)]
    assert {len(labels) for labels in held} == {3}
    assert {sum(label in labels for labels in held) for label in range(10)} == {30}
    assert len({frozenset(labels) for labels in held}) > 30  # mixed at random, not the same three again and again
    hundred = np.tile(np.arange(100), 500)
    held = [set(hundred[part]) for part in partition(hundred, PartitionSpec("labels", share=0.2), 100, 3)]
    assert {len(labels) for labels in held} == {20}
    assert {sum(label in labels for labels in held) for label in range(100)} == {20}


def test_a_share_is_rounded_down_but_not_by_floating_point():
    hundred = np.tile(np.arange(100), 50)
    for share, expected in ((0.29, 29), (0.57, 57), (0.295, 29), (1.0, 100)):
        parts = partition(hundred, PartitionSpec("labels", share=share), 10, 0)
        assert {len(set(hundred[part])) for part in parts} == {expected}


def slow_dirichlet_rule(table: np.ndarray, clients: int) -> bool:
    """Whether a (classes, clients) table obeys: an average share or more means none of later classes."""
    held = np.zeros(clients)
    for row in table:
        if row[held >= table.sum() / clients].any():
            return False
        held += row
    return True


def table_of(labels, parts):
    return np.stack([np.bincount(labels[part], minlength=labels.max() + 1) for part in parts], 1)


def test_full_clients_get_none_of_later_classes():
    table = table_of(FASHION, partition(FASHION, PartitionSpec("dirichlet", alpha=0.3), 100, 5))
    assert slow_dirichlet_rule(table, 100)
    assert not slow_dirichlet_rule(table[::-1], 100)  # the rule depends on the order
    assert table.sum(0).min() >= 10


def test_alpha_sets_how_uneven_the_shares_are():
    # With one class nobody is full beforehand, so the shares are Dirichlet(alpha, ..., alpha) themselves:
    # variance (1/K)(1 - 1/K)/(K alpha + 1).
    labels = np.zeros(100_000, np.int64)
    clients, seeds = 20, 60
    for alpha in (0.5, 5.0):
        spec = PartitionSpec("dirichlet", alpha=alpha, min_size=1)
        shares = np.array([[len(part) for part in partition(labels, spec, clients, s)] for s in range(seeds)]) / 1e5
        expected = (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
        # 1,200 shares of kurtosis below 10: the variance is known to sqrt(10 / 1200) = 9%; four times that.
        assert shares.var() == pytest.approx(expected, rel=0.36)


def test_min_size_is_met_by_drawing_again():
    spec = PartitionSpec("dirichlet", alpha=0.1, min_size=40)
    assert min(map(len, partition(FASHION, spec, 100, 0))) >= 40
    loose = partition(FASHION, PartitionSpec("dirichlet", alpha=0.1, min_size=1), 100, 0)
    assert min(map(len, loose)) < 40  # so that a first draw was refused


def test_iid_parts_look_alike():
    table = table_of(FASHION, partition(FASHION, PartitionSpec("iid"), 100, 0))
    assert set(table.sum(0)) == {600}
    # Hypergeometric: mean 60, variance 600 * 0.1 * 0.9 * (1 - 0.01) = 53.5; six standard deviations.
    assert abs(table - 60).max() < 6 * 7.32
    assert table.std() == pytest.approx(7.32, rel=0.15)


@pytest.mark.parametrize(
    ("kind", "sizes", "first", "last"),
    [
        ("iid", [40, 40, 40, 40, 40], [13, 14, 18, 22, 23, 28], [187, 195, 198]),
        ("dirichlet", [36, 37, 35, 50, 42], [9, 15, 26, 36, 38, 40], [190, 193, 196]),
        ("labels", [50, 40, 40, 40, 30], [2, 4, 11, 12, 14, 21], [183, 188, 198]),
    ],
)
def test_pinned_parts(kind, sizes, first, last):
    # Made by this code: a change here means that saved runs can no longer be repeated.
    parts = partition(np.tile(np.arange(10), 20), PartitionSpec(kind), 5, 7)
    assert [len(part) for part in parts] == sizes
    assert parts[0][:6].tolist() == first
    assert parts[4][-3:].tolist() == last


@pytest.mark.parametrize(
    ("spec", "labels", "clients", "what"),
    [
        (PartitionSpec(), np.arange(5), 6, "6 clients cannot share 5 samples; lower clients"),
        (PartitionSpec(), np.arange(0), 1, "1 clients cannot share 0 samples"),
        (PartitionSpec(), np.arange(5), 0, "give at least 1 client"),
        (PartitionSpec(), np.zeros((5, 1), int), 2, r"labels are int64 of shape \(5, 1\)"),
        (PartitionSpec(), np.zeros(5), 2, "labels are float64"),
        (
            PartitionSpec("dirichlet"),
            np.arange(50) % 5,
            6,
            "6 clients of at least 10 samples need more than the 50",
        ),
        (PartitionSpec("dirichlet", alpha=0.01), FASHION, 100, "raise alpha, or lower clients or min_size"),
        (PartitionSpec("dirichlet", alpha=1e-300), FASHION, 100, "raise alpha, or lower clients or min_size"),
        (PartitionSpec("dirichlet", alpha=1e308), FASHION, 100, "raise alpha, or lower clients or min_size"),
        (
            PartitionSpec("labels", share=0.09),
            FASHION,
            100,
            "less than one label; give a share of at least 0.1",
        ),
        (PartitionSpec("labels", share=0.3), FASHION, 3, "3 clients with 3 labels each cannot hold all 10"),
        (
            PartitionSpec("labels", share=1.0),
            np.arange(20) % 10,
            3,
            "2 samples cannot be split among 3 clients",
        ),
    ],
)
def test_impossible_requests(spec, labels, clients, what):
    with pytest.raises(ConfigError, match=what) as caught:
        partition(labels, spec, clients, 0)
    assert "\n" not in str(caught.value)


def test_a_negative_seed_is_refused():
    with pytest.raises(ConfigError, match="seed -1"):
        partition(FASHION, PartitionSpec(), 10, -1)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"kind": "random"}, "unknown kind 'random'; choose one of dirichlet, iid, labels"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"alpha": float("inf")}, "alpha is inf"),
        ({"min_size": 0}, "min_size is 0"),
        ({"share": 0.0}, "share is 0.0"),
        ({"share": 1.01}, "share is 1.01"),
        ({"share": float("nan")}, "share is nan"),
    ],
)
def test_wrong_parameters(changes, what):
    with pytest.raises(ConfigError, match=what):
        PartitionSpec(**changes)


@pytest.mark.parametrize(("classes", "share", "groups"), [(10, 0.3, 10), (100, 0.2, 5)])
def test_labels_in_order_are_those_of_the_published_code(classes: int, share: float, groups: int) -> None:
    """Its loop: the labels that fewest clients hold so far, of equal ones the first."""
    times = [0] * classes
    expected = []
    for _ in range(100):
        chosen = sorted(range(classes), key=lambda label: times[label])[: int(share * classes)]
        expected.append(set(chosen))
        for label in chosen:
            times[label] += 1
    labels = np.repeat(np.arange(classes), 60_000 // classes)
    parts = partition(labels, PartitionSpec("labels-in-order", share=share), 100, 4)
    assert [set(labels[part].tolist()) for part in parts] == expected
    assert len(set(map(frozenset, expected))) == groups
    drawn = partition(labels, PartitionSpec("labels", share=share), 100, 4)
    assert len({frozenset(labels[part].tolist()) for part in drawn}) > 5 * groups
