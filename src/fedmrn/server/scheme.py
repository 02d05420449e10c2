"""What server and clients agree on: the codec of each tensor group, and how the server moves."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedmrn.codecs import Codec, Raw
from fedmrn.errors import ConfigError
from fedmrn.server.grid import PublicGrid
from fedmrn.server.optimizer import Scaled, ServerOptimizer
from fedmrn.server.rules import ServerRule
from fedmrn.wire.layout import Group
from fedmrn.wire.terms import check_terms


@dataclass(frozen=True)
class Scheme:
    """What server and clients agree on.

    Attributes:
        method: id of the method, repeated in every frame.
        codecs: for each group; the rule may change that of the coded group from round to round.
        rule: how the coded part of the server's state moves.
        weighted: whether clients count by their weight, or alike.
        down: how each group of the state is broadcast; exact where nothing is said, and exact for variances.
        grid: the law of public models, which then are what is broadcast in place of the state; None: there are none.
        shared_key: whether all clients of a round have one noise key.
        optimizer: how far the trained part of the state moves along what the rule asks for.
        terms: what clients are told beside the codecs, by name (`fedmrn.wire.terms`); what is not told has its default.

    Raises:
        ConfigError: the method needs an exact broadcast and is not given one, a term cannot be told, clients are to
            choose scales of a noise that they share, private masks are weighted or have noise of their own, or
            variances are given a codec in which they can be ruined.
    """

    method: int
    codecs: Mapping[Group, Codec]
    rule: ServerRule = field(default_factory=ServerRule)
    weighted: bool = True
    down: Mapping[Group, Codec] = field(default_factory=dict)
    grid: PublicGrid | None = None
    shared_key: bool = False
    optimizer: ServerOptimizer = field(default_factory=lambda: Scaled(1.0))
    terms: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rule.needs_zeros and not self.exact_broadcast:
            raise ConfigError("clients must see which weights are zero: set down to float32")
        if self.grid is not None and not self.rule.shows_weights:
            raise ConfigError("a public model on a grid is of weights, and this state is of none: set down to float32")
        check_terms(self.terms)
        if self.theta and (self.weighted or not self.shared_key):
            raise ConfigError(
                "theta needs clients that count alike (equal=True; train.weight_by=equal in an experiment) and one "
                "noise key a round: the account is of sums of bits, and weights in the clear say something of clients"
            )
        variance = self.codecs.get(Group.VARIANCE)
        if variance is not None and not variance.elementwise:
            raise ConfigError(f"running variances travel by codec raw, float16 or float8, not by {variance.name}")
        coded = self.codecs.get(Group.CODED)
        if self.shared_key and coded is not None and coded.own_scales:
            raise ConfigError(
                f"codec {coded.name} lets each client choose the scale of a noise that all share: "
                "tell them one (codec told-scale), or give each a key of its own"
            )

    @property
    def theta(self) -> float:
        """How far from 1/2 the probability of a sent bit may be (`fedmrn.numerics.private`); 0: masks are not so."""
        return float(self.terms.get("theta", 0.0))

    @property
    def exact_broadcast(self) -> bool:
        """Whether clients get the state as it is."""
        return self.grid is None and all(codec == Raw() for codec in self.down.values())

    def codecs_at(self, round: int) -> dict[Group, Codec]:
        """Return the codecs of a round."""
        return {**self.codecs, Group.CODED: self.rule.codec(round, self.codecs[Group.CODED])}
