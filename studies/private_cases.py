"""Small models over features that are computed once, trained by many clients at the same time in plain numpy.

    head      a linear head over 1,000 random features: 10,010 parameters
    adapter   a bottleneck adapter (Houlsby et al., ICML 2019) of width 8 and a linear head over 384 features of random
              convolutions: f + B relu(A f), then the head: 9,994 parameters

No feature is learned from data, so that none tells of it. Each client has 60 images, half of them of one label or two.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedmrn.data import find_source, load_source

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
CLASSES, SAMPLES, BATCH = 10, 60, 20
_CHUNK = 50  # clients whose models are trained at a time: they stay in the processor's cache
_PATCH, _STRIDE, _GRID, _FILTERS, _WIDTH = 6, 2, 4, 24, 8


class Case(Protocol):
    """A model over features.

    Attributes:
        parameters: d.
        rate: of SGD.
    """

    parameters: int
    rate: float

    def features(self, images: F32) -> F32:
        """Return features of images, float32, shape (n, height, width), with a column of ones."""
        ...

    def start(self) -> F32:
        """Return the parameters that a run starts with, shape (d,)."""
        ...

    def scores(self, w: F32, x: F32) -> F32:
        """Return scores of features x, shape (..., n, m), by parameters w, shape (..., d)."""
        ...

    def gradient(self, w: F32, x: F32, y: I64) -> F32:
        """Return the gradient of the mean cross-entropy of each client's batch, shape (clients, d)."""
        ...


def _errors(scores: F32, y: I64) -> F32:
    """Return softmax less the label, over the samples of a batch: the gradient for the scores."""
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    np.put_along_axis(scores, y[..., None], np.take_along_axis(scores, y[..., None], -1) - 1, -1)
    return scores / np.float32(y.shape[-1])


def _normed(found: F32) -> F32:
    """Return features, each sample centred and of norm sqrt(10) by itself, and a column of ones."""
    found = found - found.mean(1, keepdims=True)
    found *= sqrt(10) / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return np.concatenate([found, np.ones((len(found), 1), np.float32)], axis=1, dtype=np.float32)


class Head:
    """A linear head over random features."""

    def __init__(self, features: int = 1000) -> None:
        self.rate, self._features = 3.0, features
        self.parameters = (features + 1) * CLASSES

    def features(self, images: F32) -> F32:
        """See `Case`."""
        flat = images.reshape(len(images), -1)
        weights = np.random.default_rng(0).normal(0, 1 / sqrt(flat.shape[1]), (flat.shape[1], self._features))
        return _normed(np.maximum((flat - flat.mean(1, keepdims=True)) @ weights.astype(np.float32), 0))

    def start(self) -> F32:
        """See `Case`."""
        return np.zeros(self.parameters, np.float32)

    def scores(self, w: F32, x: F32) -> F32:
        """See `Case`."""
        found: F32 = x @ w.reshape(*w.shape[:-1], -1, CLASSES)
        return found

    def gradient(self, w: F32, x: F32, y: I64) -> F32:
        """See `Case`."""
        return (x.swapaxes(-1, -2) @ _errors(self.scores(w, x), y)).reshape(w.shape)


