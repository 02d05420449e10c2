"""Clients that the data set names, and draws of fewer samples."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedmrn.data import Dataset, by_role, load, subset
from fedmrn.errors import ConfigError

ROLES = tuple(np.arange(start, start + size) for start, size in ((0, 5), (5, 50), (55, 0), (55, 20), (75, 20)))


def test_only_roles_with_enough_samples_are_drawn() -> None:
    for seed in range(20):
        parts = by_role(ROLES, 2, 20, seed)
        starts = [int(part[0]) for part in parts]
        assert starts == sorted(starts)
        assert set(starts) <= {5, 55, 75}
        assert all(len(part) >= 20 for part in parts)


def test_the_draw_is_of_the_seed() -> None:
    drawn = [tuple(int(p[0]) for p in by_role(ROLES, 2, 20, seed)) for seed in range(30)]
    assert drawn == [tuple(int(p[0]) for p in by_role(ROLES, 2, 20, seed)) for seed in range(30)]
    assert len(set(drawn)) == 3  # each of the three pairs comes up


def test_more_clients_than_roles_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.clients is 4, but of 5 roles 3 have 20 training samples; lower data"):
        by_role(ROLES, 4, 20, 1)


def test_a_data_set_without_roles_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names none; choose one of iid, dirichlet, labels"):
        by_role(load("digits", tmp_path).roles, 2, 1, 1)


def test_a_subset_is_drawn_evenly_and_keeps_the_order() -> None:
    indices = np.arange(100, 110)
    assert subset(indices, 0, "all") is indices
    assert subset(indices, 10, "all") is indices
    drawn = [subset(indices, 4, i) for i in range(1000)]
    assert all(len(d) == 4 and (np.diff(d) > 0).all() and np.isin(d, indices).all() for d in drawn)
    assert np.array_equal(drawn[7], subset(indices, 4, 7))
    times = np.bincount(np.concatenate(drawn) - 100)
    # Each is in a draw with probability 0.4: standard deviation sqrt(1000 * 0.4 * 0.6) = 15.5; five of them.
    assert np.abs(times - 400).max() < 78


def test_fewer_test_samples_are_the_same_ones_each_time(tmp_path: Path) -> None:
    data = load("digits", tmp_path)
    fewer, again = data.with_tests(50), data.with_tests(50)
    assert len(fewer.test_x) == len(fewer.test_y) == 50
    assert torch.equal(fewer.test_x, again.test_x)
    assert data.with_tests(0) is data
    assert data.with_tests(542) is data
    assert torch.equal(fewer.train_x, data.train_x)


def test_labels_of_segmented_images_are_those_of_most_pixels() -> None:
    y = torch.zeros(4, 4, 4, dtype=torch.uint8)
    y[1, 0, :3] = 7
    y[1, 1:3] = 255  # more, but unknown
    y[2, 0] = 20
    y[2, 1, 0] = 3
    y[3] = 255
    data = Dataset("x", y, y, y, y, 21, *[()] * 4, False, "segmentation")
    assert data.labels().tolist() == [0, 7, 20, 0]
