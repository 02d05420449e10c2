"""Tuning: a tried value makes the experiment that `--set` of it makes."""

from dataclasses import replace
from pathlib import Path

import pytest

from fedmrn.errors import ConfigError
from fedmrn.experiments.many.tune import Grid, is_of, trials, tuned
from fedmrn.experiments.settings import load_setting

NAMES = ("fedavg", "fedmrn", "fedmrn-no-pm")


@pytest.mark.parametrize(("changes", "rates"), [([], [1.0, 1.0, 0.01]), (["method.server_lr=0.5"], [0.5] * 3)])
def test_the_servers_rate_follows_the_server_that_is_tried(
    tmp_path: Path, changes: list[str], rates: list[float]
) -> None:
    setting, grid = load_setting("digits", changes), Grid.parse("server=mean,momentum,adam", 2, 7)
    for name, cells in trials(setting, NAMES, grid, tmp_path).items():
        assert [e.options.server_lr for e, _ in cells.values()] == rates
        for value, (experiment, folder) in cells.items():
            said = load_setting("digits", [*changes, f"method.{name}.server={value}"]).experiment(name, 7)
            assert experiment == replace(said, train=replace(said.train, rounds=2))
            assert folder == tmp_path / f"{name}-seed7-server{value}"


def test_the_runs_take_what_was_chosen_and_are_known_by_it() -> None:
    setting = load_setting("digits")
    plan = [setting.experiment(name, seed) for name in NAMES for seed in (1, 2)]
    chosen = {"fedavg": "adam", "fedmrn": None}
    tuning = {"option": "server", "methods": {name: {"chosen": value} for name, value in chosen.items()}}
    found, dropped = tuned(setting, plan, tuning)
    assert dropped == ["fedmrn"]
    assert found == [
        *(load_setting("digits", ["method.server=adam"]).experiment("fedavg", seed) for seed in (1, 2)),
        *plan[4:],
    ]
    assert [is_of(tuning, e) for e in (*found, *plan)] == [True] * 4 + [False] * 4 + [True] * 2
    levels = {"option": "levels", "methods": {"qsgd": {"chosen": "3"}}}
    (three,), _ = tuned(setting, [setting.experiment("qsgd", 1)], levels)
    assert (is_of(levels, three), is_of(levels, setting.experiment("qsgd", 1))) == (True, False)


def test_a_value_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--tune server=mena: .*server = 'mena'"):
        trials(load_setting("digits"), NAMES, Grid.parse("server=mean,mena", 2, 7), tmp_path)
