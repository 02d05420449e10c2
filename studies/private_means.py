"""How clients' updates become a mean, at one epsilon: private masks, and FedAvg with the Gaussian mechanism.

    masks         clipped to +-c an element; signed masks over Bernoulli noise of scale c / (2 theta), one bit each,
                  with theta by `fedmrn.privacy.theta_for`. These are the masks that `fedmrn-s` with theta sends.
    gauss-element clipped the same; Gaussian noise for the norm that this leaves, c sqrt(d)
    gauss-norm    clipped to a norm of c sqrt(d / 10); Gaussian noise for that norm
    none          no privacy, and no clip

Gaussian noise is calibrated by dp-accounting to the same epsilon and delta, a client's data replaced.

Two more send the same masks after another training, through dice instead of plainly:

    masks-through each step is taken at w + a mask of the noise that is sent, as FedMRN's training does
    masks-near    the same with noise of the clip's size, c: as little as can say all of a clipped update
"""

from dataclasses import dataclass
from functools import cache
from math import sqrt

import dp_accounting
import numpy as np
from dp_accounting.rdp import RdpAccountant
from numpy.typing import NDArray
from private_cases import F32, Case, Masking, Samples, accuracy, local

from fedmrn.numerics.private import Dice, draw_private
from fedmrn.privacy import DELTA, theta_for

F64 = NDArray[np.float64]
PRIVATE = ("masks", "gauss-element", "gauss-norm")
THROUGH = ("masks-through", "masks-near")


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
def theta_of(epsilon: float, clients: int, coordinates: int, rounds: int) -> float:
    """Return the theta of the masks."""
    return theta_for(epsilon, clients=clients, coordinates=coordinates, rounds=rounds)


@dataclass(frozen=True)
class Mechanism:
    """A way to the mean.

    Attributes:
        name: of those above.
        epsilon: of the whole run.
        clip: c; 0 for none.
        rounds: of the run.
    """

    name: str
    epsilon: float
    clip: float
    rounds: int

    def theta(self, clients: int, coordinates: int) -> float:
        """Return the theta of masks; 0 where there are none."""
        masks = self.name.startswith("masks")
        return theta_of(self.epsilon, clients, coordinates, self.rounds) if masks else 0.0

    def mean(self, updates: F32, rng: np.random.Generator, noise: F32) -> F64:
        """Return the mean as the server gets it; updates, shape (clients, d), are changed.

        Args:
            updates: of the clients.
            rng: of dice and noise.
            noise: of masks, +-scale, shape (d,); for others it is not read.
        """
        clients, d = updates.shape
        if self.name.startswith("masks"):
            ones, theta = np.zeros(d, np.int64), self.theta(clients, d)
            for update in updates:
                ones += draw_private(update, noise, theta, Dice(int(rng.integers(1 << 63))))
            masked: F64 = noise * (2.0 * ones / clients - 1)
            return masked
        if self.name == "none":
            plain: F64 = updates.mean(0, dtype=np.float64)
            return plain
        norm = self.clip * sqrt(d)
        if self.name == "gauss-norm":
            norm /= sqrt(10)
            updates *= np.minimum(1, norm / np.maximum(np.linalg.norm(updates, axis=1, keepdims=True), 1e-30))
        else:
            np.clip(updates, -self.clip, self.clip, out=updates)
        spread = multiplier(self.epsilon, self.rounds) * 2 * norm / clients
        found: F64 = updates.mean(0, dtype=np.float64) + rng.normal(0, spread, d)
        return found

    def noise(self, clients: int, coordinates: int, rng: np.random.Generator) -> F32:
        """Return a round's noise of masks, float32, shape (d,); nothing where there are none."""
        theta = self.theta(clients, coordinates)
        if not theta:
            return np.empty(0, np.float32)
        scale = self.clip / (2 * theta)
        return np.where(rng.random(coordinates) < 0.5, -scale, scale).astype(np.float32)

    def masking(self, noise: F32, rng: np.random.Generator) -> Masking | None:
        """Return how clients train through masks; None where they train plainly."""
        if self.name not in THROUGH:
            return None
        n = noise if self.name == "masks-through" else np.copysign(np.float32(self.clip), noise)

        def masked(u: F32, share: float) -> F32:
            """Progressive stochastic masking, signed: one draw says whether an element is masked, and to what."""
            draws = rng.random(u.shape, np.float32)
            p = np.clip((u / n + 1) / 2, 0, 1)
            values = np.where(draws < share * p, n, -n)
            return np.where(draws < share, values, np.clip(u / n, -1, 1) * n).astype(np.float32)

        return masked


def train(case: Case, data: Samples, mechanism: Mechanism, seed: int) -> float:
    """Return the final test accuracy of a run."""
    rng, w, clients = np.random.default_rng([seed, 5]), case.start(), len(data.x)
    for _ in range(mechanism.rounds):
        noise = mechanism.noise(clients, case.parameters, rng)
        updates = local(case, data, w, rng, mechanism.masking(noise, rng))
        w = w + mechanism.mean(updates, rng, noise).astype(np.float32)
    return accuracy(case, data, w)
