"""Edge servers: who answers where, what reaches the root, and what an assignment may be."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from trees import LAYOUT, LEAN, SECRET, fill, server_of, updates

from fedmrn.errors import (
    ConfigError,
    DuplicateFrameError,
    EmptyRoundError,
    FrameError,
    LimitError,
    MalformedFrameError,
    UnknownClientError,
    WrongKeyError,
    WrongKindError,
    WrongLayoutError,
    WrongRoundError,
)
from fedmrn.methods import method
from fedmrn.server import EdgeRound, Round, Server, node
from fedmrn.server.partials import open_partial
from fedmrn.wire.frame import Frame, Kind, Limits
from fedmrn.wire.layout import Layout
from fedmrn.wire.traffic import UNKNOWN

CLIENTS = ("ann", "bob", "cyd", 7)


def begun(name: str = "fedmrn", layout: Layout = LAYOUT) -> tuple[Round, dict[int | str, bytes]]:
    """A second round, in which sums are summed."""
    server = server_of(name, layout=layout)
    first = server.begin(1, CLIENTS)
    for client, data in updates(first).items():
        first.add(client, data)
    first.finish()
    round_ = server.begin(2, CLIENTS)
    return round_, updates(round_)


def edges(round_: Round) -> dict[str, EdgeRound]:
    assigned = round_.assign({"a": ["ann", "bob"], "b": ["cyd"]})
    return {name: EdgeRound.from_bytes(data, round_.layout, threads=1) for name, data in assigned.items()}


def test_an_edge_sends_the_broadcasts_that_the_root_would_send() -> None:
    round_, _ = begun()
    edge = edges(round_)["a"]
    assert edge.clients == ("ann", "bob")
    assert [edge.broadcast(c) for c in edge.clients] == [round_.broadcast(c) for c in edge.clients]
    with pytest.raises(UnknownClientError):
        edge.broadcast("cyd")


def test_broadcasts_that_differ_come_from_the_root() -> None:
    round_ = server_of("fedmrn", down="grid").begin(1, CLIENTS)
    with pytest.raises(ConfigError, match="hand on the root's broadcasts"):
        edges(round_)["a"].broadcast("ann")


def test_who_answers_twice_is_refused_whatever_the_order() -> None:
    round_, sent = begun()
    edge, other = edges(round_).values()
    edge.add("ann", sent["ann"])
    with pytest.raises(DuplicateFrameError):
        edge.add("ann", sent["ann"])
    for elsewhere in (other, round_):
        with pytest.raises(UnknownClientError):
            elsewhere.add("ann", sent["ann"])
    round_.merge("a", edge.partial())
    assert round_.answered == {"ann"}
    with pytest.raises(DuplicateFrameError, match="sent its sum already"):
        round_.merge("a", edge.partial())
    with pytest.raises(WrongRoundError, match="sent already"):
        edge.add("bob", sent["bob"])
    with pytest.raises(UnknownClientError, match="answers at edge a"):
        round_.add("bob", sent["bob"])
    round_.add(7, sent[7])
    assert round_.answered == {"ann", 7}


def test_the_clients_of_a_dead_edge_answer_elsewhere_and_count_once() -> None:
    """They send the bytes that they sent to the edge that died; its sum comes late, under either name."""
    alone, sent = begun()
    for client in CLIENTS:
        alone.add(client, sent[client])
    expected = alone.finish().tobytes()
    round_, _ = begun()
    dead = edges(round_)["a"]
    for client in ("ann", "bob"):
        dead.add(client, sent[client])
    late = dead.partial()
    assert round_.give_up("a") == ("ann", "bob")
    with pytest.raises(UnknownClientError, match="edge a was given up: its clients answer elsewhere"):
        round_.merge("a", late)
    again = EdgeRound.from_bytes(round_.assign({"again": ["bob"]})["again"], LAYOUT, threads=1)
    with pytest.raises(UnknownClientError, match="answers at edge again"):
        round_.add("bob", sent["bob"])
    with pytest.raises(WrongKeyError):
        round_.merge("again", late)
    for client in ("ann", 7):
        round_.add(client, sent[client])
    again.add("bob", sent["bob"])
    round_.merge("again", again.partial())
    round_.give_up("b")
    round_.add("cyd", sent["cyd"])
    with pytest.raises(UnknownClientError):
        round_.merge("a", late)
    assert round_.answered == {*CLIENTS}
    assert round_.refused == {
        (UNKNOWN, "UnknownClientError"): 2,
        (UNKNOWN, "WrongKeyError"): 1,
        (1, "UnknownClientError"): 1,
    }
    assert round_.finish().tobytes() == expected


def test_what_cannot_be_given_up() -> None:
    round_, sent = begun()
    edge = edges(round_)["a"]
    inner = EdgeRound.from_bytes(round_.assign({"c": [7]})["c"], LAYOUT, threads=1)
    inner.assign({"deep": [7]})
    assert inner.give_up("deep") == (7,)
    inner.add(7, sent[7])
    inner.partial()
    with pytest.raises(WrongRoundError):
        inner.give_up("deep")
    round_.merge("a", edge.partial())
    with pytest.raises(ConfigError, match="its sum is in already"):
        round_.give_up("a")
    round_.give_up("b")
    for name in ("b", "nobody", ""):
        with pytest.raises(ConfigError, match="no clients to give back"):
            round_.give_up(name)
    with pytest.raises(ConfigError, match="a name of its own"):
        round_.assign({"b": ["cyd"]})
    round_.merge("c", inner.partial())
    round_.finish()
    with pytest.raises(WrongRoundError):
        round_.give_up("c")


def test_an_edge_that_is_given_up_while_its_sum_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    round_, sent = begun()
    edge = edges(round_)["a"]
    edge.add("ann", sent["ann"])

    def opened(*args: Any) -> Any:
        part = open_partial(*args)
        round_.give_up("a")
        return part

    monkeypatch.setattr(node, "open_partial", opened)
    with pytest.raises(UnknownClientError, match="given up"):
        round_.merge("a", edge.partial())
    assert not round_.aggregator.count
    round_.add("ann", sent["ann"])


def test_a_round_that_is_begun_again_with_others() -> None:
    """The indices of a late sum are others' now: it would count those, and its own clients once more where they are."""
    round_, sent = begun()
    dead = edges(round_)["a"]
    for client in ("ann", "bob"):
        dead.add(client, sent[client])
    again = round_._server.begin(2, ("cyd", 7, "ann", "bob"))
    again.assign({"a": ["cyd", 7]})
    with pytest.raises(WrongKeyError, match="begun again with other clients"):
        again.merge("a", dead.partial())
    assert not again.aggregator.count


