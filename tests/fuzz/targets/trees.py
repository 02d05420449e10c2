"""Between the servers of a tree: a partial sum into a root, and an assignment into an edge."""

from functools import cache

import numpy as np

from fedmrn.errors import FrameError
from fedmrn.methods import METHODS
from fedmrn.numerics import packed
from fedmrn.server import EdgeRound, Round, Server, assignment, edge, node, partials
from fedmrn.server.assignment import Assignment
from fedmrn.server.partials import form_of
from fedmrn.wire import partial, reader, traffic
from fedmrn.wire.frame import Frame
from fedmrn.wire.messages import encode_update
from fedmrn.wire.partial import Partial

from .base import Target, require
from .frames import LAYOUT, reseal, start

_ROUNDS = {"fedmrn": 1, "fedmrn-s": 2, "fedavg": 2, "fedsparsify-local": 2, "fedpm": 1, "signsgd-vote": 2}
"""Methods, and the round in which an edge sums: in the first one updates wait."""
_BY_ID = {METHODS[name].id: name for name in _ROUNDS}
_CLIENTS = ("ann", "bob", "cyd")
_MODULES = (partial, traffic, reader, packed, partials, assignment, node, edge)


class _Tree:
    """A round whose edge has ann and cyd, and whose root has folded bob's update."""

    def __init__(self, name: str) -> None:
        self.server: Server = start(METHODS[name])
        for number in range(1, _ROUNDS[name] + 1):
            self.round: Round = self.server.begin(number, _CLIENTS)
            if number < _ROUNDS[name]:
                for client in _CLIENTS:
                    self.round.add(client, self.answer(client))
                self.round.finish()
        self.assigned = self.round.assign({"edge": ["ann", "cyd"]})["edge"]
        self.round.add("bob", self.answer("bob"))
        self.before = self.content()

    def answer(self, client: str) -> bytes:
        """What a client sends."""
        asked = Frame.from_bytes(self.round.broadcast(client))
        spread = np.linspace(0.009, 1e-5, LAYOUT.size)
        vector = np.where(self.round.shown != 0, spread, 0).astype(np.float32)
        return encode_update(asked, LAYOUT, vector, weight=len(client), sampling_key=ord(client[0])).to_bytes()

    def content(self) -> tuple[object, ...]:
        """All that a refused sum must not change."""
        whole = self.round.aggregator
        return (
            whole.sums.integers.tobytes(),
            len(whole.kept),
            tuple(whole.census.weights),
            (len(whole.census.scales), len(whole.census.values), len(whole.side.magnitudes)),
            tuple(whole.admission.senders),
            whole.total_weight,
            frozenset(self.round.answered),
        )


_trees: dict[str, _Tree] = {}


def _name(data: bytes) -> str:
    return _BY_ID.get(int.from_bytes(data[6:8], "little"), "fedmrn")


def _check_partial(data: bytes) -> None:
    name = _name(data)
    tree = _trees.pop(name, None) or _Tree(name)
    try:
        tree.round.merge("edge", data)
    except FrameError:
        require(tree.content() == tree.before, "a refused partial sum has changed the round")
        _trees[name] = tree
        return
    form = form_of(tree.round.aggregator, 2)
    found = Partial.read(Frame.from_bytes(data), form)
    require(found.frame(form).to_bytes() == data, "an accepted partial sum is written as other bytes")
    require(len(tree.round.answered) == 1 + found.members.size, "who answered is not who is in the sums")
    require(bool(np.isfinite(tree.round.finish()).all()), "the state after the round is not finite")


def _check_assignment(data: bytes) -> None:
    try:
        found = EdgeRound.from_bytes(data, LAYOUT, threads=1)
    except FrameError:
        return
    again = Assignment.from_bytes(data, LAYOUT).frame().to_bytes()
    require(again == data, "an accepted assignment is written as other bytes")
    found.partial()


@cache
def _partials() -> list[bytes]:
    found = []
    for name in _ROUNDS:
        for clients in (("ann", "cyd"), ("cyd",), ()):
            tree = _Tree(name)
            here = EdgeRound.from_bytes(tree.assigned, LAYOUT, threads=1)
            for client in clients:
                here.add(client, tree.answer(client))
            found.append(here.partial())
    return found


def _assignments() -> list[bytes]:
    return [_Tree(name).assigned for name in _ROUNDS]


PARTIAL = Target("partial", _check_partial, _partials, _MODULES, memory=1 << 19, repair=reseal)
ASSIGNMENT = Target("assignment", _check_assignment, _assignments, _MODULES, memory=1 << 19, repair=reseal)
