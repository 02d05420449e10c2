"""A data set that comes in one piece, shared into training and test samples: the same ones in every run."""

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import DataError
from fedmrn.numerics.rng import derive_key

Indices = NDArray[np.int64]


def split(labels: NDArray[np.int64], share: float, seed: int, where: str) -> tuple[Indices, Indices]:
    """Return the indices of training and of test samples, each ascending.

    Of each label the share, rounded, is drawn for testing; at least one sample, and not all.

    Args:
        labels: shape (n,).
        share: of test samples, in (0, 1).
        seed: of the draw; it is not the run's, so that all runs are tested on the same samples.
        where: what has the labels, for messages.

    Raises:
        DataError: a label has one sample only.
    """
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise DataError(
                f"{where}: label {label} has one sample, and a part of each label is for testing; add more, or leave "
                "it out"
            )
        count = min(max(1, round(share * len(members))), len(members) - 1)
        draw = np.random.Generator(np.random.Philox(key=derive_key(seed, "split", int(label))))
        test[draw.choice(members, count, replace=False)] = True
    return np.flatnonzero(~test), np.flatnonzero(test)