def test_a_round_that_is_begun_again_as_it_was(tmp_path: Path) -> None:
    """The root was killed: its edges go on, and send the new one the sums that they have."""
    alone, sent = begun()
    for client in CLIENTS:
        alone.add(client, sent[client])
    round_, _ = begun()
    edge, other = edges(round_).values()
    round_._server.save(tmp_path)
    server = Server.load(tmp_path, LAYOUT, round_._server.scheme, threads=1)
    again = server.begin(2, server.asked)
    again.assign({"a": ["bob", "ann"], "b": ["cyd"]})
    for client in ("bob", "ann"):
        edge.add(client, sent[client])
    other.add("cyd", sent["cyd"])
    again.add(7, sent[7])
    for name, node_ in (("b", other), ("a", edge)):
        again.merge(name, node_.partial())
    assert again.finish().tobytes() == alone.finish().tobytes()


def test_a_partial_sum_is_sent_again_as_it_was() -> None:
    round_, sent = begun()
    edge = edges(round_)["a"]
    edge.add("bob", sent["bob"])
    assert edge.partial() == edge.partial()


def test_one_sum_has_one_encoding() -> None:
    parts = []
    for order in (("ann", "bob"), ("bob", "ann")):
        round_, sent = begun()
        edge = edges(round_)["a"]
        for client in order:
            edge.add(client, sent[client])
        parts.append(edge.partial())
    assert parts[0] == parts[1]


