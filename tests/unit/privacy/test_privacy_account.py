"""The account: the bound is what a plain sum over all cases gives, bounds exact losses, and has the limit it should."""

from itertools import product
from math import comb, log

import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_distribution import from_two_probability_mass_functions
from numpy.typing import NDArray

from fedmrn.errors import ConfigError
from fedmrn.privacy import Mechanism, PrivateRounds, epsilon_of, theta_for
from fedmrn.privacy.account import ORDERS

F64 = NDArray[np.float64]


def by_cases(theta: float, clients: int, order: float) -> float:
    """The bound by its definition: every number of fair coins, every sum, in whole binomials."""
    total = 0.0
    for coins in range(clients):
        chance = comb(clients - 1, coins) * (1 - 2 * theta) ** coins * (2 * theta) ** (clients - 1 - coins)
        fair = [comb(coins, k) / 2**coins for k in range(coins + 1)]
        one = np.convolve(fair, [1 / 2 - theta, 1 / 2 + theta])
        other = np.convolve(fair, [1 / 2 + theta, 1 / 2 - theta])
        total += chance * float(np.sum(one * (one / other) ** (order - 1)))
    return log(total) / (order - 1)


def sum_of(chances: list[float]) -> F64:
    """The law of the sum of independent bits."""
    law = np.ones(1)
    for p in chances:
        law = np.convolve(law, [1 - p, p])
    return law


def divergence(one: F64, other: F64, order: float) -> float:
    return log(float(np.sum(one * (one / other) ** (order - 1)))) / (order - 1)


@pytest.mark.parametrize("theta", [0.003, 0.1, 0.25])
@pytest.mark.parametrize("clients", [1, 2, 3, 7, 20])
def test_it_is_the_sum_over_all_cases(theta: float, clients: int) -> None:
    orders = (1.1, 2.0, 7.5, 64.0)
    found = Mechanism(theta, clients).divergences(orders)
    exact = [by_cases(theta, clients, a) for a in orders]
    assert np.all(found >= exact)
    np.testing.assert_allclose(found, exact, rtol=2e-6)  # float64, and the millionth that is added


@pytest.mark.parametrize("theta", [0.02, 0.25])
def test_no_case_of_few_clients_goes_beyond_it(theta: float) -> None:
    """Every choice of extreme and middle probabilities of the others, and both ways round."""
    for clients in (1, 2, 3, 4, 5):
        bound = Mechanism(theta, clients).divergences((1.5, 2.0, 8.0, 32.0))
        for others in product((0.5 - theta, 0.5, 0.5 + theta), repeat=clients - 1):
            one, other = (sum_of([*others, p]) for p in (0.5 + theta, 0.5 - theta))
            for a, most in zip((1.5, 2.0, 8.0, 32.0), bound, strict=True):
                assert max(divergence(one, other, a), divergence(other, one, a)) <= most


@pytest.mark.parametrize("clients", [250, 400])
def test_blocks_of_coins_are_a_bound_of_each_coin(clients: int) -> None:
    orders = (1.5, 2.0, 16.0)
    for theta in (0.01, 0.25):
        found = Mechanism(theta, clients).divergences(orders)
        exact = np.array([by_cases(theta, clients, a) for a in orders])
        assert np.all(found >= exact)
        assert np.all(found <= exact * 1.01)


@pytest.mark.parametrize(("clients", "theta"), [(100, 0.01), (100, 0.1), (300, 0.25), (1000, 0.05), (10_000, 0.1)])
def test_many_clients_are_near_the_limit(clients: int, theta: float) -> None:
    mechanism = Mechanism(theta, clients)
    for a, found in zip((1.5, 2.0, 8.0), mechanism.divergences((1.5, 2.0, 8.0)), strict=True):
        assert found == pytest.approx(mechanism.limit(a), rel=0.02)


@pytest.mark.parametrize(("clients", "theta", "together"), [(5, 0.25, 1), (20, 0.1, 30), (100, 0.05, 200)])
def test_epsilon_is_never_below_that_of_the_loss_itself(clients: int, theta: float, together: int) -> None:
    """Of true sums, composed as the privacy loss distribution on a grid that rounds down: less than what is lost."""
    for others in (0.5, 0.5 + theta):
        laws = [sum_of([*[others] * (clients - 1), p]) for p in (0.5 + theta, 0.5 - theta)]
        logs = [{k: float(np.log(p)) for k, p in enumerate(law) if p > 0} for law in laws]
        lost = from_two_probability_mass_functions(
            *logs, value_discretization_interval=1e-4, pessimistic_estimate=False
        ).self_compose(together)
        for delta in (1e-5, 1e-3):
            claimed = epsilon_of([PrivateRounds(theta, clients, together)], delta)
            assert claimed >= lost.get_epsilon_for_delta(delta)
            assert lost.get_delta_for_epsilon(claimed) <= delta


def test_coordinates_and_rounds_add_up() -> None:
    whole = PrivateRounds(0.05, 30, 12, 5).divergences()
    np.testing.assert_allclose(whole, 60 * Mechanism(0.05, 30).divergences(ORDERS), rtol=1e-12)
    apart = [PrivateRounds(0.05, 30, 12, 2), PrivateRounds(0.05, 30, 12, 3)]
    assert epsilon_of(apart) == pytest.approx(epsilon_of([PrivateRounds(0.05, 30, 12, 5)]))
    fewer = [PrivateRounds(0.05, 30, 12, 4), PrivateRounds(0.05, 20, 12, 1)]
    assert epsilon_of(fewer) > epsilon_of(apart), "a client that stayed away hid nobody"


def test_theta_for_an_epsilon() -> None:
    asked = {"clients": 150, "coordinates": 1000, "rounds": 10}
    theta = theta_for(3.0, **asked)
    assert 2.9 < epsilon_of([PrivateRounds(theta, 150, 1000, 10)]) <= 3.0
    assert epsilon_of([PrivateRounds(theta * 1.002, 150, 1000, 10)]) > 3.0
    assert theta_for(1e6, **asked) == 0.25


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Mechanism(0.0, 5).divergences(), "theta"),
        (lambda: Mechanism(0.26, 5).divergences(), "theta"),
        (lambda: Mechanism(0.1, 0), "honest clients"),
        (lambda: epsilon_of([PrivateRounds(0.1, 5, 0)]), "coded parameters"),
        (lambda: epsilon_of([PrivateRounds(0.1, 5, 5, 0)]), "rounds"),
        (lambda: epsilon_of([]), "one round"),
        (lambda: epsilon_of([PrivateRounds(0.1, 5, 5)], 0.0), "delta"),
        (lambda: theta_for(float("nan"), clients=5, coordinates=5, rounds=1), "epsilon"),
        (lambda: theta_for(1e-6, clients=1, coordinates=10**6, rounds=1000), "more clients"),
    ],
)
def test_what_cannot_be_accounted_for(call, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=words):
        call()
