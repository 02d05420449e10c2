"""What a caller hands in by mistake is answered in the library's words: the type of error, one line, nothing long."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from core_examples import CLIENTS, LAYOUT, SECRET, begin, noisy
from torch import nn

from fedmrn import METHODS, Frame, Group, Layout, Limits, ModelLayout, Server, TensorSpec, attach, method
from fedmrn.codecs import Bernoulli, Levels, RandomCode, Rotated, Sparse, Ternary
from fedmrn.errors import ConfigError, EncodeError, FedmrnError, WrongMessageError
from fedmrn.torch import LocalRule
from fedmrn.wire.messages import encode_update

HUGE = [10**400, -(10**400), 10**5000]


def attached(steps: object) -> LocalRule:
    model = nn.Linear(3, 2)
    view, scheme = ModelLayout.of(model), method("fedmrn").scheme()
    server = Server(view.layout, scheme, Server.initial(view.layout, scheme, view.read()), SECRET)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return attach(model, optimizer, server.begin(1, ["ann"]).broadcast("ann"), steps=steps)  # type: ignore[arg-type]


def server(**options: Any) -> Server:
    options = {"state": noisy(LAYOUT.size, 1), "secret": SECRET, "run": bytes(16), **options}
    return Server(LAYOUT, method("fedmrn").scheme(), **options)


@contextmanager
def short_errors() -> Iterator[None]:
    """Whatever is raised inside has a message of one short line."""
    try:
        yield
    except FedmrnError as error:
        message = str(error)
        if len(message) > 300 or "\n" in message:
            pytest.fail(message[:400])
        raise


def refused(call: Callable[[], object], error: type[FedmrnError], words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert re.search(words, message), message
    assert len(message) < 300
    assert "\n" not in message


@pytest.mark.parametrize(
    "weight", [3, np.int64(3), np.uint64(3), np.int8(3), torch.tensor(3)], ids=lambda w: str(type(w))
)
def test_a_weight_is_of_any_integer_type(weight: Any) -> None:
    with pytest.warns(UserWarning, match="after 0 of 1 steps"):
        assert attached(1).finish(weight=weight).weight == 3


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (True, "whole number, got True of type bool"),
        (2.5, "whole number, got 2.5 of type float"),
        (2.0, "whole number, got 2.0 of type float"),
        ("3", "whole number, got '3' of type str"),
        (0, "at least 1, got 0"),
        (2**70, "too large: at most 18446744073709551615"),
        (10**5000, "too large.*about 5,000 digits"),
    ],
    ids=lambda value: str(value)[:20] if not isinstance(value, int) or value < 2**80 else "huge",
)
def test_another_weight_is_named(weight: Any, words: str) -> None:
    broadcast = Frame.from_bytes(begin().broadcast("ann"))
    vector = noisy(LAYOUT.size, 2)
    refused(lambda: encode_update(broadcast, LAYOUT, vector, weight=weight, sampling_key=1), EncodeError, words)


def test_an_update_is_a_vector_of_the_layout() -> None:
    broadcast = Frame.from_bytes(begin().broadcast("ann"))
    for vector, words in ((None, "got type NoneType"), ([0.0], "got type list"), (noisy(3, 1), r"got shape \(3,\)")):
        refused(lambda v=vector: encode_update(broadcast, LAYOUT, v, weight=1, sampling_key=1), EncodeError, words)


@pytest.mark.parametrize(
    ("steps", "words"), [(2.5, "got 2.5"), (0, "at least 1"), (-1, "at least 1"), (True, "got True")]
)
def test_steps_are_whole(steps: object, words: str) -> None:
    refused(lambda: attached(steps), ConfigError, f"steps.*{words}")
    assert attached(np.int64(4)).steps == 4


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (noisy(3, 1), r"shape \(29,\), got float32 \(3,\)"),
        (np.zeros(LAYOUT.size), "got float64"),
        (np.zeros((LAYOUT.size, 1), np.float32), r"\(29, 1\)"),
        (np.full(LAYOUT.size, np.nan, np.float32), "no usable model: tensor a.weight has nan in element 0"),
        ([0.0] * LAYOUT.size, "type list"),
        (None, "type NoneType"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["fedmrn", "fedpm"])
def test_a_run_starts_from_a_vector_of_the_layout(model: Any, words: str, name: str) -> None:
    refused(lambda: Server.initial(LAYOUT, method(name).scheme(), model), ConfigError, words)
    refused(lambda: server(state=model), ConfigError, words)


@pytest.mark.parametrize("secret", [None, "a text of 16 letters", 7, b"short"], ids=str)
def test_a_secret_is_bytes(secret: object) -> None:
    refused(lambda: server(secret=secret), ConfigError, "secret must have 16 to 64 bytes")


@pytest.mark.parametrize("round_", [0, -1, 2.5, "a", None, True, 2**32, *HUGE], ids=lambda r: str(type(r)))
def test_rounds_are_numbered(round_: Any) -> None:
    refused(lambda: server().begin(round_, CLIENTS), ConfigError, "number of a round")


def test_clients_are_names_or_whole_numbers() -> None:
    for client in (None, 2.5, b"ann", True):
        refused(lambda c=client: server().begin(1, [c]), ConfigError, "a client that is no text is a whole number")
    mine, theirs = server().begin(1, [3]), server().begin(np.int64(1), [np.int64(3)])
    assert mine.broadcast(3) == theirs.broadcast(np.int64(3)) == theirs.broadcast(3)


@pytest.mark.parametrize("data", [None, 3, "frame", [1, 2], {}], ids=lambda d: type(d).__name__)
def test_what_is_no_bytes_is_no_frame(data: Any) -> None:
    round_ = begin()
    refused(lambda: round_.add("ann", data), WrongMessageError, f"got a value of type {type(data).__name__}")
    refused(lambda: Frame.from_bytes(data), WrongMessageError, "hand over what came")
    assert not round_.answered


@pytest.mark.parametrize("name", [3, None, ["fedmrn"], *HUGE], ids=lambda n: type(n).__name__)
def test_a_method_is_named_by_a_word(name: Any) -> None:
    refused(lambda: method(name), ConfigError, "named by a word")


@pytest.mark.parametrize("name", METHODS)
def test_no_option_is_written_out_at_length(name: str) -> None:
    values = [*HUGE, None, [1], float("nan"), "x" * 5000, 2**64, {"n": 10**5000}, np.float32(0.5)]
    for option in method(name).options:
        for value in values:
            with suppress(ConfigError), short_errors():
                method(name).scheme({option: value})
    refused(lambda: method(name).scheme({3: 4}), ConfigError, "named by words")  # type: ignore[dict-item]
    refused(lambda: method(name).scheme(side=3), ConfigError, "side data 3 does not exist")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", HUGE, ids=["400 digits", "-400 digits", "5,000 digits"])
def test_long_numbers_are_not_written_out(value: int) -> None:
    terms = {"rho": value}
    for call in (
        lambda: Bernoulli(value),
        lambda: Levels(value),
        lambda: Levels(1, value),
        lambda: Sparse(0.5, value),
        lambda: Rotated(value),
        lambda: Ternary(value),
        lambda: Limits(max_bytes=-abs(value)),
        lambda: Limits(max_value=value),
        lambda: replace(method("fedbat").scheme(), terms=terms),
        lambda: Layout.of([TensorSpec("w", (value,), Group.CODED)]),
    ):
        refused(call, ConfigError, "digits|too large|not finite")


def test_limits_are_numbers() -> None:
    for value in (None, "3", True, 0, -1.0, float("nan"), float("inf")):
        refused(lambda v=value: Limits(max_value=v), ConfigError, "max_value is")
    for value in (None, 2.5, True, 0):
        refused(lambda v=value: Limits(max_weight=v), ConfigError, "max_weight is")
    assert type(Limits(max_value=np.float32(3)).max_value) is float  # numpy's would round what it is compared with


@pytest.mark.parametrize("limit", [5e-324, 1e-40, 0.1, 1e39, 1e300])
def test_any_limit_leaves_a_sum_that_works(limit: float) -> None:
    limits = Limits(max_value=limit)
    round_ = begin("fedavg", limits=limits)
    broadcast = Frame.from_bytes(round_.broadcast("ann"))
    update = np.full(LAYOUT.size, min(limit / 2, 1e37), np.float32)
    before = round_.broadcast_frame("ann")
    mine = encode_update(broadcast, LAYOUT, update, weight=3, sampling_key=1, limits=limits)
    round_.add("ann", mine.to_bytes())
    moved = round_.finish()
    assert np.isfinite(moved).all()
    assert before.round == 1
    if limit > 1:
        assert moved.tolist() == update.tolist()


def test_sizes_of_tensors_are_whole() -> None:
    for shape in ((2.5,), (-2,), (2**70,), (True,), (2**40, 2**40)):
        refused(lambda s=shape: Layout.of([TensorSpec("w", s, Group.CODED)]), ConfigError, "size of tensor w|elements")
    refused(lambda: Layout.of([TensorSpec("w", (1,) * 256, Group.CODED)]), ConfigError, "256 dimensions")


def test_a_random_code_names_what_is_wrong() -> None:
    masked = method("fedmrn-mrc").scheme().codecs[Group.CODED].masked  # type: ignore[attr-defined]
    refused(lambda: RandomCode(masked, 10**400), ConfigError, "400 digits")
