"""Metrics from outside are bounded, and their mean lies between them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmrn.errors import WrongMessageError
from fedmrn.http.metrics import MetricMeans, read_metrics, weight_of, write_metrics

WRONG = [
    "[]",
    "{",
    "1",
    "é",
    "[" * 4000,
    '{"a":"1"}',
    '{"a":null}',
    '{"a":[1]}',
    '{"a":NaN}',
    '{"a":-Infinity}',
    '{"a":1e999}',
    '{"a":true}',
    '{"":1}',
    '{"a\\n":1}',
    '{"a":1' + "0" * 400 + "}",
    json.dumps({"a" * 65: 1}),
    json.dumps({f"{i}": i for i in range(33)}),
    '{"a":1' + " " * 4096 + "}",
]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_metrics_is_refused(text: str) -> None:
    with pytest.raises(WrongMessageError):
        read_metrics(text)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = read_metrics(text)
    except WrongMessageError:
        return
    assert all(np.isfinite(value) for value in found.values())


@given(
    st.dictionaries(
        st.text("abcdefgh-_ ", min_size=1, max_size=64), st.floats(allow_nan=False, allow_infinity=False), max_size=32
    )
)
def test_metrics_come_as_they_were_sent(metrics: dict[str, float]) -> None:
    try:
        text = write_metrics(metrics)
    except WrongMessageError:  # longer than a header may be
        assert len(json.dumps(metrics)) > 3900
        return
    assert read_metrics(text) == metrics


def test_numbers_of_numpy_will_do() -> None:
    assert write_metrics({"a": np.float32(0.5), "b": np.int64(3)}) == '{"a":0.5,"b":3}'


@pytest.mark.parametrize("metrics", [{"a": float("nan")}, {"a": "1"}, {"": 1.0}, {1: 1.0}, {"a": None}])
def test_what_cannot_travel_is_not_sent(metrics: dict[str, float]) -> None:
    with pytest.raises(WrongMessageError):
        write_metrics(metrics)


@pytest.mark.parametrize("weight", [0, -1, 0.5, 1 << 21, 1e300])
def test_a_weight_is_a_whole_number(weight: float) -> None:
    with pytest.raises(WrongMessageError, match="num-examples"):
        weight_of({"num-examples": weight})
    with pytest.raises(WrongMessageError, match="num-examples"):
        weight_of({})
    assert weight_of({}, 7) == 7


def test_the_mean_is_of_the_form_that_most_have() -> None:
    means = MetricMeans()
    assert means.mean() == {}
    means.add(0, 1, {"loss": 1.0, "num-examples": 1})
    means.add(1, 3, {"loss": 2.0})
    means.add(2, 100, {"other": 9.0})
    means.add(3, 100, {})
    assert means.mean() == {"loss": 1.75}


@given(st.lists(st.tuples(st.integers(1, 1 << 20), st.floats(allow_nan=False, allow_infinity=False)), min_size=1))
def test_the_mean_lies_between_the_values(rows: list[tuple[int, float]]) -> None:
    means = MetricMeans()
    for client, (weight, value) in enumerate(rows):
        means.add(client, weight, {"a": value})
    assert min(v for _, v in rows) <= means.mean()["a"] <= max(v for _, v in rows)
