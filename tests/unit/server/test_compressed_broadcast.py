"""Broadcasts that lose something: what clients get, that it is their own, and what the server keeps."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fedmrn.codecs import Raw
from fedmrn.errors import ConfigError
from fedmrn.methods import METHODS, method
from fedmrn.methods.method import DOWN, GRID
from fedmrn.server import Server
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update, read_state
from fedmrn.wire.plain import plain

LAYOUT = Layout.of(
    [
        TensorSpec("w", (64, 64), Group.CODED),
        TensorSpec("scale", (8,), Group.DENSE),
        TensorSpec("mean", (8,), Group.STATS),
    ]
)
CODED = LAYOUT.span(Group.CODED)
# Error of the coded group against theory: EDEN's D / (1 - D); a block of 4,096 comes within some per cent of it, and
# the spread of one draw is about sqrt(2 / 4096) of it.
THEORY = {"eden4": 0.00959, "eden3": 0.03578, "eden2": 0.1331}


def model() -> NDArray[np.float32]:
    return np.random.Generator(np.random.Philox(3)).standard_normal(LAYOUT.size).astype(np.float32)


def server(down: str, name: str = "fedmrn", state: NDArray[np.float32] | None = None) -> Server:
    scheme = method(name).scheme(down=down)
    return Server(
        LAYOUT,
        scheme,
        Server.initial(LAYOUT, scheme, model() if state is None else state),
        b"sixteen letters!",
        run=bytes(16),
    )


def received(server_: Server, client: int = 1, number: int = 1) -> NDArray[np.float32]:
    return read_state(Frame.from_bytes(server_.begin(number, [1, 2]).broadcast(client)), LAYOUT)


def test_an_exact_broadcast_is_exact() -> None:
    assert received(server("float32")).tobytes() == model().tobytes()


def test_sixteen_bits_round_to_the_nearest() -> None:
    assert np.array_equal(received(server("float16")), model().astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("down", THEORY)
def test_what_rotation_loses_is_what_theory_says(down: str) -> None:
    state = model()
    got = received(server(down))
    error = float(((got - state)[CODED] ** 2).sum() / (state[CODED] ** 2).sum())
    assert abs(error / THEORY[down] - 1) < 6 * np.sqrt(2 / 4096) + 0.05
    others = slice(CODED.stop, LAYOUT.size)
    assert np.array_equal(got[others], state[others].astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("down", THEORY)
def test_each_client_and_round_has_an_error_of_its_own(down: str) -> None:
    state, here = model(), server(down)
    errors = [(received(here, client, number) - state)[CODED] for client in (1, 2) for number in (1, 2)]
    for i, a in enumerate(errors):
        for b in errors[:i]:
            cosine = float(a @ b / np.sqrt((a @ a) * (b @ b)))
            assert abs(cosine) < 6 / np.sqrt(CODED.stop)
    assert received(server(down)).tobytes() == received(server(down)).tobytes()


@pytest.mark.parametrize("down", DOWN)
def test_sizes_fall(down: str) -> None:
    size = len(server(down).begin(1, [1]).broadcast(1))
    bits = {"float32": 32, "float16": 16, "eden4": 4, "eden3": 3, "eden2": 2, "grid": 8}[down]
    assert size < CODED.stop * bits / 8 + 400  # headers, and the tables of the grid


@pytest.mark.parametrize("down", DOWN)
@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if not row.scheme().rule.needs_zeros])
def test_every_method_runs_a_round(name: str, down: str) -> None:
    """The server adds what clients hand over to its own exact state; an update of nothing moves nothing."""
    if not method(name).scheme().rule.shows_weights and down == GRID:
        return
    here = server(down, name)
    before = here.state.copy()
    round_ = here.begin(1, [1, 2])
    for client in (2, 1):
        broadcast = Frame.from_bytes(round_.broadcast(client))
        start = read_state(broadcast, LAYOUT)
        vector = np.zeros(LAYOUT.size, np.float32)
        vector[CODED] = start[CODED].clip(0, 1) if name == "fedpm" else 0
        round_.add(client, encode_update(broadcast, LAYOUT, vector, weight=1, sampling_key=client).to_bytes())
    after = round_.finish()
    others = slice(CODED.stop, LAYOUT.size)
    assert np.array_equal(after[others], before[others])
    if not name.endswith(("-s", "-s-mrc")) and name not in ("fedpm", "fedbat"):  # a signed mask always moves by n
        moved = np.abs(after - before) >= 1e-6
        assert moved.mean() <= (0.02 if name == "fedmrn-mrc" else 0)  # two clients, and a per cent each is all but none


@pytest.mark.parametrize("name", ["fedsparsify-global", "fedsparsify-local"])
def test_methods_that_must_see_zeros_refuse(name: str) -> None:
    for down in DOWN:
        if down == "float32":
            assert method(name).scheme(down=down).exact_broadcast
        else:
            with pytest.raises(ConfigError, match="which weights are zero"):
                method(name).scheme(down=down)


def test_names() -> None:
    with pytest.raises(ConfigError, match="broadcast 'eden5' does not exist; did you mean"):
        method("fedmrn").scheme(down="eden5")
    assert set(method("fedmrn").scheme().down.values()) == {Raw()}


@pytest.mark.parametrize("down", [down for down in DOWN if down != GRID])
@pytest.mark.parametrize("value", [65520.0, -1e6, 3e38])
@pytest.mark.parametrize("group", [Group.CODED, Group.DENSE, Group.STATS])
def test_a_group_that_does_not_fit_its_codec_travels_exactly_and_is_counted(
    down: str, value: float, group: Group
) -> None:
    state = model()
    state[LAYOUT.span(group).start + 3] = value
    frame = Frame.from_bytes(server(down, "fedavg", state).begin(1, [1]).broadcast(1))
    got, fits = read_state(frame, LAYOUT), down.startswith("eden") and group is Group.CODED and abs(value) < 2.0**96
    where = LAYOUT.span(group)
    assert np.isfinite(got).all()
    assert np.array_equal(got[where], state[where]) is not fits
    section = frame.select(Role.STATE, group)
    assert section is not None
    assert (section.codec == 0) is not fits
    if not fits:
        assert frame.account()[group.name.lower()] == 4 * (where.stop - where.start)
    for other in {Group.CODED, Group.DENSE, Group.STATS} - {group}:  # the others travel as they did
        section = frame.select(Role.STATE, other)
        assert section is not None
        assert (section.codec == 0) is (down == "float32")
    assert len(plain(frame).to_bytes()) == sum(plain(frame).account().values())
