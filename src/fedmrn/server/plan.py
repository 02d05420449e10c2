"""The plan of a round's aggregation: what its partial sums must agree on to be added."""

from dataclasses import dataclass

from fedmrn.codecs import Plane
from fedmrn.errors import ConfigError
from fedmrn.server.caps import RoundCaps
from fedmrn.wire.frame import Limits, Section
from fedmrn.wire.layout import Group, Layout


@dataclass(frozen=True)
class RoundPlan:
    """What is fixed before the first update of a round comes.

    Attributes:
        layout: of the model.
        templates: the sections that every update must have, in order, without bodies.
        method: id of the method.
        round: number of the round.
        max_clients: how many frames can be folded at most, all merged aggregators together.
        weighted: whether a frame counts by its weight, or each frame alike.
        limits: what is accepted; max_value also fixes the resolution of sums that have no caps.
        planes: what is summed of the coded group; of the other groups it is always the values.
        caps: how much one client moves at most; without them, as much as the limits allow.

    Raises:
        ConfigError: if a template names no group of the layout, or max_clients is below 1.
    """

    layout: Layout
    templates: tuple[Section, ...]
    method: int
    round: int
    max_clients: int
    weighted: bool
    limits: Limits
    planes: tuple[Plane, ...]
    caps: RoundCaps | None = None

    def __post_init__(self) -> None:
        if self.max_clients < 1:
            raise ConfigError(f"a round is planned for at least 1 client, got max_clients {self.max_clients}")
        for t in self.templates:
            span = self.layout.span(t.group)
            if t.count != span.stop - span.start:
                group = t.group.name.lower()
                raise ConfigError(f"a template has {t.count} elements of group {group}, not the layout's")

    def waits(self, group: Group) -> bool:
        """Whether what clients send of a group is kept until the round closes, and not summed before."""
        return self.caps is not None and (self.caps.first or (self.caps.hold and group is not Group.CODED))

    @property
    def max_weight(self) -> int:
        """What a client counts at most, whatever it claims."""
        if not self.weighted:
            return 1
        known = self.caps is not None and not self.caps.first
        return min(self.caps.weight, self.limits.max_weight) if self.caps and known else self.limits.max_weight

    @property
    def capacity(self) -> int:
        """The largest total weight that the round can reach."""
        return self.max_clients * self.max_weight
