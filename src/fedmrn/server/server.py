"""The server: what it keeps from round to round, and the rounds that it begins."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import ConfigError
from fedmrn.server.round import Round
from fedmrn.server.scheme import Scheme
from fedmrn.server.statistics import check_start
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
        ConfigError: if the state or the moments are not of the layout's shape, the state is not finite, has a negative
            variance or is not one of the scheme's rule, or the secret has another length.
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
        if state.shape != (layout.size,) or state.dtype != np.float32:
            raise ConfigError(f"the state must be float32 of shape ({layout.size},), got {state.dtype} {state.shape}")
        if not 16 <= len(secret) <= 64:
            raise ConfigError(f"the server's secret must have 16 to 64 bytes, got {len(secret)}")
        scheme.rule.check(state[layout.span(Group.CODED)])
        self.layout, self.scheme, self.state = layout, scheme, state
        self.secret, self.limits, self.threads = secret, limits, threads
        self.carried = carried = Carried.at_start(layout, scheme) if carried is None else carried
        shape, moments = (scheme.optimizer.slots, layout.trainable), carried.moments
        if moments.shape != shape or moments.dtype != np.float32:
            raise ConfigError(f"the moments must be float32 of shape {shape}, got {moments.dtype} {moments.shape}")
        check_start(layout, state, moments)
        self.observed: dict[str, dict[str, float]] = {}

    @property
    def shown(self) -> NDArray[np.float32]:
        """What broadcasts are made of, float32, shape (layout.size,): the state itself."""
        return self.state

    @staticmethod
    def initial(layout: Layout, scheme: Scheme, model: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the state of a run that starts with this model, both float32, shape (layout.size,)."""
        state, coded = model.copy(), layout.span(Group.CODED)
        state[coded] = scheme.rule.start(state[coded])
        return state

    def models(self, round: int) -> Iterator[NDArray[np.float32]]:
        """Yield the models that the state after this round stands for: one, or samples whose results are averaged."""
        return self.scheme.rule.models(self.layout, self.state, round)

    def begin(self, round: int, clients: Iterable[int | str]) -> Round:
        """Start a round (its number from 1) with these clients."""
        return Round(self, round, clients)
