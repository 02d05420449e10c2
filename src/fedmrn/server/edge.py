"""An edge server's side of a round: it folds its clients' updates, and sends up one partial sum.

edge = EdgeRound.from_bytes(data, layout)   # what the server above sent: `Round.assign`
send("ann", edge.broadcast("ann"))
edge.add("ann", update)                     # refuses what the root would refuse
send_up(edge.partial())                     # `Round.merge` takes it
"""

from threading import Lock

from fedmrn.errors import ConfigError, MalformedFrameError, WrongRoundError
from fedmrn.numerics.threads import cores
from fedmrn.server.aggregate import Aggregator
from fedmrn.server.assignment import Assignment
from fedmrn.server.node import Node, Post
from fedmrn.server.partials import write_partial
from fedmrn.whole import whole
from fedmrn.wire.frame import Frame, Kind
from fedmrn.wire.layout import Layout


class EdgeRound(Node):
    """One round at an edge server, or at an inner node of a deeper tree, which assigns its clients to edges of its own.

    Args:
        assignment: from the server above.
        threads: for the fold of models above a million elements; by default all cores.

    Raises:
        FrameError: the state that clients are shown, or what they are told, does not decode.
    """

    def __init__(self, assignment: Assignment, *, threads: int | None = None) -> None:
        plan = assignment.plan
        aggregator = Aggregator.part_of(plan, assignment.state(), threads)
        rows = assignment.clients
        post = Post(
            keys={client: key for _, client, key in rows},
            indices={client: index for index, client, _ in rows},
            secret=assignment.key,
            labels=("edge",),
            shared_key=assignment.shared_key,
            sections=assignment.sections,
            exact=assignment.exact,
            theta=assignment.theta(),
        )
        super().__init__(post, aggregator)
        self._key_here, self._sent, self._sending = assignment.key, b"", Lock()

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, layout: Layout, *, threads: int | None = None) -> "EdgeRound":
        """Return the round that an assignment says (`Round.assign`).

        Args:
            data: the assignment; it must not change meanwhile.
            layout: of the model.
            threads: as for the class.

        Raises:
            FrameError: it is no assignment, damaged, or of another model: one subclass for each cause.
        """
        threads = cores() if threads is None else whole(threads, "the threads of a fold")
        assignment = Assignment.from_bytes(data, layout)
        try:
            return cls(assignment, threads=threads)
        except ConfigError as error:  # its plan contradicts itself
            raise MalformedFrameError(f"the plan of an assignment cannot be: {error}") from error

    def broadcast(self, client: int | str) -> bytes:
        """Return the bytes of this client's broadcast: those that the root would send.

        Raises:
            UnknownClientError: the client was not assigned here.
            ConfigError: clients are not all sent the same state; broadcasts come from the root then.
        """
        key = self._key(client)
        if not self._post.exact:
            raise ConfigError("clients of this round are not all sent the same state: hand on the root's broadcasts")
        plan = self.aggregator.plan
        sections = self._post.sections
        return Frame(Kind.BROADCAST, plan.method, plan.round, key, plan.layout.digest, 0, sections).to_bytes()

    def partial(self) -> bytes:
        """Return the sum of what came in, and take nothing any more; called again, it returns the same bytes.

        Raises:
            ConfigError: the codec observes something that it does not announce (`Codec.observables`).
        """
        with self._sending:
            if not self._sent:
                self._closed = True
                senders = {m.sender: m.index for m in map(self._member, self.clients)}
                self._sent = write_partial(
                    self.aggregator, self._key_here, senders, self.traffic, self.refused
                ).to_bytes()
            return self._sent

    def _check_open(self) -> None:
        if self._closed:
            raise WrongRoundError(f"the sum of round {self.number} was sent already")
