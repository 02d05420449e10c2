"""Accuracy against epsilon: private masks beside FedAvg with the Gaussian mechanism.

    python studies/privacy.py --data-dir data [--clients 100 300 1000] [--epsilons 1 4 16] [--clips C ...] [--seeds 3]

A linear head over random features of Fashion-MNIST, computed once: 1,000 features, 10,010 parameters. Each client has
60 images, half of them of one label or two, is asked in every round and trains one epoch; all clients count alike.

Clients train plainly. What differs is how their updates become a mean:

    masks         clipped to +-c an element; signed masks over Bernoulli noise of scale c / (2 theta), one bit each,
                  with theta by `fedmrn.privacy.theta_for`. These are the masks that `fedmrn-s` with theta sends.
    gauss-element clipped the same; Gaussian noise for the norm that this leaves, c sqrt(d)
    gauss-norm    clipped to a norm of c sqrt(d / 10); Gaussian noise for that norm
    none          no privacy: clipped to +-c an element

Noise is calibrated by dp-accounting to the same epsilon and delta, a client's data replaced. Each row takes its best
clip with the first seed, which the account counts for none of them; the table has the mean over the other seeds, and
with one seed that one's.
"""

import argparse
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

import dp_accounting
import numpy as np
from dp_accounting.rdp import RdpAccountant
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fedmrn.data import find_source, load_source
from fedmrn.numerics.private import Dice, draw_private
from fedmrn.privacy import DELTA, theta_for

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
FEATURES, CLASSES, SAMPLES, BATCH = 1000, 10, 60, 20
COORDINATES = (FEATURES + 1) * CLASSES
MECHANISMS = ("none", "masks", "gauss-element", "gauss-norm")
RATE = 3.0


@dataclass(frozen=True)
class Data:
    """Features with a column of ones, float32, and labels; x of clients has shape (clients, SAMPLES, FEATURES + 1)."""

    x: F32
    y: NDArray[np.int64]
    test_x: F32
    test_y: NDArray[np.int64]


def features(images: F32) -> F32:
    """Return random features, each sample centred and of norm sqrt(10) by itself: nothing is learned from the data."""
    weights = np.random.default_rng(0).normal(0, 1 / sqrt(images.shape[1]), (images.shape[1], FEATURES))
    found = np.maximum((images - images.mean(1, keepdims=True)) @ weights.astype(np.float32), 0)
    found -= found.mean(1, keepdims=True)
    found *= sqrt(10) / np.linalg.norm(found, axis=1, keepdims=True)
    return np.concatenate([found, np.ones((len(found), 1), np.float32)], axis=1)


def shared_out(x: F32, y: NDArray[np.int64], clients: int, tests: tuple[F32, NDArray[np.int64]]) -> Data:
    """Give every client half of its samples by label, the rest at random."""
    order = np.random.default_rng(1).permutation(len(y))
    by_label = order[np.argsort(y[order], kind="stable")]
    half = 1000 * SAMPLES // 2
    rows = np.random.default_rng(2).permutation(1000)[:clients]
    sorted_half = np.sort(np.random.default_rng(3).permutation(len(y))[:half])
    rest = np.setdiff1d(np.arange(len(y)), sorted_half)
    mine = np.concatenate(
        [
            by_label[sorted_half].reshape(1000, -1),
            by_label[np.random.default_rng(4).permutation(rest)].reshape(1000, -1),
        ],
        axis=1,
    )[rows]
    return Data(x[mine], y[mine], *tests)


def local(data: Data, head: F32, rng: np.random.Generator) -> F32:
    """Return what one epoch of SGD makes of the head at every client, shape (clients, COORDINATES)."""
    heads = np.repeat(head[None], len(data.x), axis=0)
    order = rng.permutation(SAMPLES)
    for at in range(0, SAMPLES, BATCH):
        some = order[at : at + BATCH]
        x, y = data.x[:, some], data.y[:, some]
        scores = x @ heads
        scores -= scores.max(2, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(2, keepdims=True)
        np.put_along_axis(scores, y[:, :, None], np.take_along_axis(scores, y[:, :, None], 2) - 1, 2)
        heads -= np.float32(RATE / BATCH) * (x.transpose(0, 2, 1) @ scores)
    heads -= head
    return heads.reshape(len(data.x), -1)


@cache
def multiplier(epsilon: float, rounds: int) -> float:
    """Return the standard deviation of Gaussian noise over how far the mean moves when a client's data is replaced."""
    found = dp_accounting.calibrate_dp_mechanism(
        lambda: RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE),
        lambda z: dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(z), rounds),
        epsilon,
        DELTA,
    )
    return float(found)


