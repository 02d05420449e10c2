"""No sequence of legal updates makes a model unusable: whatever side data, broadcast, optimizer and values."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fedmrn.errors import UnusableModelError
from fedmrn.methods import METHODS, method
from fedmrn.methods.method import DOWN, GRID, SIDE
from fedmrn.server import Server
from fedmrn.server.optimizer import Adam, Momentum, Scaled
from fedmrn.wire.frame import Frame
from fedmrn.wire.held import Held
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update, read_state

LAYOUT = Layout.of(
    [
        TensorSpec("w", (13,), Group.CODED),
        TensorSpec("scale", (5,), Group.DENSE),
        TensorSpec("mean", (5,), Group.STATS),
        TensorSpec("var", (3,), Group.VARIANCE),
        TensorSpec("other", (2,), Group.VARIANCE),
    ]
)
CODED, VARIANCE = LAYOUT.span(Group.CODED), LAYOUT.span(Group.VARIANCE)
numbers = st.one_of(
    st.floats(-1, 1, width=32),
    st.floats(-65536, 65536, width=32),
    st.sampled_from([0.0, -0.0, 65536.0, -65536.0, 41.6, -41.6, 1e-45]),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)
vectors = hnp.arrays(np.float32, LAYOUT.size, elements=numbers)
rates = st.sampled_from([1e-3, 1.0, 1e3, 1e20, 1e38])
optimizers = st.one_of(
    st.builds(Scaled, rates),
    st.builds(Momentum, rates, st.just(0.9)),
    st.builds(Adam, rates, st.just(0.9), st.just(0.99), st.just(1e-3)),
)
starts = hnp.arrays(np.float32, VARIANCE.stop - VARIANCE.start, elements=st.floats(0, 3.0000000054977558e38, width=32))


@settings(deadline=None, max_examples=300)
@given(
    name=st.sampled_from([n for n, row in METHODS.items() if not row.scheme().rule.needs_zeros]),
    side=st.sampled_from(list(SIDE)),
    down=st.sampled_from(list(DOWN)),
    optimizer=optimizers,
    variances=starts,
    sent=st.lists(st.lists(vectors, min_size=1, max_size=3), min_size=1, max_size=5),
)
def test_a_state_is_usable_after_any_legal_updates(
    name: str,
    side: str,
    down: str,
    optimizer: Scaled,
    variances: NDArray[np.float32],
    sent: list[list[NDArray[np.float32]]],
) -> None:
    assume(down != GRID or method(name).scheme().rule.shows_weights)
    scheme = method(name).scheme(None, side, down, optimizer)
    held = [Held() for _ in range(3)]
    state = np.linspace(0, 1, LAYOUT.size, dtype=np.float32)
    state[VARIANCE] = variances
    server = Server(LAYOUT, scheme, Server.initial(LAYOUT, scheme, state), b"sixteen letters!")
    for number, updates in enumerate(sent, 1):
        round_ = server.begin(number, range(len(updates)))
        before = server.state.copy()
        for client, vector in enumerate(updates):
            broadcast = Frame.from_bytes(round_.broadcast(client))  # it can always be written
            shown = read_state(broadcast, LAYOUT, held[client])
            exact = server.shown if down == GRID else server.state
            assert shown[VARIANCE].tobytes() == exact[VARIANCE].tobytes()
            legal = vector.copy()
            legal[CODED] = legal[CODED].clip(0, 1) if name == "fedpm" else legal[CODED].clip(-1e3, 1e3)
            answer = encode_update(broadcast, LAYOUT, legal, weight=1, sampling_key=client, state=shown)
            round_.add(client, answer.to_bytes())
        try:
            round_.finish()
        except UnusableModelError:
            assert server.state.tobytes() == before.tobytes()
        for found in (server.state, *server.models(number)):
            assert np.isfinite(found).all()
            assert (found[VARIANCE] >= 0).all()
        assert np.isfinite(server.carried.moments).all()
