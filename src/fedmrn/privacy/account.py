"""What private masks are worth: the Renyi divergence of a round's sum, and (epsilon, delta) of a run.

One coordinate of a round: n honest clients send a bit each, drawn with a probability from 1/2 - theta to 1/2 + theta,
and their sum is seen. Each of the other n - 1 bits is a fair coin with probability 1 - 2 theta, whatever its client
holds (the privacy blanket; Balle et al., CRYPTO 2019). Let who is such a coin be known: with N of them and M = N + 1,

    exp((a - 1) D_a) <= mean of (1 + 2 theta x)^a (1 - 2 theta x)^(1 - a)
    x = (2 k - M) / M,  N ~ Bin(n - 1, 1 - 2 theta),  k ~ Bin(M, 1/2)

since Bern(1/2 +- theta) + Bin(N, 1/2) has the probabilities Bin(M, 1/2)(k) (1 +- 2 theta x). A client's data may be
replaced by any other; the two ways round are equal, as k and M - k change places. D_a of all d coordinates adds up, and
so it does over rounds. This is a bound. The limit 8 a theta^2 / (n (1 - 2 theta)) is close to it, and is none.

It holds for who sees sums alone, and counts no client that tells its bit. No amplification by sampling is claimed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from math import exp, isfinite, log, sqrt
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import ConfigError
from fedmrn.extras import explained
from fedmrn.numerics.private import LARGEST_THETA
from fedmrn.whole import whole

F64 = NDArray[np.float64]
ORDERS: tuple[float, ...] = (
    *(1 + x / 10 for x in range(1, 50)),
    *(6 + x / 2 for x in range(20)),
    *range(16, 65, 2),
    *(72, 80, 96, 112, 128, 160, 192, 224, 256, 384, 512),
)
"""Orders a of the Renyi divergence that are tried."""
DELTA = 1e-5
"""The delta of what is told of a run."""
_MOST_CLIENTS, _MOST_COORDINATES = 10**7, 1 << 40
_LEAST_THETA = 2.0**-20  # below, float64 has too few digits for what is left of the sums
_EXACT = 200
"""Up to so many other clients each number of coins is looked at; beyond, those in between count as the next smaller."""
_ROUNDING = 1e-6
"""What is added for the rounding of floats, relative; some 1e-9 is what it can be."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One coordinate of a round's sum.

    Attributes:
        theta: how far a bit's probability is from 1/2 at most, 2^-20 to 1/4.
        clients: n, the honest clients whose bits are in the sum, 1 to 10^7.

    Raises:
        ConfigError: one of them is not in its range.
    """

    theta: float
    clients: int

    def __post_init__(self) -> None:
        if not _LEAST_THETA <= self.theta <= LARGEST_THETA:
            raise ConfigError(f"the account takes a theta from 2^-20 to {LARGEST_THETA}, got {self.theta:g}")
        whole(self.clients, "the honest clients of a round", most=_MOST_CLIENTS)

    def divergences(self, orders: Sequence[float] = ORDERS) -> F64:
        """Return a bound on D_a for each order a > 1, float64, shape (len(orders),)."""
        a = np.array(orders, np.float64)
        total = np.zeros(a.size)
        for coins, chance in self._coins():
            total += chance * _excess(self.theta, coins + 1, a)
        return np.log1p(np.maximum(total, 0)) / (a - 1) * (1 + _ROUNDING)

    def limit(self, order: float) -> float:
        """Return 8 a theta^2 / (n (1 - 2 theta)), what D_a comes near for many clients. No bound."""
        return 8 * order * self.theta**2 / (self.clients * (1 - 2 * self.theta))

    def _coins(self) -> list[tuple[int, float]]:
        """Return numbers of coins and their probabilities; together they bound, as fewer coins hide less."""
        tries = self.clients - 1
        if tries == 0:
            return [(0, 1.0)]
        at = np.arange(tries + 1)
        weights = np.exp(_log_choose(tries, at) + at * log(1 - 2 * self.theta) + (tries - at) * log(2 * self.theta))
        starts = _starts(tries, self.theta)
        return list(zip(starts.tolist(), np.add.reduceat(weights, starts).tolist(), strict=True))


def _starts(tries: int, theta: float) -> NDArray[np.int64]:
    """Return the numbers of coins that are looked at, increasing from 0: dense within ten standard deviations."""
    if tries <= _EXACT:
        return np.arange(tries + 1)
    mean, deviation = tries * (1 - 2 * theta), sqrt(tries * 2 * theta * (1 - 2 * theta))
    away = np.concatenate([np.arange(-10, 6, 0.25), -10 * 1.25 ** np.arange(1, 100)])
    starts = (mean + max(deviation, 1) * away).astype(np.int64)
    return np.unique(np.append(starts[(starts >= 0) & (starts <= tries)], 0))


def _excess(theta: float, coins: int, a: F64) -> F64:
    """Return the mean over k ~ Bin(coins, 1/2), less 1, for each order.

    k and coins - k are taken together, so that what is odd in x cancels before it is rounded. Beyond the k that are
    looked at (Hoeffding), the largest value is taken. In the middle, x = 0, there is nothing to add.
    """
    t = 2 * theta
    largest = a * np.log1p(t) + (1 - a) * np.log1p(-t)
    reach = min(1.0, sqrt(2 * (float(largest.max()) + 80) / coins))
    k = np.arange(int((1 + reach) * coins / 2), coins // 2, -1)  # the upper half
    x = (2 * k - coins) / coins
    weight = np.exp(_log_choose(coins, k) - coins * log(2))
    up, down = np.log1p(t * x)[:, None], np.log1p(-t * x)[:, None]
    both = np.expm1(a * up + (1 - a) * down) + np.expm1(a * down + (1 - a) * up)
    rest = 0.0 if reach == 1 else 2 * np.exp(largest - coins * reach**2 / 2)
    found: F64 = weight @ both + rest
    return found


def _log_choose(n: int, k: NDArray[np.integer]) -> F64:
    from scipy.special import gammaln  # noqa: PLC0415 - a server that accounts for nothing needs no scipy

    found: F64 = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return found


@dataclass(frozen=True, slots=True)
class PrivateRounds:
    """Rounds that are alike, as the account counts them.

    Attributes:
        theta: of the masks.
        clients: n, the honest clients whose masks are in the sum of each.
        coordinates: d, coded parameters.
        rounds: how many.
    """

    theta: float
    clients: int
    coordinates: int
    rounds: int = 1

    def divergences(self) -> F64:
        """Return a bound on D_a of these rounds for each of `ORDERS`."""
        d = whole(self.coordinates, "the coded parameters", most=_MOST_COORDINATES)
        rounds = whole(self.rounds, "the rounds", most=1 << 32)
        return np.array(_divergences(self.theta, self.clients)) * d * rounds


@cache
def _divergences(theta: float, clients: int) -> tuple[float, ...]:
    return tuple(Mechanism(theta, clients).divergences().tolist())


def epsilon_of(rounds: Iterable[PrivateRounds], delta: float = DELTA) -> float:
    """Return the epsilon of a client that is in all of these rounds: its data replaced by any other.

    Args:
        rounds: of a run.
        delta: above 0 and below 1.

    Raises:
        ConfigError: a value is out of its range, there is no round, or dp-accounting (extra `privacy`) is missing.
    """
    if not isfinite(delta) or not 0 < delta < 1:
        raise ConfigError(f"delta is above 0 and below 1, got {delta:g}")
    library = _library()
    found = [part.divergences() for part in rounds]
    if not found:
        raise ConfigError("the account needs at least one round")
    return float(library.compute_epsilon(list(ORDERS), np.sum(found, axis=0).tolist(), delta)[0])


def check_account() -> None:
    """Refuse to go on where nothing could account for privacy.

    Raises:
        ConfigError: dp-accounting (extra `privacy`) is missing.
    """
    _library()


def theta_for(epsilon: float, *, clients: int, coordinates: int, rounds: int, delta: float = DELTA) -> float:
    """Return the largest theta whose epsilon is at most this, to a thousandth of itself.

    Raises:
        ConfigError: epsilon is not above 0, or even theta = 2^-20 has a larger one; or as `epsilon_of`.
    """
    if not isfinite(epsilon) or epsilon <= 0:
        raise ConfigError(f"epsilon is above 0, got {epsilon:g}")

    def fits(theta: float) -> bool:
        return epsilon_of([PrivateRounds(theta, clients, coordinates, rounds)], delta) <= epsilon

    low, high = _LEAST_THETA, LARGEST_THETA
    if fits(high):
        return high
    if not fits(low):
        raise ConfigError(f"no theta gives epsilon {epsilon:g} with delta {delta:g} here: take more clients")
    while high / low > 1.001:
        middle = exp((log(low) + log(high)) / 2)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _library() -> ModuleType:
    try:
        from dp_accounting import rdp  # noqa: PLC0415 - only who asks for an epsilon needs it
    except ModuleNotFoundError as error:
        raise ConfigError(str(explained(error, "the account of privacy"))) from error
    return rdp  # type: ignore[no-any-return]
