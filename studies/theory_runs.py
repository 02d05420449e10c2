"""The federations of federations.py in plain numpy, the runs of all seeds at once: what theory.py measures.

A round of one federation takes 15 ms by the library's own path (frames, server, clients), and here less than 0.1 ms.
The two agree to float32 where they are handed the same noise and dice (tests/e2e/test_study_theory.py).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from federations import BATCH, CLIENTS, FEATURES, L2, SAMPLES, STEPS, TAKE_PART, Plan, Problem
from grid_runs import masked
from numpy.typing import NDArray

from fedmrn.numerics.noise import Law

F64 = NDArray[np.float64]
Whole = NDArray[np.int16]
DICE = (STEPS + 2, TAKE_PART, FEATURES)
"""Numbers in [0, 1) of a round: the noise, the mask of each step, and the mask that is sent."""
_AHEAD = 64
"""Rounds whose numbers are drawn at a time."""


@dataclass(frozen=True)
class Loss:
    """A loss of a linear model, elementwise.

    Attributes:
        fit: (outputs, targets) -> losses.
        residual: its derivative by the output.
        penalty: of weights.
        pull: its derivative.
    """

    fit: Callable[[F64, F64], F64]
    residual: Callable[[F64, F64], F64]
    penalty: Callable[[F64], F64] = lambda w: L2 / 2 * w * w
    pull: Callable[[F64], F64] = lambda w: L2 * w


def _cross_entropy(z: F64, y: F64) -> F64:
    return np.logaddexp(0, z) - y * z


def _error(z: F64, y: F64) -> F64:
    return 1 / (1 + np.exp(-z)) - y


LOSSES: Mapping[str, Loss] = {
    "ridge": Loss(lambda z, y: np.square(z - y) / 2, lambda z, y: z - y),
    "logistic": Loss(_cross_entropy, _error),
    "bounded": Loss(
        _cross_entropy, _error, lambda w: L2 * w * w / (1 + w * w), lambda w: 2 * L2 * w / np.square(1 + w * w)
    ),
}


class Federations:
    """Problems of one kind side by side; the first axis of every array is that of the problems."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        (name,) = {problem.name for problem in problems}
        self.loss = LOSSES[name]
        self.start = np.stack([p.start for p in problems]).astype(np.float64)
        self.x = np.stack([p.x.double().numpy() for p in problems])
        self.y = np.stack([p.y.double().numpy() for p in problems])[..., None]
        self._places = np.arange(len(problems))[:, None, None, None]
        self._all = self.x.reshape(len(problems), -1, FEATURES), self.y.reshape(len(problems), -1, 1)

    def batches(self, clients: Whole, chosen: Whole) -> tuple[F64, F64]:
        """Return the samples of clients of shape (problems, K) at indices of shape (problems, K, steps, batch)."""
        at = self._places, clients[:, :, None, None], chosen
        return self.x[at], self.y[at]

    def gradient(self, x: F64, y: F64, w: F64) -> F64:
        """Return gradients of mean losses; x is (..., samples, features), y (..., samples, 1), w (..., features)."""
        residuals = self.loss.residual(x @ w[..., None], y)
        found: F64 = (np.swapaxes(x, -1, -2) @ residuals)[..., 0] / x.shape[-2] + self.loss.pull(w)
        return found

    def values(self, w: F64) -> F64:
        """Return the loss of all clients together at w, shape (problems, features)."""
        x, y = self._all
        found: F64 = self.loss.fit(x @ w[..., None], y).mean((1, 2)) + self.loss.penalty(w).sum(1)
        return found

    def square_gradients(self, w: F64) -> F64:
        """Return the squared norm of that loss's gradient."""
        found: F64 = np.square(self.gradient(*self._all, w)).sum(1)
        return found


@cache
def sampling(seed: int, rounds: int) -> tuple[Whole, Whole]:
    """Return who takes part, shape (rounds, K), and their batches, drawn as `federations.run` draws them."""
    generator = np.random.default_rng([4, seed])
    clients, batches = [], []
    for _ in range(rounds):
        clients.append(generator.choice(CLIENTS, TAKE_PART, replace=False))
        batches.append(generator.integers(0, SAMPLES, (TAKE_PART, STEPS, BATCH)))
    return np.stack(clients).astype(np.int16), np.stack(batches).astype(np.int16)


def dice(seeds: Sequence[int]) -> Iterator[F64]:
    """Yield the numbers of one round after another, shape (seeds, *DICE)."""
    generators = [np.random.default_rng([10, seed]) for seed in seeds]
    while True:
        drawn = np.stack([generator.random((_AHEAD, *DICE)) for generator in generators])
        yield from np.swapaxes(drawn, 0, 1)


def run(
    federations: Federations, plans: Sequence[Plan], rounds: int, seeds: Sequence[int], drawn: Iterator[F64]
) -> Iterator[F64]:
    """Yield the servers' states before the first round, and after each, shape (seeds, features).

    Args:
        federations: one for each seed.
        plans: one for each, of one method and one law, with progressive masking.
        rounds: how many.
        seeds: of the sampling of clients and batches.
        drawn: as `dice` yields them; not used where nothing is masked.
    """
    ((method, law),) = {(plan.method, plan.law) for plan in plans}
    mask = {"fedavg": None, "fedmrn": "binary", "fedmrn-s": "signed"}[method]
    order = [sampling(seed, rounds) for seed in seeds]
    clients, batches = (np.stack([o[i] for o in order], 1) for i in range(2))
    w = federations.start
    yield w
    for r in range(1, rounds + 1):
        rate, scale = (np.array(values)[:, None, None] for values in _schedules(plans, r))
        x, y = federations.batches(clients[r - 1], batches[r - 1])
        start = np.repeat(w[:, None], TAKE_PART, 1)
        u = np.zeros_like(start)
        if mask is None:
            for s in range(STEPS):
                u = u - rate * federations.gradient(x[:, :, s], y[:, :, s], start + u)
        else:
            numbers = next(drawn)
            n = scale * _noise(law, numbers[:, 0])
            for s in range(STEPS):
                at = start + masked(mask, u, n, numbers[:, 1 + s], (s + 1) / STEPS)
                u = u - rate * federations.gradient(x[:, :, s], y[:, :, s], at)
            u = masked(mask, u, n, numbers[:, 1 + STEPS], 1.0)
        w = w + u.mean(1)
        yield w


def _schedules(plans: Sequence[Plan], r: int) -> tuple[list[float], list[float]]:
    return [plan.rate(r) for plan in plans], [plan.scale(r) for plan in plans]


def _noise(law: Law, numbers: F64) -> F64:
    """Return noise of scale 1 from numbers in [0, 1): signs, or values in [-1, 1)."""
    return np.where(numbers < 0.5, -1.0, 1.0) if law == Law.BERNOULLI else 2 * numbers - 1