def test_an_edge_nobody_answers_at_says_so() -> None:
    round_, _ = begun()
    for name, edge in edges(round_).items():
        found = round_.merge(name, edge.partial())
        assert found.weight == found.members.size == 0
    assert [floor.frames for floor in round_.traffic] == [0, 2]
    with pytest.raises(EmptyRoundError):
        round_.finish()


def test_what_came_in_reaches_the_root() -> None:
    server = server_of("fedmrn")
    round_ = server.begin(1, range(6))
    sent = updates(round_)
    assigned = round_.assign({"north": range(4), "south": [4]})
    north = EdgeRound.from_bytes(assigned["north"], LAYOUT, threads=1)
    deep = EdgeRound.from_bytes(north.assign({"far": [0, 1]})["far"], LAYOUT, threads=1)
    with pytest.raises(FrameError):
        deep.add(1, b"FM")
    for client in (0, 1):
        deep.add(client, sent[client])
    for client in (2, 3):
        north.add(client, sent[client])
    with pytest.raises(FrameError):
        deep.add(0, sent[0])
    with pytest.raises(FrameError):
        deep.add("who?", sent[0])
    far = deep.partial()
    north.merge("far", far)
    with pytest.raises(FrameError):
        north.merge("far", far)
    up = north.partial()
    found = round_.merge("north", up)
    assert found.members.tolist() == [0, 1, 2, 3]
    assert found.weights.tolist() == [Frame.from_bytes(sent[c]).weight for c in range(4)]
    clients, inner, top = round_.traffic
    assert clients.frames == 4
    assert clients.bytes == sum(len(sent[c]) for c in range(4))
    account = Frame.from_bytes(sent[0]).account()
    assert (clients.coded, clients.header) == (4 * account["coded"], 4 * account["header"])
    assert (clients.refused, clients.refused_bytes) == (3, 2 * len(sent[0]) + 2)
    assert (inner.frames, inner.bytes, inner.refused, inner.refused_bytes) == (1, len(far), 1, len(far))
    assert (top.frames, top.bytes) == (1, len(up))
    assert round_.refused == {
        (0, "DuplicateFrameError"): 1,
        (1, "TruncatedFrameError"): 1,
        (UNKNOWN, "DuplicateFrameError"): 1,
        (UNKNOWN, "UnknownClientError"): 1,
    }


def test_a_refused_sum_is_counted_where_it_came() -> None:
    round_, _ = begun()
    with pytest.raises(FrameError):
        round_.merge("nobody", b"FMRN")
    assert [floor.refused for floor in round_.traffic] == [0, 1]


@pytest.mark.parametrize(
    ("assigned", "match"),
    [
        ({"a": ["dan"]}, "was not asked here"),
        ({"a": ["ann"], "b": ["ann"]}, "assigned to edge a, and to b"),
        ({"a": ["ann", "ann"]}, "assigned to edge a, and to a"),
        ({"a": []}, "no client"),
        ({"": ["ann"]}, "a name of its own"),
    ],
)
def test_assignments_that_cannot_be(assigned: dict[str, list[str]], match: str) -> None:
    round_, sent = begun()
    with pytest.raises(ConfigError, match=match):
        round_.assign(assigned)
    round_.add("ann", sent["ann"])  # nothing was assigned
    with pytest.raises(ConfigError, match="answered already"):
        round_.assign({"a": ["ann"]})


def test_nobody_is_assigned_where_the_round_does_not_fit_an_assignment() -> None:
    scheme = method("fedmrn").scheme({})
    server = Server(LAYOUT, scheme, np.zeros(LAYOUT.size, np.float32), SECRET, limits=Limits(max_weight=1 << 62))
    round_ = server.begin(1, CLIENTS)
    with pytest.raises(ConfigError, match=r"4 clients of up to 4611686018427387904 are too heavy; lower Limits"):
        round_.assign({"a": ["ann"]})
    assert set(updates(round_)) == {*CLIENTS}
    round_.add("ann", updates(round_)["ann"])