@cache
def theta_of(epsilon: float, clients: int, rounds: int) -> float:
    """Return the theta of the masks."""
    return theta_for(epsilon, clients=clients, coordinates=COORDINATES, rounds=rounds)


def mean_of(updates: F32, mechanism: str, clip: float, epsilon: float, rounds: int, rng: np.random.Generator) -> F64:
    """Return the mean as the server gets it; updates are changed."""
    clients, d = updates.shape
    norm = clip * sqrt(d)
    if mechanism == "gauss-norm":
        norm /= sqrt(10)
        updates *= np.minimum(1, norm / np.maximum(np.linalg.norm(updates, axis=1, keepdims=True), 1e-30))
    elif mechanism != "masks":
        np.clip(updates, -clip, clip, out=updates)
    if mechanism != "masks":
        mean: F64 = updates.mean(0, dtype=np.float64)
        spread = 0.0 if mechanism == "none" else multiplier(epsilon, rounds) * 2 * norm / clients
        return mean + rng.normal(0, spread, d)
    theta = theta_of(epsilon, clients, rounds)
    scale = np.float32(clip / (2 * theta))
    noise = np.where(rng.random(d) < 0.5, -scale, scale).astype(np.float32)
    ones = np.zeros(d, np.int64)
    for update in updates:
        ones += draw_private(update, noise, theta, Dice(int(rng.integers(1 << 63))))
    found: F64 = noise * (2.0 * ones / clients - 1)
    return found


def train(data: Data, mechanism: str, epsilon: float, clip: float, rounds: int, seed: int) -> float:
    """Return the final test accuracy."""
    rng = np.random.default_rng([seed, 5])
    head = np.zeros((FEATURES + 1, CLASSES), np.float32)
    for _ in range(rounds):
        updates = local(data, head, rng)
        head += mean_of(updates, mechanism, clip, epsilon, rounds, rng).reshape(head.shape).astype(np.float32)
    return float(((data.test_x @ head).argmax(1) == data.test_y).mean())


def main() -> None:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--clients", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 4.0, 16.0])
    parser.add_argument("--clips", type=float, nargs="+", default=[0.003, 0.01, 0.03])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    found = load_source(find_source("fashion-mnist"), asked.data_dir)
    images = (np.asarray(v, np.float32).reshape(len(v), -1) for v in (found.train_x, found.test_x))
    x, test_x = (features(v) for v in images)
    y, test_y = (np.asarray(v, np.int64) for v in (found.train_y, found.test_y))
    out = Console(width=110)
    table = Table("clients a round", "epsilon", "mechanism", "accuracy %", "clip", "theta")
    for clients in asked.clients:
        data = shared_out(x, y, clients, (test_x, test_y))
        for epsilon, mechanism in [(float("inf"), "none"), *product(asked.epsilons, MECHANISMS[1:])]:
            best, clip = max((train(data, mechanism, epsilon, c, asked.rounds, 0), c) for c in asked.clips)
            runs = [train(data, mechanism, epsilon, clip, asked.rounds, s) for s in range(1, asked.seeds)]
            runs = runs or [best]
            spread = f"±{100 * stdev(runs):.1f}" if len(runs) > 1 else ""
            theta = f"{theta_of(epsilon, clients, asked.rounds):.5f}" if mechanism == "masks" else ""
            row = (str(clients), f"{epsilon:g}", mechanism, f"{100 * fmean(runs):.1f}{spread}", str(clip))
            table.add_row(*row, theta)
            out.print(*row, theta)
    out.print(table)


if __name__ == "__main__":
    main()
