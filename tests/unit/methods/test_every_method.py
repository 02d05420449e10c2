"""Every row of the table runs through bytes: broadcast, update, fold, next state; the order of arrival is nothing."""

from itertools import permutations

import numpy as np
import pytest
from core_examples import CLIENTS, LAYOUT, SECRET, fitting, noisy, play, start
from numpy.typing import NDArray

from fedmrn.methods import METHODS, method
from fedmrn.server import Clipping, Server
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update

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
    for group in (Group.CODED, Group.DENSE, Group.STATS):
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


@pytest.mark.parametrize(("clipping", "times"), [(None, 1), (Clipping(), 5)])
@pytest.mark.parametrize(("side", "step"), [("float16", 2.0**-11), ("levels", 1 / 127), ("float8", 1 / 16)])
@pytest.mark.parametrize("name", ["fedavg", "fedmrn", "fedmrn-mrc", "topk-ef"])
def test_side_data_in_fewer_bits_moves_the_state_nearly_alike(
    name: str, side: str, step: float, clipping: Clipping | None, times: int
) -> None:
    """By the rounding of a value, or by a level of its norm; the coded group does not notice.

    Where values are clipped, the bounds move too: the median by as much as a value, and twice a distance from it by
    four times that.
    """
    states = []
    for how in ("float32", side):
        scheme = method(name).scheme(None, how)
        server = Server(LAYOUT, scheme, noisy(LAYOUT.size, 1, 1.0), SECRET, run=bytes(16), clipping=clipping)
        vectors = {c: noisy(LAYOUT.size, 10 + CLIENTS.index(c)) for c in CLIENTS}
        states.append(play(server, 1, vectors, WEIGHTS).finish())
    exact, rough = states
    coded = exact[CODED]
    assert rough[CODED].tobytes() == coded.tobytes()
    apart = np.abs(exact - rough)[CODED.stop :]
    assert 0 < apart.max() <= times * step * 0.01 * np.sqrt(5) + 2.0**-24  # the norm of five values, each at most 0.01


def test_masks_that_shrink_run_through_bytes() -> None:
    """A larger layer whose update asks for little: the frame is shorter, and the state the same as with plain masks."""
    layout = Layout.of([TensorSpec("w", (40, 50), Group.CODED), TensorSpec("b", (40,), Group.CODED)])
    states, lengths = [], []
    for coding in ("raw", "entropy"):
        server = start("fedmrn", layout, coding=coding, scale=0.01)
        vectors = {c: noisy(layout.size, i, 0.0005) for i, c in enumerate(CLIENTS)}
        round_ = server.begin(1, CLIENTS)
        frames = [
            encode_update(Frame.from_bytes(round_.broadcast(c)), layout, vectors[c], weight=2, sampling_key=9)
            for c in CLIENTS
        ]
        lengths.append(
            [len(round_.add(c, f.to_bytes()).sections[0].body) for c, f in zip(CLIENTS, frames, strict=True)]
        )
        states.append(round_.finish().tobytes())
    assert states[0] == states[1]
    raw, coded = lengths
    assert raw == [255] * 3
    assert max(coded) < 200
