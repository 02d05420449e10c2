"""The constants of docs/theory.md's bound for ridge regression with local steps, in closed form.

A client's update is affine in the model that it starts from, v: -A (v - its own optimum) + noise, with
A = I - prod_s (I - rate * H_s) for the Hessians H_s of its batches. M_r is the mean of a round's A.
"""

from dataclasses import dataclass

import numpy as np
from federations import BATCH, CLIENTS, L2, STEPS, TAKE_PART, Problem
from grid_runs import F64, Grid, clients_hessians, gaps


@dataclass(frozen=True)
class Contraction:
    """What a round does to the model, in the mean.

    Attributes:
        mean: M, the expectation of M_r, shape (features, features), symmetric.
        second: the expectation of M_r^T M_r.
        hessian: H of the loss.
    """

    mean: F64
    second: F64
    hessian: F64

    @property
    def rho(self) -> float:
        """The least rho with E M_r^T M_r <= rho M."""
        return _greatest(self.second, self.mean)

    @property
    def factor(self) -> float:
        """The greatest excess of f(v) over the squared error of one element, if all point where they hurt most."""
        largest = float(np.linalg.eigvalsh(self.mean)[-1])
        return 2 * _greatest(self.hessian, self.mean) * largest * len(self.mean) / (2 - self.rho) ** 2

    def bound(self, exact: float, grid: Grid) -> float:
        """Return the bound on the mean gap of v, from that of an exact broadcast with the same dice."""
        error = (grid.step * (0.5 + grid.hysteresis)) ** 2
        return float((exact**0.5 + (self.factor * error) ** 0.5) ** 2)


def _greatest(a: F64, b: F64) -> float:
    """Return the greatest x^T A x / x^T B x."""
    root = np.linalg.inv(np.linalg.cholesky(b))
    return float(np.linalg.eigvalsh(root @ a @ root.T)[-1])


def contraction(problem: Problem, rate: float, *, whole: bool) -> Contraction:
    """Return a round's contraction; `whole` where all clients take part with all their samples."""
    one, hessians, hessian = np.eye(problem.start.size), clients_hessians(problem), problem.hessian(problem.optimum[0])
    means = one - np.linalg.matrix_power(one - rate * hessians, STEPS)
    mean = means.mean(0)
    if whole:
        return Contraction(mean, mean @ mean, hessian)
    seconds = 2 * means - one + _product(problem, rate, hessians)
    alone, squares = seconds.mean(0), (means @ means).mean(0)
    pairs = (CLIENTS * mean @ mean - squares) / (CLIENTS - 1)  # of two clients that are not the same
    return Contraction(mean, (alone + (TAKE_PART - 1) * pairs) / TAKE_PART, hessian)


def _product(problem: Problem, rate: float, hessians: F64) -> F64:
    """Return E P^T P for P = prod_s (I - rate * H_s), for each client; batches are drawn with replacement."""
    x, one = problem.x.double().numpy(), np.eye(problem.start.size)
    data, at, found = hessians - L2 * one, one - rate * hessians, np.broadcast_to(one, hessians.shape)
    for _ in range(STEPS):
        norms = np.einsum("ksf,kfg,ksg->ks", x, found, x)
        spread = np.einsum("ks,ksf,ksg->kfg", norms, x, x) / x.shape[1] - data @ found @ data
        found = at @ found @ at + rate**2 / BATCH * spread
    return found


def fixed_point_gap(problem: Problem, rate: float) -> float:
    """Return how far above its optimum FedAvg settles without dice, because clients that differ take local steps."""
    x, y, hessians = problem.x.double().numpy(), problem.y.double().numpy(), clients_hessians(problem)
    own = np.linalg.solve(hessians, np.einsum("ksf,ks->kf", x, y)[..., None] / x.shape[1])
    means = np.eye(x.shape[2]) - np.linalg.matrix_power(np.eye(x.shape[2]) - rate * hessians, STEPS)
    settled = np.linalg.solve(means.sum(0), (means @ own).sum(0))
    return float(gaps(problem, settled[None])[0, 0])
