"""The account on the server's side: told before and after, rounds that are lost, and runs that go on."""

import builtins
import sys
from typing import Any

import pytest

from fedmrn.errors import ConfigError
from fedmrn.federation.private_run import PrivateRun, private_run
from fedmrn.federation.report import RoundReport
from fedmrn.methods import method
from fedmrn.privacy import PrivateRounds, epsilon_of
from fedmrn.secure import SecureSum
from fedmrn.wire.layout import Group, Layout, TensorSpec

THETA, D = 0.05, 24
LAYOUT = Layout.of([TensorSpec("w", (4, 5), Group.CODED), TensorSpec("b", (4,), Group.CODED)])
PRIVATE = method("fedmrn-s").scheme({"theta": THETA, "scale": 0.5, "noise_key": "round"}, equal=True)


def report(number: int, folded: int) -> RoundReport:
    return RoundReport(round=number, trainable=D, folded=list(range(folded)), up=10 * folded)


def epsilon(*sizes: int) -> float:
    return epsilon_of([PrivateRounds(THETA, n, D) for n in sizes])


def test_what_is_told() -> None:
    run = PrivateRun(PRIVATE, LAYOUT, 10, "a caveat")
    text = run.before(7)
    assert f"with these settings epsilon will be {epsilon(*[10] * 7):.3g} (delta 1e-05)" in text
    assert "theta 0.05, 10 clients a round, 7 rounds, 24 coded parameters; a caveat" in text
    assert run.epsilon == 0
    for number, size in enumerate((10, 12, 10), 1):
        found = report(number, size)
        assert run.close(found)
        assert (len(found.folded), found.failed) == (size, [])
    assert found.epsilon == pytest.approx(epsilon(10, 10, 12))
    assert f"epsilon is {found.epsilon:.3g} (delta 1e-05) after 3 rounds" in run.after()
    assert f"epsilon {found.epsilon:.3g} so far" in str(found)
    assert found.metrics()["epsilon"] == found.epsilon
    assert "epsilon" not in report(1, 3).metrics()
    assert "epsilon" not in str(report(1, 3))


def test_a_round_of_fewer_is_lost_and_costs_nothing() -> None:
    run = PrivateRun(PRIVATE, LAYOUT, 10)
    run.close(report(1, 10))
    few = report(2, 9)
    assert not run.close(few)
    assert (few.folded, few.up, few.epsilon) == ([], 0, pytest.approx(epsilon(10)))
    assert "9 clients answered, and the account of privacy is made for 10 or more" in few.failed[0]
    nobody = report(3, 0)
    assert not run.close(nobody)
    assert not nobody.failed
    assert run.close(report(4, 11))
    assert run.epsilon == pytest.approx(epsilon(10, 11))
    assert "after 2 rounds" in run.after()


def test_a_run_that_goes_on_counts_what_it_does_not_know_at_its_dearest() -> None:
    run = PrivateRun(PRIVATE, LAYOUT, 10)
    run.recall(4, [(1, 20), (3, 0), (9, 1)])
    assert run.epsilon == pytest.approx(epsilon(20, 10, 10))
    assert epsilon(10) > epsilon(20)
    run.recall(0)
    assert run.epsilon == 0


def test_least_clients_with_secure_sums_and_without() -> None:
    def least(asked: int, protect: SecureSum | None = None) -> int:
        found = private_run(PRIVATE, LAYOUT, asked, protect)
        assert found is not None
        assert ("single masks" in found.before(1)) == (protect is None)
        return found.least

    assert least(10) == 10
    assert least(10, SecureSum(threshold=0.7)) == 7
    assert least(10, SecureSum(threshold=3)) == SecureSum(threshold=3).needed(10) == 7, "at least so many must stay"
    assert least(2, SecureSum(threshold=9)) == 9, "fewer than nine have no round"
    assert private_run(method("fedmrn-s").scheme(), LAYOUT, 1) is None


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"theta = 0\.05 .* one client: say how many"):
        PrivateRun(PRIVATE, LAYOUT, 1)
    small = method("fedmrn-s").scheme({"theta": 2.0**-21, "scale": 0.5, "noise_key": "round"}, equal=True)
    with pytest.raises(ConfigError, match="theta from 2"):
        PrivateRun(small, LAYOUT, 10)
    normed = Layout.of([TensorSpec("w", (4,), Group.CODED), TensorSpec("norm", (4,), Group.DENSE)])
    with pytest.raises(ConfigError, match="normalisation layers"):
        PrivateRun(PRIVATE, normed, 10)
    whole = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name.partition(".")[0] in {"dp_accounting", "scipy"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return whole(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in [name for name in sys.modules if name.partition(".")[0] == "dp_accounting"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"fedmrn\[privacy\]"):
        PrivateRun(PRIVATE, LAYOUT, 10)
    with pytest.raises(ConfigError, match=r"fedmrn\[privacy\]"):
        epsilon_of([PrivateRounds(0.0123, 17, 5)])
