"""The server: what it keeps from round to round, and the rounds that it begins."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import ConfigError
from fedmrn.server.round import Round
from fedmrn.server.scheme import Scheme
from fedmrn.whole import whole
from fedmrn.wire.frame import DEFAULT_LIMITS, Limits
from fedmrn.wire.layout import Group, Layout


@dataclass(frozen=True)
class Carried:
    """What a server keeps from round to round beside its state.

    Attributes:
        moments: of the scheme's optimizer, float32, shape (slots, trained parameters).
    """

    moments: NDArray[np.float32]

    @classmethod
    def at_start(cls, layout: Layout, scheme: Scheme) -> "Carried":
        """Return what a server has before round 1."""
        return cls(scheme.optimizer.start(layout.trainable))


class Server:
    """The server's side of a federation; needs no training framework.

    Args:
        layout: of the model.
        scheme: codecs and server rule.
        state: what the server starts from, float32, shape (layout.size,): `initial` of a model, or the state of an
            earlier round.
        secret: 16 to 64 bytes that only the server knows; noise keys are derived from it.
        limits: what is accepted from clients.
        threads: for the fold of models above a million elements; by default all cores.
        carried: what the server kept beside the state after that earlier round; by default what a run starts with.

    Attributes:
        state: the exact state, which no client needs to have seen.
        observed: what the codec says of each coded tensor in the last finished round, such as the density of masks:
            name of the observable -> name of the tensor -> mean over clients.

    Raises:
        ConfigError: if the state or the moments are not of the layout's shape or the state not one of the scheme's
            rule, or the secret has another length.
    """

    def __init__(
        self,
        layout: Layout,
        scheme: Scheme,
        state: NDArray[np.float32],
        secret: bytes,
        *,
        limits: Limits = DEFAULT_LIMITS,
        threads: int | None = None,
        carried: Carried | None = None,
    ) -> None:
        _check_vector("the state", state, layout.size)
        if not isinstance(secret, bytes) or not 16 <= len(secret) <= 64:
            found = len(secret) if isinstance(secret, bytes) else f"a value of type {type(secret).__name__}"
            raise ConfigError(f"the server's secret must have 16 to 64 bytes, got {found}")
        scheme.rule.check(state[layout.span(Group.CODED)])
        self.layout, self.scheme, self.state = layout, scheme, state
        self.secret, self.limits, self.threads = secret, limits, threads
        self.carried = carried = Carried.at_start(layout, scheme) if carried is None else carried
        shape, moments = (scheme.optimizer.slots, layout.trainable), carried.moments
        if moments.shape != shape or moments.dtype != np.float32:
            raise ConfigError(f"the moments must be float32 of shape {shape}, got {moments.dtype} {moments.shape}")
        self.observed: dict[str, dict[str, float]] = {}

    @property
    def shown(self) -> NDArray[np.float32]:
        """What broadcasts are made of, float32, shape (layout.size,): the state itself."""
        return self.state

    @staticmethod
    def initial(layout: Layout, scheme: Scheme, model: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the state of a run that starts with this model, both float32, shape (layout.size,).

        Raises:
            ConfigError: the model is not such a vector, or has a value that is NaN or infinite.
        """
        _check_vector("the model", model, layout.size)
        state, coded = model.copy(), layout.span(Group.CODED)
        state[coded] = scheme.rule.start(state[coded])
        return state

    def models(self, round: int) -> Iterator[NDArray[np.float32]]:
        """Yield the models that the state after this round stands for: one, or samples whose results are averaged."""
        return self.scheme.rule.models(self.layout, self.state, round)

    def begin(self, round: int, clients: Iterable[int | str]) -> Round:
        """Start a round with these clients.

        Args:
            round: its number, 1 to 2^32 - 1.
            clients: a name or a whole number each, of any integer type.

        Raises:
            ConfigError: the number or a client is none of these, or there is no client.
        """
        return Round(
            self,
            whole(round, "the number of a round, numbered from 1,", most=(1 << 32) - 1),
            [_named(c) for c in clients],
        )


def _check_vector(what: str, vector: NDArray[np.float32], size: int) -> None:
    if not isinstance(vector, np.ndarray):
        raise ConfigError(f"{what} must be a float32 array of shape ({size},), got type {type(vector).__name__}")
    if vector.shape != (size,) or vector.dtype != np.float32:
        raise ConfigError(f"{what} must be float32 of shape ({size},), got {vector.dtype} {vector.shape}")
    bad = np.flatnonzero(~np.isfinite(vector))
    if bad.size:
        raise ConfigError(f"{what} has {bad.size} values that are NaN or infinite, the first at {bad[0]} of {size}")


def _named(client: int | str) -> int | str:
    most = (1 << 64) - 1
    return client if isinstance(client, str) else whole(client, "a client that is no text", least=-most, most=most)
