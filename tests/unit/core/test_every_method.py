"""Every row of the table runs through bytes: broadcast, update, fold, next state; the order of arrival is nothing."""

from itertools import permutations

import numpy as np
import pytest
from core_examples import CLIENTS, LAYOUT, fitting, noisy, play, start
from numpy.typing import NDArray

from fedmrn.layout import Group, Layout, TensorSpec
from fedmrn.methods import METHODS

F32 = NDArray[np.float32]
WEIGHTS = {"ann": 3, "bob": 50, "cyd": 7}
CODED = LAYOUT.span(Group.CODED)
ROUNDS = (40, 90)

each_method = pytest.mark.parametrize("name", METHODS)


def _run(name: str, order: tuple[str, ...], weights: dict[str, int]) -> list[F32]:
    """The states after two rounds, late enough that schedules have begun to prune; then the models."""
    server, states = start(name), []
    for number in ROUNDS:
        vectors = {c: fitting(server, noisy(LAYOUT.size, 10 * number + CLIENTS.index(c))) for c in order}
        states.append(play(server, number, vectors, weights).finish())
    return [*states, *server.models(ROUNDS[-1])]


@each_method
def test_the_order_of_arrival_changes_no_bit(name: str) -> None:
    runs = [b"".join(s.tobytes() for s in _run(name, order, WEIGHTS)) for order in permutations(CLIENTS)]
    assert len(set(runs)) == 1
    others = _run(name, CLIENTS[:2], WEIGHTS)
    assert b"".join(s.tobytes() for s in others) != runs[0]


@each_method
def test_each_round_moves_every_group_and_stays_finite(name: str) -> None:
    before = start(name).state
    first, second, *models = _run(name, CLIENTS, WEIGHTS)
    for group in Group:
        span = LAYOUT.span(group)
        assert not np.array_equal(before[span], first[span])
        assert not np.array_equal(first[span], second[span])
    assert models
    for state in (first, second, *models):
        assert state.dtype == np.float32
        assert state.shape == (LAYOUT.size,)
        assert np.isfinite(state).all()


@each_method
def test_weights_count_unless_clients_count_alike(name: str) -> None:
    weighted, alike = (_run(name, CLIENTS, w)[0] for w in (WEIGHTS, dict.fromkeys(CLIENTS, 1)))
    dense = LAYOUT.span(Group.DENSE)
    assert np.array_equal(weighted[dense], alike[dense]) is not METHODS[name].weighted


@each_method
@pytest.mark.parametrize("group", [Group.CODED, Group.DENSE])
def test_models_with_a_single_group(name: str, group: Group) -> None:
    layout = Layout.of([TensorSpec("w", (4, 3), group)])
    server = start(name, layout)
    before = server.state.copy()
    vectors = {c: fitting(server, noisy(12, i + 1)) for i, c in enumerate(CLIENTS)}
    after = play(server, 60, vectors, WEIGHTS).finish()
    assert np.isfinite(after).all()
    assert not np.array_equal(after, before)
    assert all(m.shape == (12,) for m in server.models(60))
