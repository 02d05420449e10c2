"""A node of a tree of servers: who answers at it, who at one of its edges, and the sum of both.

The root is a `Round`, every other node an `EdgeRound`. A server without edges is a tree of one node.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from threading import Lock

from fedmrn.errors import ConfigError, DuplicateFrameError, FrameError, UnknownClientError, WrongRoundError
from fedmrn.numerics.rng import derive_key
from fedmrn.server.aggregate import Aggregator
from fedmrn.server.assignment import Assignment, client_records
from fedmrn.server.partials import Member, form_of, open_partial, read_partial
from fedmrn.wire.frame import Frame, Kind, Section
from fedmrn.wire.partial import PARTIAL_LIMITS, Partial
from fedmrn.wire.private import check_private_weight
from fedmrn.wire.reader import bytes_of
from fedmrn.wire.traffic import UNKNOWN, Floors, FloorTraffic, Refusals, joined_floors

Client = int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """Where a node stands: whom it may hear of, and what it makes keys and broadcasts of.

    Attributes:
        keys: of each client below it the noise key.
        indices: of each client below it the index in the round.
        secret, labels: its edges' keys are derived from.
        shared_key: whether all clients have one noise key.
        sections: of broadcasts: templates, terms, and the state where all are sent the same.
        exact: whether the state is among them because it is what all are sent.
        theta: that clients are told; 0 where masks are not private.
    """

    keys: Mapping[Client, int]
    indices: Mapping[Client, int]
    secret: bytes | int
    labels: tuple[str | int, ...]
    shared_key: bool
    sections: tuple[Section, ...]
    exact: bool
    theta: float = 0.0


@dataclass(frozen=True, slots=True)
class _Edge:
    """An edge of a node: its key, and who may be in its sum, by index."""

    key: int
    members: Mapping[int, Member]


class Node:
    """Takes the updates of its clients and the partial sums of its edges, and refuses what does not belong.

    Args:
        post: where it stands.
        aggregator: of the round, without updates.

    Attributes:
        number: of the round.
        aggregator: the sum of what came in.
        answered: the clients whose updates are in it.
    """

    def __init__(self, post: Post, aggregator: Aggregator) -> None:
        self.number, self.aggregator = aggregator.plan.round, aggregator
        self.answered: set[Client] = set()
        self._post, self._closed = post, False
        self._edge_of: dict[Client, str] = {}
        self._edges: dict[str, _Edge] = {}
        self._merged: set[str] = set()
        self._given_up: set[str] = set()
        self._floors: Floors = ()
        self._refused: Counter[tuple[int, str]] = Counter()
        self._counting, self._merging = Lock(), Lock()  # of what came in; of who answers at which edge

    @property
    def clients(self) -> tuple[Client, ...]:
        """Who is asked to answer here or below."""
        return tuple(self._post.keys)

    @cached_property
    def _client_at(self) -> Mapping[int, Client]:
        return {index: client for client, index in self._post.indices.items()}

    @property
    def traffic(self) -> Floors:
        """What came in below this node, by floor: clients' frames first, then the partial sums of edges."""
        return self._floors

    @property
    def refused(self) -> Refusals:
        """What was refused below this node: (index of the client in `clients` of the root, error) -> how often."""
        return dict(self._refused)

    def assign(self, edges: Mapping[str, Iterable[Client]]) -> dict[str, bytes]:
        """Let clients answer at edge servers from now on, and return what each edge is to be sent.

        Args:
            edges: name of each edge -> its clients, and those of all edges below it.

        Raises:
            ConfigError: a name is empty or was assigned before, given up or not; a client is none of this node's,
                answered already, or is assigned twice; an edge has no client; the round is too large for an
                assignment. Nothing is assigned then.
            WrongRoundError: the round is finished.
        """
        listed = {edge: [*clients] for edge, clients in edges.items()}
        with self._merging:
            self._check_open()
            taken, found = dict(self._edge_of), dict[str, Assignment]()
            for edge, clients in listed.items():
                if not edge or edge in self._edges or edge in self._given_up:
                    raise ConfigError(f"an edge needs a name of its own, got {edge!r}")
                for client in clients:
                    if client not in self._post.keys or client in self.answered:
                        raise ConfigError(f"client {client} was not asked here, or answered already")
                    if client in taken:
                        raise ConfigError(f"client {client} is assigned to edge {taken[client]}, and to {edge}")
                    taken[client] = edge
                if not clients:
                    raise ConfigError(f"edge {edge} is assigned no client")
                found[edge] = self._assignment(edge, clients)
            frames = {edge: assigned.frame() for edge, assigned in found.items()}
            for edge, assigned in found.items():
                members = {index: self._member(client) for index, client, _ in assigned.clients}
                self._edges[edge] = _Edge(assigned.key, members)
            self._edge_of = taken
        return {edge: frame.to_bytes() for edge, frame in frames.items()}

    def give_up(self, edge: str) -> tuple[Client, ...]:
        """Expect no sum of an edge any more, and return its clients: they may answer here, or be assigned again.

        They send what they sent to that edge, and nobody counts twice: its sum is refused, should it come after all.

        Raises:
            ConfigError: no clients are assigned to this edge, or its sum is in already.
            WrongRoundError: the round is finished, or the partial sum was sent.
        """
        with self._merging:
            self._check_open()
            if edge not in self._edges or edge in self._merged:
                raise ConfigError(f"edge {edge!r} has no clients to give back, or its sum is in already")
            clients = tuple(client for client, where in self._edge_of.items() if where == edge)
            self._given_up.add(edge)  # the name, and the key that is made of it, are nobody else's in this round
            del self._edges[edge]
            self._edge_of = {client: where for client, where in self._edge_of.items() if where != edge}
        return clients

    def _member(self, client: Client) -> Member:
        key = self._post.keys[client]
        return Member(self._post.indices[client], client if self._post.shared_key else key, key)

    def _assignment(self, edge: str, clients: Iterable[Client]) -> Assignment:
        rows = sorted((self._post.indices[client], client, self._post.keys[client]) for client in clients)
        return Assignment(
            key=self._edge_key(edge, rows),
            plan=self.aggregator.plan,
            shared_key=self._post.shared_key,
            clients=rows,
            sections=self._post.sections,
            exact=self._post.exact,
        )

    def _edge_key(self, edge: str, rows: Iterable[tuple[int, Client, int]]) -> int:
        """Return an edge's key. Its clients are in it: a round may be begun again with others, under the same names."""
        who = blake2b(client_records(rows), digest_size=16).hexdigest()
        return derive_key(self._post.secret, *self._post.labels, edge, who)

    def add(self, client: Client, data: bytes | memoryview) -> Frame:
        """Check and fold a client's update; return the frame as parsed. Several threads may do so at the same time.

        Raises:
            UnknownClientError, DuplicateFrameError: this client was not asked to answer here, or answered already.
            WrongRoundError: the round is finished, or the partial sum was sent.
            WrongParametersError: clients were told theta, and its weight is not 1.
            FrameError: one subclass for each cause; nothing has changed then.
        """
        try:
            frame = self._fold(client, data)
        except FrameError as error:
            self._note_refusal(0, self._post.indices.get(client, UNKNOWN), error, data)
            raise
        self._note((FloorTraffic.of(frame.account()),))
        return frame

    def _fold(self, client: Client, data: bytes | memoryview) -> Frame:
        key = self._key(client)
        self._check_open()
        self._check_here(client)
        if client in self.answered:
            raise DuplicateFrameError(f"client {client} answered already in round {self.number}")
        if not isinstance(data, bytes):
            data = bytes(bytes_of(data))  # frames may wait, and must not change meanwhile
        frame = Frame.from_bytes(data, kind=Kind.UPDATE, limits=self.aggregator.plan.limits)
        check_private_weight(frame.weight, self._post.theta)
        self.aggregator.add(frame, key, client if self._post.shared_key else None)
        self.answered.add(client)
        self._folded(client)
        return frame

    def merge(self, edge: str, data: bytes | memoryview) -> Partial:
        """Check and add an edge's partial sum; return what it says. Several threads may do so at the same time.

        Raises:
            UnknownClientError: no clients are assigned to this edge (it was given up), or it sums others.
            DuplicateFrameError: it sent one already.
            WrongRoundError: the round is finished, or the partial sum was sent.
            FrameError: one subclass for each cause; nothing has changed then.
        """
        try:
            found, account = self._take(edge, data)
        except FrameError as error:
            self._note_refusal(max(1, len(self._floors) - 1), UNKNOWN, error, data)
            raise
        below = found.floors or (FloorTraffic(),)  # a sum is never of the clients' floor, though nobody answered
        self._note((*below, FloorTraffic.of(account)), found.refused)
        return found

    def _take(self, edge: str, data: bytes | memoryview) -> tuple[Partial, Mapping[str, int]]:
        self._check_open()
        assigned = self._edge_named(edge)
        if edge in self._merged:
            raise DuplicateFrameError(f"edge {edge} sent its sum already in round {self.number}")
        if not isinstance(data, bytes):
            data = bytes(bytes_of(data))  # what waits is not copied
        form = form_of(self.aggregator, len(assigned.members))
        found = read_partial(data, self.aggregator, form, assigned.key, assigned.members)
        for weight in {*found.weights.tolist()}:
            check_private_weight(weight, self._post.theta)
        part = open_partial(found, self.aggregator, form, assigned.members)
        with self._merging:
            self._edge_named(edge)  # it may have been given up meanwhile
            if edge in self._merged:
                raise DuplicateFrameError(f"edge {edge} sent its sum already in round {self.number}")
            self.aggregator.merge(part)
            self._merged.add(edge)
        for index in found.members.tolist():
            client = self._client_at[index]
            self.answered.add(client)
            self._folded(client)
        return found, Frame.from_bytes(data, kind=Kind.PARTIAL, limits=PARTIAL_LIMITS).account()

    def _edge_named(self, edge: str) -> _Edge:
        found = self._edges.get(edge)
        if found is None:
            gone = edge in self._given_up
            why = "was given up: its clients answer elsewhere" if gone else "was assigned no client"
            raise UnknownClientError(f"in round {self.number} edge {edge} {why}")
        return found

    def _folded(self, client: Client) -> None:
        """Note that a client's update is in the sum; a node that does not need to know does nothing."""

    def _note(self, floors: Floors, refused: Refusals | None = None) -> None:
        with self._counting:
            self._floors = joined_floors(self._floors, floors)
            self._refused.update(refused or {})

    def _note_refusal(self, floor: int, index: int, error: FrameError, data: bytes | memoryview) -> None:
        size = memoryview(data).nbytes if isinstance(data, bytes | bytearray | memoryview) else 0
        self._note(
            (*(FloorTraffic(),) * floor, FloorTraffic(refused=1, refused_bytes=size)),
            {(index, type(error).__name__): 1},
        )

    def _check_open(self) -> None:
        if self._closed:
            raise WrongRoundError(f"round {self.number} is finished")

    def _key(self, client: Client) -> int:
        if client not in self._post.keys:
            raise UnknownClientError(f"client {client} was not asked in round {self.number}")
        return self._post.keys[client]

    def _check_here(self, client: Client) -> None:
        if client in self._edge_of:
            raise UnknownClientError(f"client {client} answers at edge {self._edge_of[client]}, and not here")