def test_an_edge_is_given_up_while_another_is_assigned() -> None:
    """Whoever reads the clients of the new edge slowly does not undo what came between."""
    round_, sent = begun()
    edges(round_)
    given: list[Thread] = []

    def slowly() -> Iterator[str | int]:
        given.append(Thread(target=round_.give_up, args=("a",)))
        given[0].start()
        given[0].join(0.2)
        yield 7

    round_.assign({"c": slowly()})
    given[0].join()
    for client in ("ann", "bob"):
        round_.add(client, sent[client])
    with pytest.raises(UnknownClientError, match="answers at edge c"):
        round_.add(7, sent[7])


def test_edges_can_be_assigned_one_after_the_other() -> None:
    round_, _ = begun()
    round_.assign({"a": ["ann"]})
    round_.assign({"b": ["bob"]})
    with pytest.raises(ConfigError, match="a name of its own"):
        round_.assign({"a": ["cyd"]})
    with pytest.raises(ConfigError, match="assigned to edge a, and to c"):
        round_.assign({"c": ["ann"]})


def test_public_models_are_held_by_those_below() -> None:
    one, tree = server_of("fedmrn", down="grid"), server_of("fedmrn", down="grid")
    for number in (1, 2):
        round_, other = one.begin(number, range(4)), tree.begin(number, range(4))
        sent = updates(round_)
        fill(other, ((0, 1), (2,)), sent, LAYOUT)
        for client in (0, 1, 2):
            round_.add(client, sent[client])
        assert np.array_equal(round_.finish(), other.finish())
    assert one.publisher is not None
    assert tree.publisher is not None
    assert one.publisher.snapshot().held == tree.publisher.snapshot().held != {}
    assert [one.begin(3, range(4)).broadcast(c) for c in range(4)] == [
        tree.begin(3, range(4)).broadcast(c) for c in range(4)
    ]


def test_an_assignment_is_for_one_model_and_no_other_message_is_one() -> None:
    round_, sent = begun()
    data = round_.assign({"a": ["ann"]})["a"]
    with pytest.raises(WrongLayoutError):
        EdgeRound.from_bytes(data, LEAN)
    for other in (sent["ann"], round_.broadcast("ann")):
        with pytest.raises(WrongKindError):
            EdgeRound.from_bytes(other, LAYOUT)


@pytest.mark.parametrize("name", ["fedmrn", "fedsparsify-global", "fedavg"])
def test_a_damaged_assignment_is_refused_or_another_one(name: str) -> None:
    """Every byte of what is assigned, with the checksum made again."""
    data = begun(name)[0].assign({"a": ["ann", 7]})["a"]
    frame = Frame.from_bytes(data)
    start = len(data) - 4 - len(frame.sections[-1].body)
    for at in range(start, len(data) - 4):
        for change in (1, 0x80, 0xFF):
            new = bytearray(data)
            new[at] ^= change
            new[-4:] = zlib.crc32(new[:-4]).to_bytes(4, "little")
            try:
                EdgeRound.from_bytes(bytes(new), LAYOUT, threads=1)
            except FrameError:
                continue
    for cut in range(start, len(data) - 4):
        section = frame.sections[-1]
        short = bytes(section.body)[: cut - start]
        sections = (*frame.sections[:-1], type(section)(0, section.role, section.group, 2, section.params, short))
        cut_frame = Frame(Kind.ASSIGNMENT, frame.method, 2, frame.noise_key, frame.layout_digest, 0, sections)
        with pytest.raises(MalformedFrameError):
            EdgeRound.from_bytes(cut_frame.to_bytes(), LAYOUT)


def test_more_clients_than_it_has_bytes_for() -> None:
    frame = Frame.from_bytes(begun()[0].assign({"a": ["ann"]})["a"])
    last = frame.sections[-1]
    sections = (*frame.sections[:-1], type(last)(0, last.role, last.group, 1 << 60, last.params, last.body))
    forged = Frame(Kind.ASSIGNMENT, frame.method, 2, frame.noise_key, frame.layout_digest, 0, sections)
    with pytest.raises((MalformedFrameError, LimitError)):
        EdgeRound.from_bytes(forged.to_bytes(), LAYOUT)
