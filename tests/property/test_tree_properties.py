"""For any shape of tree, any order and any number of threads, the bytes of the new model are those of one server."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import LAYOUT, Client, Shape, clients_of, fill, server_of, updates

import fedmrn.numerics.threads
from fedmrn.server import Clipping

CLIENTS = 7
leaves = st.permutations(range(CLIENTS))


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Any tree over clients in any order: cut in places, and parts put under nodes, several times."""
    parts: list[Client | Shape] = [*draw(leaves)]
    for _ in range(draw(st.integers(0, 5))):
        a, b = sorted(draw(st.tuples(st.integers(0, len(parts)), st.integers(0, len(parts)))))
        if a < b:
            parts[a:b] = [tuple(parts[a:b])]
    return tuple(parts)


@pytest.fixture(params=["fedmrn", "fedmrn-s", "fedavg", "fedpm", "topk", "signsgd-vote", "fedsparsify-global"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("hold", [0, CLIENTS * 9, 1 << 26])
def test_any_tree_is_one_server(name: str, hold: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fedmrn.numerics.threads, "PIECE", 1)  # threads are used for small models too

    @settings(deadline=None, max_examples=12, database=None)
    @given(shapes(), st.lists(st.integers(0, CLIENTS - 1), max_size=3), st.sampled_from([1, 2, 3]))
    def check(shape: Shape, silent: list[int], threads: int) -> None:
        assert sorted(clients_of(shape)) == [*range(CLIENTS)]
        clipping = Clipping(hold=hold)
        one, tree = server_of(name, clipping=clipping), server_of(name, clipping=clipping, threads=threads)
        for number in (1, 2):
            whole, root = one.begin(number, range(CLIENTS)), tree.begin(number, range(CLIENTS))
            sent = {c: data for c, data in updates(whole).items() if c not in silent}
            for client, data in sent.items():
                whole.add(client, data)
            fill(root, shape, sent, LAYOUT, threads)
            assert np.array_equal(whole.finish(), root.finish())
            assert one.carried.caps == tree.carried.caps
            assert one.observed == tree.observed

    check()
