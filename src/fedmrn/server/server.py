"""The server: what it keeps from round to round, and the rounds that it begins."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import ConfigError, RoundOrderError
from fedmrn.server.calibration import Calibration
from fedmrn.server.caps import Clipping
from fedmrn.server.carried import Carried
from fedmrn.server.publisher import Publisher
from fedmrn.server.round import Round
from fedmrn.server.saved import RUN_SIZE, Saved, read_saved, write_saved
from fedmrn.server.scheme import Scheme
from fedmrn.server.statistics import check_moments, check_start
from fedmrn.whole import whole
from fedmrn.wire.frame import DEFAULT_LIMITS, Limits
from fedmrn.wire.layout import Group, Layout
from fedmrn.wire.private import check_sums_alone


class Server:
    """The server's side of a federation; needs no training framework.

    Args:
        layout: of the model.
        scheme: codecs and server rule.
        state: what the server starts from, float32, shape (layout.size,): `initial` of a model, or the state of an
            earlier round. It is copied.
        secret: 16 to 64 bytes that only the server knows; noise keys are derived from it.
        run: 16 bytes that name this run, and no other with the same secret: noise keys are derived from it too, so that
            frames of another run are refused. By default random.
        round: the last finished round; rounds after it can be begun.
        clipping: how one client's influence is bounded; None bounds it by the limits alone.
        limits: what is accepted from clients.
        threads: for the fold of models above a million elements; by default all cores.
        carried: what the server kept beside the state after that round; by default what a run starts with.

    Attributes:
        asked: the clients of the round that was begun last, while it is not finished.
        observed: what the codec says of each coded tensor in the last finished round, such as the density of masks:
            name of the observable -> name of the tensor -> mean over clients.
        publisher: of public models, where the scheme has a grid for them.

    Raises:
        ConfigError: if the state or the moments are not of the layout's shape, the state is not finite, has a negative
            variance or is not one of the scheme's rule, the secret, the run's id or the round's number cannot be,
            clipping is off where it is what scales are learned by, or a server with public models that count from the
            run's start goes on without it, or more than masks would travel where they are private.
    """

    def __init__(
        self,
        layout: Layout,
        scheme: Scheme,
        state: NDArray[np.float32],
        secret: bytes,
        *,
        run: bytes | None = None,
        round: int = 0,
        clipping: Clipping | None = Clipping(),  # noqa: B008 - immutable
        limits: Limits = DEFAULT_LIMITS,
        threads: int | None = None,
        carried: Carried | None = None,
    ) -> None:
        _check_vector("the state", state, layout.size)
        if not isinstance(secret, bytes) or not 16 <= len(secret) <= 64:
            found = len(secret) if isinstance(secret, bytes) else f"a value of type {type(secret).__name__}"
            raise ConfigError(f"the server's secret must have 16 to 64 bytes, got {found}")
        run = os.urandom(RUN_SIZE) if run is None else run
        if len(run) != RUN_SIZE:
            raise ConfigError(f"a run's id has {RUN_SIZE} bytes, got {len(run)}")
        round = whole(round, "the last finished round", least=0, most=(1 << 32) - 1)
        scheme.rule.check(state[layout.span(Group.CODED)])
        check_sums_alone(layout, scheme.theta)
        self.layout, self.scheme = layout, scheme
        self.secret, self.run, self.limits, self.threads = secret, run, limits, threads
        self.clipping = clipping
        if clipping is None and scheme.codecs[Group.CODED].told_multiple is not None:
            raise ConfigError(
                'scale = "auto" with noise_key = "round" learns scales as clipping does: leave clipping on, '
                "or set scale to a number"
            )
        self.carried = carried = Carried.at_start(layout, scheme) if carried is None else carried
        shape, moments = (scheme.optimizer.slots, layout.trainable), carried.moments
        if moments.shape != shape or moments.dtype != np.float32:
            raise ConfigError(f"the moments must be float32 of shape {shape}, got {moments.dtype} {moments.shape}")
        check_start(layout, state)
        check_moments(moments)
        self.observed: dict[str, dict[str, float]] = {}
        self.asked: tuple[int | str, ...] = ()
        self._round = round
        self._begun: Round | None = None
        self._keep(state.copy())
        grid = scheme.grid
        if grid is not None and grid.from_start and round and carried.public is None:
            raise ConfigError(
                "public models count from the weights that the run started with, and a server that goes on after "
                f"round {round} is told none: give it what was carried from that round (`carried`)"
            )
        self.publisher = None if grid is None else Publisher(layout, grid, run, self._state, carried.public)

    def _keep(self, state: NDArray[np.float32]) -> None:
        state.flags.writeable = False  # a round adds updates to the state that its clients were shown
        self._state = state

    @property
    def state(self) -> NDArray[np.float32]:
        """The exact state, which no client needs to have seen; read-only. For another one, make another server."""
        return self._state

    @property
    def round(self) -> int:
        """The number of the last finished round, 0 before the first."""
        return self._round

    @property
    def shown(self) -> NDArray[np.float32]:
        """What broadcasts are made of, float32, shape (layout.size,): the public model, or else the state itself."""
        return self.state if self.publisher is None else self.publisher.current.values

    @staticmethod
    def initial(layout: Layout, scheme: Scheme, model: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the state of a run that starts with this model, both float32, shape (layout.size,).

        Raises:
            ConfigError: the model is not such a vector, or has a value that is NaN or infinite.
        """
        _check_vector("the model", model, layout.size)
        check_start(layout, model)
        state, coded = model.copy(), layout.span(Group.CODED)
        state[coded] = scheme.rule.start(state[coded])
        return state

    def models(self, round: int) -> Iterator[NDArray[np.float32]]:
        """Yield the models that what is shown stands for after this round: one, or samples; results are averaged."""
        return self.scheme.rule.models(self.layout, self.shown, round)

    def begin(self, round: int, clients: Iterable[int | str]) -> Round:
        """Start a round with these clients; one that was begun before, and not finished, cannot be finished any more.

        Args:
            round: its number, 1 to 2^32 - 1, above that of the last finished round.
            clients: a name or a whole number each, of any integer type.

        Raises:
            RoundOrderError: this round, or a later one, is finished already.
            ConfigError: the number or a client is none of these, or there is no client.
        """
        round = whole(round, "the number of a round, numbered from 1,", most=(1 << 32) - 1)
        if round <= self._round:
            raise RoundOrderError(
                f"round {round} cannot be begun: round {self._round} is finished already; "
                f"go on with round {self._round + 1}, or make a new Server for a new run"
            )
        begun = Round(self, round, [_named(c) for c in clients])
        self._begun, self.asked = begun, begun.clients
        return begun

    def calibrate(self, clients: Iterable[int | str]) -> Calibration:
        """Begin to ask these clients for the statistics of the newest model; see `fedmrn.server.calibration`.

        Raises:
            ConfigError, RoundOrderError: as for `Calibration`.
        """
        return Calibration(self, [_named(client) for client in clients])

    def take_statistics(self, state: NDArray[np.float32]) -> None:
        """Go on from the same state with other statistics; called by `Calibration.finish`."""
        self._keep(state)
        self.carried = self._published(self.carried)

    def _published(self, carried: Carried) -> Carried:
        """Choose the public model of the new state, and return what is carried with it."""
        if self.publisher is None:
            return carried
        self.publisher.publish(self._state)
        return replace(carried, public=self.publisher.snapshot())

    def is_current(self, round: Round) -> bool:
        """Whether this is the round begun last, and not finished: the state is what its clients were shown."""
        return round is self._begun and round.before is self._state

    def advance(
        self, round: Round, state: NDArray[np.float32], carried: Carried, observed: dict[str, dict[str, float]]
    ) -> None:
        """Take over what the current round made of the state; called by `Round.finish`."""
        self._keep(state)
        self.carried, self.observed = self._published(carried), observed
        self._round, self._begun, self.asked = round.number, None, ()

    def save(self, folder: Path) -> None:
        """Write all that the server keeps to `checkpoint.bin` in a folder: as a whole, or not at all.

        The file holds the secret: only its owner can read it. Saved after a round has begun, it tells whom that round
        asked, so that it can be begun again with the same clients; answers that came already are not in it.

        Raises:
            OSError: it cannot be written.
        """
        carried = self.carried
        if self.publisher is not None:  # who lost what it held is known since the round
            carried = replace(carried, public=self.publisher.snapshot())
        write_saved(
            folder,
            Saved(
                layout=self.layout,
                method=self.scheme.method,
                round=self.round,
                run=self.run,
                secret=self.secret,
                state=self.state,
                carried=carried,
                asked=self.asked,
            ),
        )

    @classmethod
    def load(cls, folder: Path, layout: Layout, scheme: Scheme, **options: Any) -> Self:
        """Return the server that `save` wrote to a folder.

        Args:
            folder: where `checkpoint.bin` lies.
            layout, scheme: as they were; both are checked as far as the file tells.
            **options: clipping, limits, threads, as for a new server.

        Raises:
            RunError: the file is missing, damaged, or of another model or method.
        """
        found = read_saved(folder, layout, scheme)
        server = cls(
            layout,
            scheme,
            found.state,
            found.secret,
            run=found.run,
            round=found.round,
            carried=found.carried,
            **options,
        )
        server.asked = found.asked
        return server


def _check_vector(what: str, vector: NDArray[np.float32], size: int) -> None:
    if not isinstance(vector, np.ndarray):
        raise ConfigError(f"{what} must be a float32 array of shape ({size},), got type {type(vector).__name__}")
    if vector.shape != (size,) or vector.dtype != np.float32:
        raise ConfigError(f"{what} must be float32 of shape ({size},), got {vector.dtype} {vector.shape}")


def _named(client: int | str) -> int | str:
    most = (1 << 64) - 1
    if not isinstance(client, str):
        return whole(client, "a client that is no text", least=-most, most=most)
    try:
        client.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"a client's name cannot be written as UTF-8: {client!r:.60}") from error
    return client
