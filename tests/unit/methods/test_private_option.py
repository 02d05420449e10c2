"""The option `theta`: off it changes nothing, and what would break privacy is refused together with it."""

import pytest

from fedmrn.errors import ConfigError
from fedmrn.methods import METHODS, method

GOOD = {"theta": 0.1, "scale": 0.5, "noise_key": "round"}


def test_it_is_told_and_off_by_default() -> None:
    assert method("fedmrn-s").scheme(GOOD, equal=True).terms == {"theta": 0.1}
    assert method("fedmrn-s").scheme(GOOD, equal=True).theta == 0.1
    assert method("fedmrn-s").scheme().terms == {}
    assert method("fedmrn-s").scheme().theta == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"theta": 0.26}, "at most 0.25"),
        ({"theta": -0.1}, "at most 0.25"),
        ({"scale": "auto"}, "scale that is a number"),
        ({"noise": "uniform"}, "bernoulli"),
        ({"noise": "gaussian"}, "bernoulli"),
        ({"noise_key": "client"}, "noise_key"),
        ({"coding": "entropy"}, "raw"),
        ({"coding": "sorted"}, "raw"),
    ],
)
def test_what_breaks_it_is_refused(change: dict[str, float | str], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"fedmrn-s.*{words}"):
        method("fedmrn-s").scheme({**GOOD, **change}, equal=True)


def test_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="count alike"):
        method("fedmrn-s").scheme(GOOD)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "fedmrn-s"])
def test_no_other_method_has_it(name: str) -> None:
    with pytest.raises(ConfigError, match="no option 'theta'"):
        method(name).scheme({"theta": 0.1}, equal=True)
