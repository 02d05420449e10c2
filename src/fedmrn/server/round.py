"""One round of the server: broadcasts, updates one at a time, and the step that the mean leads to."""

from collections.abc import Iterable
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import EncodeKeys
from fedmrn.errors import ConfigError, RoundOrderError, WrongRoundError
from fedmrn.numerics.rng import derive_key
from fedmrn.server.aggregate import Aggregator
from fedmrn.server.caps import RoundCaps, TellsScales
from fedmrn.server.carried import Carried
from fedmrn.server.node import Node, Post
from fedmrn.server.optimizer import Scaled
from fedmrn.server.rules import Sees
from fedmrn.server.statistics import check_round, move_variances
from fedmrn.server.summed import MaskSum
from fedmrn.server.summing import take_sum
from fedmrn.wire.frame import Frame, Kind
from fedmrn.wire.layout import Group, Layout
from fedmrn.wire.messages import state_sections, templates
from fedmrn.wire.terms import terms_section
from fedmrn.wire.told import largest_scale

if TYPE_CHECKING:
    from fedmrn.server.server import Server


class Round(Node):
    """One round: hands each client its broadcast, takes updates one at a time, refuses what does not belong.

    In a tree it takes the partial sums of edge servers too (`assign`, `merge`; `fedmrn.server.node`).

    Attributes:
        number: of the round.
        aggregator: the sum of its updates.
        answered: the clients whose updates were folded.
        caps: how much one client moves at most; None where only the limits bound it.
        before: the server's state when the round began.
        publisher: the server's, of public models; None where there are none.
    """

    def __init__(self, server: "Server", number: int, clients: Iterable[int | str]) -> None:
        self._server = server
        shared = server.scheme.shared_key
        labels = ("noise", server.run.hex(), number)
        keys = {c: derive_key(server.secret, *labels, *(() if shared else (c,))) for c in clients}
        if not keys:
            raise ConfigError("a round needs at least one client")
        if not 1 <= number < 1 << 32:
            raise ConfigError(f"rounds are numbered from 1 to 2^32 - 1, got {number}")
        self._finishing = Lock()
        self.before, self._shown = server.state, server.shown  # all of a round's clients are shown the same
        self.publisher = server.publisher
        self._public = None if self.publisher is None else self.publisher.current.number
        self._exact = state_sections(server.layout, self._shown) if server.scheme.exact_broadcast else None
        codecs, layout = server.scheme.codecs_at(number), server.layout
        self._templates = templates(layout, codecs)
        self.caps: RoundCaps | None = None
        coded = codecs[Group.CODED]
        if server.clipping is not None:
            multiple = coded.told_multiple
            told = None if multiple is None else TellsScales(multiple, largest_scale(coded, server.limits))
            self.caps = RoundCaps.of(
                server.carried.known(layout), server.clipping, layout, self._shown, len(keys), told
            )
        tells = self.caps is not None and layout.sizes(Group.CODED) and coded.sends_scales
        told_terms = (self.caps.told, self.caps.told_scales) if self.caps and tells else ()
        self._terms = terms_section(server.scheme.terms, *told_terms)
        aggregator = Aggregator(
            server.layout,
            self._templates,
            method=server.scheme.method,
            round=number,
            max_clients=len(keys),
            weighted=server.scheme.weighted,
            limits=server.limits,
            threads=server.threads,
            planes=server.scheme.rule.planes,
            state=self._shown,
            caps=self.caps,
        )
        exact = self._exact is not None
        needed = exact or any(codec.needs_state for codec in aggregator.admission.codecs.values())
        state = (self._exact or state_sections(layout, self._shown)) if needed else ()
        post = Post(
            keys=keys,
            indices={client: i for i, client in enumerate(keys)},
            secret=server.secret,
            labels=("edge", server.run.hex(), number),
            shared_key=shared,
            sections=self._templates + self._terms + state,
            exact=exact,
            theta=server.scheme.theta,
        )
        super().__init__(post, aggregator)

    @property
    def layout(self) -> Layout:
        """Of the model."""
        return self._server.layout

    @property
    def shown(self) -> NDArray[np.float32]:
        """What all clients of the round are shown, float32, shape (layout.size,)."""
        return self._shown

    def broadcast(self, client: int | str) -> bytes:
        """Return the bytes of this client's broadcast.

        Raises:
            UnknownClientError, RoundOrderError: as `broadcast_frame`.
        """
        return self.broadcast_frame(client).to_bytes()

    def broadcast_frame(self, client: int | str) -> Frame:
        """Return this client's broadcast as a frame: templates, terms, state; an exact state's bytes are shared by all.

        Raises:
            UnknownClientError: if the client is not in this round.
            RoundOrderError: there are public models, and the server has gone on to another round.
        """
        server = self._server
        key = self._key(client)
        state = self._exact
        if self.publisher is not None and self._public is not None:
            if not server.is_current(self):
                raise RoundOrderError(f"round {self.number} is over: its public model is not the server's any more")
            state = self.publisher.sections(client, self._public)  # which sees that it is not over meanwhile
        elif state is None:  # under keys of each client's own, unless it is shared: what coding loses averages out then
            keys = EncodeKeys(key, derive_key(server.secret, "broadcast", self.number, client))
            state = state_sections(server.layout, self._shown, server.scheme.down, keys)
        sections = self._templates + self._terms + state
        return Frame(Kind.BROADCAST, server.scheme.method, self.number, key, server.layout.digest, 0, sections)

    def add_sum(self, total: MaskSum) -> None:
        """Fold the updates of all clients that answered as one sum of masks (`fedmrn.secure`).

        Raises:
            UnknownClientError: a client of the sum was not asked, or answers at an edge.
            WrongRoundError, DuplicateFrameError, WrongParametersError: as `fedmrn.server.summing.take_sum`.
        """
        self._check_open()
        keys = [self._key(client) for client in total.clients]
        for client in total.clients:
            self._check_here(client)
        take_sum(self.aggregator, total, keys[0] if keys else 0)
        self.answered.update(total.clients)
        for client in total.clients:
            self._folded(client)

    def _folded(self, client: int | str) -> None:
        if self.publisher is not None and self._public is not None and self._server.is_current(self):
            self.publisher.folded(client, self._public)

    @np.errstate(over="ignore", invalid="ignore")  # what leaves float32 is found by `check_round`
    def finish(self) -> NDArray[np.float32]:
        """Move the server's state by the mean of what was folded, and return it.

        Raises:
            EmptyRoundError: if nothing was folded; the state stays.
            RoundOrderError: if another round was begun since; the state stays.
            UnusableModelError: if the new state or the moments are not finite; they stay as they were.
            WrongRoundError: if called twice.
        """
        with self._finishing:
            if self._closed:
                raise WrongRoundError(f"round {self.number} is finished")
            if not self._server.is_current(self):
                raise RoundOrderError(
                    f"round {self.number} cannot be finished: another one was begun after it, and its updates are "
                    "differences to what its own clients were shown"
                )
            return self._step()

    def _step(self) -> NDArray[np.float32]:
        server, aggregator = self._server, self.aggregator
        rule, coded = server.scheme.rule, server.layout.span(Group.CODED)
        aggregator.stop()
        self._closed = True
        more = [aggregator.finish_plane(plane) for plane in rule.planes[1:]]
        observed = aggregator.observed()
        seen = self._shown if rule.sees is Sees.SHOWN else server.state
        state = aggregator.close()  # the mean, and then in its place the state: three dense models at most
        stepped = rule.step(self.number, seen[coded], state[coded], *more)
        if np.may_share_memory(stepped, state):  # a rule may return the mean itself
            stepped = stepped.copy()
        changes = state[server.layout.span(Group.VARIANCE)].copy()
        state += server.state  # what clients did not see of it is not lost
        state[coded] = stepped
        move_variances(server.layout, server.state, changes, state)
        optimizer, trained = server.scheme.optimizer, slice(0, server.layout.trainable)
        moments, caps = server.carried.moments, server.carried.caps
        if optimizer != Scaled(1.0):
            moves, moments = optimizer.step(state[trained] - server.state[trained], moments)
            np.add(server.state[trained], moves, out=state[trained])
            state[coded] = rule.settle(state[coded], stepped)
        check_round(self.number, server.layout, state, moments)
        if self.caps is not None:
            caps = aggregator.census.next(server.carried.known(server.layout), self.caps)
        server.advance(self, state, Carried(moments, caps), observed)
        return state
