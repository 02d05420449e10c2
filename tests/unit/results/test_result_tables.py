"""Tables: numbers by plain loops and by SciPy's own t, and what a person can say wrong."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_rel
from stored_runs import FEDAVG, MASKS, stored

from fedmrn.errors import ConfigError
from fedmrn.report.verdict import interval
from fedmrn.results.figures import _curves_of
from fedmrn.results.groups import paired, rounds_of, seed_groups, value_of
from fedmrn.results.records import Collection
from fedmrn.results.specs import ClaimsSpec, Column, FigureSpec, TableSpec
from fedmrn.results.tables import claims_of, table_of

FOUR = ["four"]


def rows(collection: Collection, **said) -> list[list[str]]:
    return table_of(TableSpec(records=FOUR, **said), {"four": collection})[1]


def test_means_and_deviations_over_seeds(collection: Collection) -> None:
    found = rows(collection, columns=["method", "seeds", Column(value="accuracy", rounds="3-4"), "best"])
    for (method, seeds, mean, best), curves in zip(found, (FEDAVG, MASKS), strict=True):
        parts = [100 * np.mean(curve[2:4]) for curve in curves.values()]
        tops = [100 * max(curve) for curve in curves.values()]
        assert mean == f"{np.mean(parts):.2f}±{np.std(parts, ddof=1):.2f}"
        assert best == f"{np.mean(tops):.2f}±{np.std(tops, ddof=1):.2f}"
        assert (method, seeds) == ("fedavg" if curves is FEDAVG else "fedmrn", "1-3")


def test_differences_are_paired_with_the_interval_of_student(collection: Collection) -> None:
    columns = [Column(value=value, rounds="2-4") for value in ("difference", "by seed")]
    first, second = rows(collection, columns=columns)
    assert first == ["-", "-"]
    a, b = ([100 * np.mean(curve[1:4]) for curve in curves.values()] for curves in (MASKS, FEDAVG))
    low, high = ttest_rel(a, b).confidence_interval(0.95)
    assert second[0] == f"{(low + high) / 2:+.2f}±{(high - low) / 2:.2f}"
    assert second[1] == " ".join(f"{x - y:+.2f}" for x, y in zip(a, b, strict=True))


def test_the_interval() -> None:
    mean, half = interval([1.0, 2.0, 4.0])
    assert mean == pytest.approx(7 / 3)
    assert half == pytest.approx(student.ppf(0.975, 2) * np.std([1, 2, 4], ddof=1) / 3**0.5)


def test_rounds_that_were_not_tested_are_passed_over(collection: Collection) -> None:
    def thinned(curve: list[float | None]) -> list[float | None]:
        return [None if number == 1 else value for number, value in enumerate(curve)]

    runs = [replace(run, accuracy=thinned(run.accuracy)) for run in collection.runs]
    found = rows(replace(collection, runs=runs), columns=[Column(value="accuracy", rounds=r) for r in ("1-4", "2")])
    for row, curves in zip(found, (FEDAVG, MASKS), strict=True):
        means = [100 * np.mean([curve[0], *curve[2:4]]) for curve in curves.values()]
        assert row == [f"{np.mean(means):.2f}±{np.std(means, ddof=1):.2f}", "not run"]
    spec = FigureSpec(records=FOUR, title="x")
    (_, x, lines), _ = _curves_of(spec, {"four": replace(collection, runs=runs)})
    assert x == [1, 3, 4]
    assert lines[0] == [100 * v for i, v in enumerate(next(iter(FEDAVG.values()))) if i != 1]


def test_savings(collection: Collection) -> None:
    found = rows(collection, columns=["up saved", "total saved", "up MB", "up bits"])
    assert found == [["1.0x", "1.0x", "16.00", "32.000"], ["30.8x", "1.9x", "0.52", "1.040"]]


def rated(method: str, lr: float, end: float, seed: int = 0, **said):
    return replace(stored(method, seed, [0.1, end]), lr=lr, set={"method.lr": lr, **said})


def test_rates_as_columns(collection: Collection) -> None:
    runs = [rated("fedavg", 0.1, 0.5), rated("fedavg", 0.03, 0.7), rated("fedavg", 0.3, 0.6)]
    runs += [rated("fedmrn", 0.1, 0.5, seed) for seed in (0, 1)] + [
        rated("fedmrn", 0.3, 0.5 + seed / 10, seed) for seed in (0, 1)
    ]
    runs += [rated("drive", 0.03, 0.2), rated("topk", 0.03, 0.4), rated("topk", 0.1, 0.6), rated("topk", 0.3, 0.6)]
    last = Column(value="accuracy", rounds="last")
    spec = TableSpec(records=FOUR, rows="rates", columns=[last])
    header, found = table_of(spec, {"four": replace(collection, runs=runs)})
    assert header == ["method", "lr=0.03", "lr=0.1", "lr=0.3", "takes"]
    assert found == [
        ["fedavg", "70.00", "50.00", "60.00", "0.03 (edge of the grid)"],
        ["fedmrn", "not run", "50.00", "55.00", "0.3 (edge of the grid)"],
        ["drive", "20.00", "not run", "not run", "0.03"],
        ["topk", "40.00", "60.00", "60.00", "0.1"],
    ]
    twice = replace(collection, runs=[*runs, rated("fedavg", 0.1, 0.9, **{"method.scale": "auto"})])
    with pytest.raises(ConfigError, match=r"fedavg is there twice with lr=0\.1"):
        table_of(spec, {"four": twice})
    with pytest.raises(ConfigError, match="one column is needed"):
        table_of(replace(spec, columns=[last, last]), {"four": collection})


def test_ranges_of_rounds_as_rows(collection: Collection) -> None:
    columns = [Column(value="accuracy", of="fedavg", head="a"), Column(value="difference", of="fedmrn", head="b")]
    header, found = table_of(
        TableSpec(records=FOUR, rows="rounds", rounds=["1-2", "4"], columns=columns), {"four": collection}
    )
    assert header == ["rounds", "a", "b"]
    assert [row[0] for row in found] == ["1 to 2", "4"]
    assert found[1][1] == "85.00±5.00"


def test_runs_as_rows_and_a_choice_of_them(collection: Collection) -> None:
    found = rows(
        collection, rows="runs", where={"method": ["fedmrn"], "seed": [1, 3]}, columns=["seeds", "method.scale"]
    )
    assert found == [["1", "auto"], ["3", "auto"]]
    assert rows(collection, where={"method.scale": [""]}, columns=["method"]) == [["fedavg"]]


def test_what_is_not_there_is_said(collection: Collection) -> None:
    runs = [*collection.runs, stored("topk", 1, [0.5]), stored("topk", 2, [0.5, 0.5], up=None)]
    more = Collection(title="x", runs=runs)
    columns = [Column(value="accuracy", rounds="2"), Column(value="difference", rounds="3"), "mask bits", "nothing"]
    assert rows(more, where={"method": ["topk"]}, columns=columns) == [
        ["50.00 (1 of 2 seeds)", "not run", "not run", "-"]
    ]


def test_what_was_stated_stands_where_there_is_no_curve(collection: Collection) -> None:
    mean = stored("qsgd", 1, [], up=None, down=None, stated={"accuracy last": "85.02±0.02", "up MB": 3.0, "dice": 0.5})
    more = Collection(title="x", runs=[*collection.runs, mean])
    columns = [
        Column(value="accuracy", rounds="last"),
        "up MB",
        "up saved",
        "dice",
        Column(value="accuracy", rounds="1"),
    ]
    assert rows(more, where={"method": ["qsgd"]}, columns=columns) == [["85.02±0.02", "3.00", "5.3x", "0.5", "not run"]]


def test_labels_say_what_differs_and_nothing_else() -> None:
    runs = [
        stored("fedavg", 1, [0.5], set={"train.rounds": 3}),
        stored("fedmrn", 1, [0.5], set={"train.rounds": 3, "method.scale": 0.5}),
        stored("fedmrn", 1, [0.5], set={"train.rounds": 3}),
        stored("fedmrn", 2, [0.5], set={"train.rounds": 3}),
        stored("fedmrn", 1, [0.5], label="a prototype"),
    ]
    groups = seed_groups([*runs, runs[0]])
    assert [(group.label, group.seeds) for group in groups] == [
        ("fedavg", "1"),
        ("fedmrn, scale 0.5", "1"),
        ("fedmrn", "1-2"),
        ("a prototype", "1"),
    ]


def test_names_and_order(collection: Collection) -> None:
    found = rows(collection, columns=["setting", "method"], order=["fedmrn"], names={"fmnist-iid": "IID"})
    assert found == [["IID", "fedmrn"], ["IID", "fedavg"]]


def test_a_reference_under_another_setting(collection: Collection) -> None:
    moved = [replace(run, setting="fmnist-both") if run.method == "fedmrn" else run for run in collection.runs]
    said = {"where": {"method": ["fedmrn"]}, "columns": [Column(value="by seed", rounds="4"), "up saved"]}
    assert rows(replace(collection, runs=moved), **said) == [["not run", "not run"]]
    here = rows(replace(collection, runs=moved), like={"fmnist-both": "fmnist-iid"}, **said)
    assert here == rows(collection, **said) == [["+2.00 -1.00 +3.00", "30.8x"]]


def test_a_stated_table() -> None:
    collections = {"four": Collection(title="x", header=["a"], rows=[["1"], ["2"]])}
    assert table_of(TableSpec(records=FOUR, rows="stated"), collections) == (["a"], [["1"], ["2"]])


@pytest.mark.parametrize(
    ("words", "expected"),
    [("", (1, 12)), ("last", (12, 12)), ("last 10", (3, 12)), ("last 20", (1, 12)), ("7", (7, 7)), ("2-5", (2, 5))],
)
def test_rounds_in_words(words: str, expected: tuple[int, int]) -> None:
    assert rounds_of(words, 12) == expected


@pytest.mark.parametrize("words", ["0", "5-2", "a", "last x", "last 0", "1-", "-", "1-2-3", "first"])
def test_rounds_that_are_none(words: str) -> None:
    with pytest.raises(ConfigError, match="are not of the form"):
        rounds_of(words, 12)


def test_a_run_that_ends_early_has_no_value(collection: Collection) -> None:
    groups = seed_groups(collection.runs)
    assert value_of(collection.runs[0], "accuracy", "3-9") is None
    assert paired(groups[1], groups[0], "5") == []


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"records": ["five"]}, "records 'five' do not exist"),
        ({"columns": [{"value": "difference", "against": "sgd"}]}, "against = 'sgd': 0 of fedavg, fedmrn"),
        ({"rows": "stated"}, "one collection with a table of its own"),
        ({"rows": "rounds", "rounds": ["1"], "columns": [{"value": "accuracy", "of": "sgd"}]}, "of = 'sgd'"),
    ],
)
def test_what_a_table_cannot_have(collection: Collection, said, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        table_of(TableSpec(**{"records": FOUR, **said}), {"four": collection})


CELL = {"records": FOUR, "where": {"method": ["fedmrn"]}, "value": "accuracy", "rounds": "4"}
CLAIM = {"claim": "c", "measured": "it has {} %", "verdict": "holds", "more": "m", "cells": [CELL]}


def test_claims(collection: Collection) -> None:
    header, found = claims_of(ClaimsSpec(rows=[CLAIM]), {"four": collection})
    assert header == ["claim", "measured here", "verdict", "more"]
    assert found == [["c", "it has 86.33±5.86 %", "**holds**", "m"]]


@pytest.mark.parametrize(
    ("change", "match"),
    [({"measured": "{} {}"}, "does not fit its 1 cells"), ({"cells": [{**CELL, "where": {}}]}, "2 groups of runs")],
)
def test_claims_that_say_too_much(collection: Collection, change, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        claims_of(ClaimsSpec(rows=[{**CLAIM, **change}]), {"four": collection})
