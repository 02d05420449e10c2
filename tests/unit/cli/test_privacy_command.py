"""The command that accounts for privacy: theta and epsilon are each other's answer."""

import re

import pytest
from typer.testing import CliRunner

from fedmrn.cli.app import app
from fedmrn.errors import ConfigError
from fedmrn.privacy import PrivateRounds, epsilon_of

SETTING = ["privacy", "--clients", "50", "--parameters", "1000", "--rounds", "4"]


def told(*more: str) -> tuple[float, float]:
    done = CliRunner().invoke(app, [*SETTING, *more], catch_exceptions=False)
    found = re.search(r"theta (\S+): with these settings epsilon will be (\S+) ", done.output)
    assert found, done.output
    return float(found[1]), float(found[2])


def test_epsilon_of_a_theta_and_back() -> None:
    theta, epsilon = told("--theta", "0.05")
    assert theta == 0.05
    assert epsilon == pytest.approx(epsilon_of([PrivateRounds(0.05, 50, 1000, 4)]), rel=1e-3)
    back, least = told("--epsilon", str(epsilon))
    assert back == pytest.approx(0.05, rel=3e-3)
    assert least <= epsilon


@pytest.mark.parametrize("more", [[], ["--theta", "0.1", "--epsilon", "1"]])
def test_one_of_both_is_asked_for(more: list[str]) -> None:
    with pytest.raises(ConfigError, match="one of"):
        CliRunner().invoke(app, [*SETTING, *more], catch_exceptions=False)
