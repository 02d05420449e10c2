"""The 1,797 handwritten digits of 8 by 8 pixels that come with scikit-learn: a data set without a download.

Source: Alpaydin, Kaynak, "Optical recognition of handwritten digits", UCI repository, 1998 (its test part).
"""

import gzip
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from fedmrn.data.source import Arrays, Source

_MAX_PIXEL = 16.0


def read_digits(source: Source, _: Sequence[bytes]) -> Arrays:
    """Return the digits, float32 in 0 to 1 (the files count 0 to 16), split 70 to 30 within each class.

    The split is part of the data set: image j of a class, in the file's order, is a test image if 3j mod 10 <
    3. It depends on no seed, so accuracies of different runs are about the same images.
    """
    # The file alone: to import scikit-learn takes longer than a round.
    file = Path(str(distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")))
    with gzip.open(file, "rt", encoding="ascii") as lines:
        rows = np.loadtxt(lines, np.float32, delimiter=",")
    images = (rows[:, :-1] / np.float32(_MAX_PIXEL)).reshape(-1, 1, 8, 8)
    labels = rows[:, -1].astype(np.int64)
    is_test = np.zeros(len(labels), bool)
    for label in range(source.classes):
        members = np.flatnonzero(labels == label)
        is_test[members] = 3 * np.arange(len(members)) % 10 < 3
    return Arrays(images[~is_test], labels[~is_test], images[is_test], labels[is_test])
