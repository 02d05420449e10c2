"""Laws that hold for every partition, whatever the labels."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedmrn.data import PartitionSpec, partition
from fedmrn.errors import ConfigError


@st.composite
def label_arrays(draw):
    """Up to eight classes of 12 to 40 images each, of any label numbers, in any order."""
    counts = draw(st.dictionaries(st.integers(-3, 1000), st.integers(12, 40), min_size=1, max_size=8))
    labels = np.repeat(np.array([*counts], np.int64), [*counts.values()])
    return np.random.default_rng(draw(st.integers(0, 1000))).permutation(labels)


specs = st.builds(
    PartitionSpec,
    kind=st.sampled_from(["iid", "dirichlet", "labels", "labels-in-order"]),
    alpha=st.floats(0.3, 100),
    min_size=st.integers(1, 3),
    share=st.floats(0.2, 1),
)
client_counts = st.integers(1, 12)
seeds = st.integers(0, 2**64)
quick = settings(max_examples=60, deadline=None)  # the first call of a process loads compiled code


def attempt(labels, spec, clients, seed):
    """The parts, or no example if the request is one that cannot be met."""
    try:
        return partition(labels, spec, clients, seed)
    except ConfigError:
        assume(False)


@quick
@given(label_arrays(), specs, client_counts, seeds)
def test_every_index_is_in_exactly_one_part(labels, spec, clients, seed):
    parts = attempt(labels, spec, clients, seed)
    assert len(parts) == clients
    assert all(part.dtype == np.int64 and len(part) for part in parts)
    assert all((np.diff(part) > 0).all() for part in parts)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))


@quick
@given(label_arrays(), specs, client_counts, seeds)
def test_the_same_arguments_give_the_same_parts(labels, spec, clients, seed):
    for one, other in zip(attempt(labels, spec, clients, seed), partition(labels, spec, clients, seed), strict=True):
        np.testing.assert_array_equal(one, other)


@quick
@given(st.sampled_from(["iid", "dirichlet", "labels", "labels-in-order"]), seeds)
def test_another_seed_gives_other_parts(kind, seed):
    labels = np.tile(np.arange(10), 30)
    one, other = (np.concatenate(partition(labels, PartitionSpec(kind), 5, s)) for s in (seed, seed + 1))
    assert (one != other).any()


@quick
@given(label_arrays(), st.integers(1, 50), seeds)
def test_iid_sizes_differ_by_at_most_one(labels, clients, seed):
    assume(clients <= len(labels))
    sizes = [len(part) for part in partition(labels, PartitionSpec("iid"), clients, seed)]
    assert max(sizes) - min(sizes) <= 1


@quick
@given(label_arrays(), st.floats(0.5, 100), st.integers(1, 3), st.integers(1, 4), seeds)
def test_dirichlet_meets_min_size(labels, alpha, min_size, clients, seed):
    parts = attempt(labels, PartitionSpec("dirichlet", alpha=alpha, min_size=min_size), clients, seed)
    assert min(map(len, parts)) >= min_size


@quick
@given(st.integers(1, 12), st.integers(12, 20), st.floats(0.2, 1), client_counts, seeds)
def test_labels_are_held_evenly(classes, each, share, clients, seed):
    labels = np.tile(np.arange(classes), each)
    parts = attempt(labels, PartitionSpec("labels", share=share), clients, seed)
    table = np.stack([np.bincount(labels[part], minlength=classes) for part in parts])
    held = table > 0
    assert len(set(held.sum(1))) == 1
    assert held[0].sum() <= share * classes + 1e-6 < held[0].sum() + 1 + 1e-5
    assert held.sum(0).max() - held.sum(0).min() <= 1  # each label has nearly the same number of holders
    for label in range(classes):
        sizes = table[held[:, label], label]
        assert sizes.max() - sizes.min() <= 1  # and they share it evenly