def _pooled(images: F32, filters: F32) -> F32:
    """Return what filters find in patches whose contrast is normalised, averaged in _GRID x _GRID cells."""
    cut = np.lib.stride_tricks.sliding_window_view(images, (_PATCH, _PATCH), axis=(1, 2))[:, ::_STRIDE, ::_STRIDE]
    n, high, wide = cut.shape[:3]
    patches = cut.reshape(-1, _PATCH * _PATCH)
    patches = patches - patches.mean(1, keepdims=True)
    patches /= np.sqrt(patches.var(1, keepdims=True) + 0.01)
    found = np.maximum(patches @ filters - 0.5, 0).reshape(n, high, wide, -1)
    rows, columns = ([size * i // _GRID for i in range(_GRID + 1)] for size in (high, wide))
    cells = [found[:, a:b, c:d].mean((1, 2)) for a, b in pairwise(rows) for c, d in pairwise(columns)]
    return np.concatenate(cells, axis=1)


class Adapter:
    """A bottleneck adapter and a linear head over features of random convolutions."""

    def __init__(self) -> None:
        m = _GRID * _GRID * _FILTERS
        self.rate, self._m = 3.0, m
        self._cuts = np.cumsum([m * _WIDTH, _WIDTH * m])
        self.parameters = 2 * m * _WIDTH + (m + 1) * CLASSES

    def features(self, images: F32) -> F32:
        """See `Case`."""
        filters = np.random.default_rng(0).normal(0, 1 / _PATCH, (_PATCH * _PATCH, _FILTERS)).astype(np.float32)
        filters -= filters.mean(0)
        return _normed(np.concatenate([_pooled(images[at : at + 200], filters) for at in range(0, len(images), 200)]))

    def start(self) -> F32:
        """See `Case`: the adapter starts as the identity, with random weights behind it that learn later."""
        found = np.zeros(self.parameters, np.float32)
        found[: self._cuts[0]] = np.random.default_rng(6).normal(0, 1 / sqrt(10), self._cuts[0])
        return found

    def _parts(self, w: F32) -> tuple[F32, F32, F32]:
        a, b, head = np.split(w, self._cuts, axis=-1)
        lead = w.shape[:-1]
        return a.reshape(*lead, self._m, _WIDTH), b.reshape(*lead, _WIDTH, self._m), head.reshape(*lead, -1, CLASSES)

    def scores(self, w: F32, x: F32) -> F32:
        """See `Case`."""
        return self._forward(w, x)[-1]

    def _forward(self, w: F32, x: F32) -> tuple[F32, F32, F32]:
        """Return what the bottleneck holds, what the head gets, and the scores."""
        a, b, head = self._parts(w)
        f = x[..., :-1]
        inner = np.maximum(f @ a, 0)
        whole = np.concatenate([f + inner @ b, x[..., -1:]], axis=-1)
        return inner, whole, whole @ head

    def gradient(self, w: F32, x: F32, y: I64) -> F32:
        """See `Case`."""
        _, b, head = self._parts(w)
        inner, whole, scores = self._forward(w, x)
        error = _errors(scores, y)
        back = error @ head[..., :-1, :].swapaxes(-1, -2)
        deep = (back @ b.swapaxes(-1, -2)) * (inner > 0)
        parts = (x[..., :-1].swapaxes(-1, -2) @ deep, inner.swapaxes(-1, -2) @ back, whole.swapaxes(-1, -2) @ error)
        return np.concatenate([part.reshape(*w.shape[:-1], -1) for part in parts], axis=-1)


CASES: Mapping[str, Case] = {"head": Head(), "adapter": Adapter()}


@dataclass(frozen=True)
class Samples:
    """Features and labels: x of clients has shape (clients, SAMPLES, m), that of tests (n, m)."""

    x: F32
    y: I64
    test_x: F32
    test_y: I64

    def of(self, clients: int) -> "Samples":
        """Return those of the first clients."""
        return Samples(self.x[:clients], self.y[:clients], self.test_x, self.test_y)


def samples(case: Case, data: str, folder: Path) -> Samples:
    """Return what a data set of ten classes has, each client with half of its samples by label, the rest at random.

    Args:
        case: whose features.
        data: fashion-mnist, or digits, which come with the library's dependencies.
        folder: where it is.
    """
    found = load_source(find_source(data), folder)
    images, tests = (np.asarray(v, np.float32).reshape(len(v), *v.shape[-2:]) for v in (found.train_x, found.test_x))
    x, y = case.features(images), np.asarray(found.train_y, np.int64)
    clients = len(y) // SAMPLES
    half = clients * SAMPLES // 2
    by_label = np.random.default_rng(1).permutation(len(y))
    by_label = by_label[np.argsort(y[by_label], kind="stable")]
    chosen = np.sort(np.random.default_rng(3).permutation(len(y))[:half])
    rest = np.random.default_rng(4).permutation(np.setdiff1d(np.arange(len(y)), chosen))[:half]
    mine = np.concatenate([by_label[part].reshape(clients, -1) for part in (chosen, rest)], axis=1)
    mine = mine[np.random.default_rng(2).permutation(clients)]
    return Samples(x[mine], y[mine], case.features(tests), np.asarray(found.test_y, np.int64))


class Masking(Protocol):
    """What clients add to the model in a step, in place of their updates."""

    def __call__(self, u: F32, share: float) -> F32:
        """Return it, of u's shape; `share` is the step's share of the round."""
        ...


def local(case: Case, data: Samples, w: F32, rng: np.random.Generator, masking: Masking | None = None) -> F32:
    """Return what one epoch of SGD makes of the parameters at every client, shape (clients, d).

    Args:
        case, data, w: the model, the clients, the parameters that they are sent.
        rng: of the order of samples, which all clients share.
        masking: trains through masks where it is given.
    """
    updates = np.zeros((len(data.x), case.parameters), np.float32)
    order = rng.permutation(SAMPLES)
    steps = [order[at : at + BATCH] for at in range(0, SAMPLES, BATCH)]
    for at in range(0, len(updates), _CHUNK):
        part = slice(at, at + _CHUNK)
        x, y, u = data.x[part], data.y[part], updates[part]
        for i, some in enumerate(steps, 1):
            shown = w + (u if masking is None else masking(u, i / len(steps)))
            u -= np.float32(case.rate) * case.gradient(shown, x[:, some], y[:, some])
    return updates


def accuracy(case: Case, data: Samples, w: F32) -> float:
    """Return the share of test samples that are right."""
    return float((case.scores(w, data.test_x).argmax(-1) == data.test_y).mean())
