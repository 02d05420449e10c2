"""Admission: which frames a round takes. Every check of an update, who sent one already, and room for more."""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import Codec, Opened, codec_from
from fedmrn.codecs.scales import TensorScales
from fedmrn.errors import (
    BoundError,
    ConfigError,
    DuplicateFrameError,
    EmptyRoundError,
    LimitError,
    WrongKeyError,
    WrongKindError,
    WrongLayoutError,
    WrongMethodError,
    WrongParametersError,
    WrongRoundError,
)
from fedmrn.server.plan import RoundPlan
from fedmrn.wire.frame import Frame, Kind
from fedmrn.wire.layout import Group


class Admission:
    """The checks of one round's updates, and the account of those that were folded.

    Args:
        plan: of the round.
        shown: what clients were shown, float32, shape (layout.size,); only codecs that are bound to it need it.

    Attributes:
        codecs: of each group, bound where they need it.
        senders: whose frames were folded, in the order in which they were.
        total_weight: of those frames.
        summed: whether they came as one sum, to which nothing is added.

    Raises:
        ConfigError: if a codec needs what clients were shown, and it is not given.
    """

    def __init__(self, plan: RoundPlan, shown: NDArray[np.float32] | None) -> None:
        self.plan = plan
        self.codecs: dict[Group, Codec] = {}
        for t in plan.templates:
            codec = codec_from(t.codec, t.params)
            if codec.needs_state and shown is None:
                raise ConfigError(f"codec {codec.name} is bound to the broadcast's state, which is not given")
            self.codecs[t.group] = codec if shown is None else codec.bind(shown[plan.layout.span(t.group)])
        bound = any(codec.needs_state for codec in self.codecs.values())
        self.bound_to = blake2b(shown.tobytes()).digest() if bound and shown is not None else b""
        self._coded = [t.name for t in plan.layout.tensors if t.group is Group.CODED and t.size]
        self.senders: dict[int | str, None] = {}
        self.total_weight, self.summed = 0, False

    @property
    def count(self) -> int:
        """The number of frames folded so far."""
        return len(self.senders)

    def weight(self, frame: Frame) -> int:
        """Return what a frame counts in the mean: what it claims, up to the cap."""
        return min(frame.weight, self.plan.max_weight)

    def open(self, frame: Frame, noise_key: int, sender: int | str) -> list[tuple[Group, Opened]]:
        """Check a frame completely, and return its sections opened; nothing is noted yet.

        Args:
            frame: as parsed.
            noise_key: the key that this client was sent.
            sender: who sent it.

        Raises:
            FrameError: one subclass for each cause.
        """
        plan = self.plan
        if frame.kind is not Kind.UPDATE:
            raise WrongKindError("an update was expected, got a broadcast")
        if frame.method != plan.method:
            raise WrongMethodError(f"the round's method is {plan.method}, the frame's is {frame.method}")
        if frame.round != plan.round:
            raise WrongRoundError(f"the frame is of round {frame.round}, this is round {plan.round}")
        if frame.layout_digest != plan.layout.digest:
            raise WrongLayoutError("the frame was made for a model with other tensors")
        if frame.noise_key != noise_key:
            raise WrongKeyError("the frame repeats another noise key than the one this client was sent")
        self.check_sender(sender)
        if not 1 <= frame.weight <= plan.limits.max_weight:
            raise LimitError(f"weight {frame.weight} is not in 1..{plan.limits.max_weight}")
        if tuple(s.template for s in frame.sections) != plan.templates:
            raise WrongParametersError("the sections are not those that the broadcast asked for")
        return [(s.group, self.open_body(s.group, s.body, s.count, noise_key)) for s in frame.sections]

    def open_body(self, group: Group, body: bytes | memoryview, count: int, noise_key: int) -> Opened:
        """Check what a client sent of a group, and return it opened.

        Raises:
            FrameError: one subclass for each cause.
        """
        opened = self.codecs[group].open(body, count, noise_key, self.plan.limits.max_value)
        self._check_scales(group, opened.tensor_scales())
        return opened

    def check_sender(self, sender: int | str) -> None:
        """Refuse a frame of a client that sent one already, or of one too many, or beside a sum.

        Raises:
            DuplicateFrameError: a frame of this client was folded, or one sum of all.
            LimitError: as many frames were folded as the round was planned for.
        """
        full = not self._has_room(1)  # first: what fills the round meanwhile may be this client's own frame
        if sender in self.senders:
            raise DuplicateFrameError("a frame of this client was folded already")
        self._check_alone()
        if full:
            raise LimitError(self._full)

    def check_empty(self) -> None:
        """Refuse one sum of a round's updates where something was folded.

        Raises:
            DuplicateFrameError: it was.
        """
        if self.count:
            raise DuplicateFrameError(_ALONE)

    def _check_alone(self) -> None:
        if self.summed:
            raise DuplicateFrameError(_ALONE)

    def _check_scales(self, group: Group, scales: TensorScales | None) -> None:
        """Refuse scales of other tensors than the model's, above the caps that were told, or not those that were."""
        if scales is None:
            return
        if not np.array_equal(scales.ends, np.cumsum(self.plan.layout.sizes(group), dtype=np.int64)):
            raise WrongParametersError("the scales are of other tensors than the model's")
        caps = self.plan.caps
        if group is not Group.CODED or caps is None:
            return
        self._check_told(scales, caps.told_scales)
        told = caps.told
        if not told:
            return
        above = np.flatnonzero(scales.exponents > np.array(told))
        if above.size:
            tensor, cap = self._coded[above[0]], 2.0 ** told[above[0]]
            raise BoundError(
                f"the scale of {tensor} is {scales.values[above[0]]:g}; clients were told to send {cap:g} at most"
            )

    def _check_told(self, scales: TensorScales, told: tuple[int, ...]) -> None:
        """Refuse a mask of noise in other scales than all clients were told."""
        asked = zip(self._coded, told, scales.exponents.tolist(), strict=bool(told))
        wrong = next(((name, e, found) for name, e, found in asked if found != e), None)
        if wrong is not None:
            name, e, found = wrong
            raise WrongParametersError(
                f"the scale of {name} is {2.0**found:g}; all clients of the round were told {2.0**e:g}"
            )

    def note(self, sender: int | str, weight: int) -> None:
        """Note a frame that was folded."""
        self.senders[sender] = None
        self.total_weight += weight

    def check_any(self) -> None:
        """Refuse a round without updates.

        Raises:
            EmptyRoundError: if no frame was folded.
        """
        if not self.total_weight:
            raise EmptyRoundError(f"round {self.plan.round}: no update was folded, so there is no mean")

    def check_merge(self, other: "Admission") -> None:
        """Refuse another part of the round that this one cannot take in.

        Raises:
            ConfigError: if it was set up for another round, model, method or limit.
            DuplicateFrameError: if both folded the same client, or this one has one sum of all.
            LimitError: if together they hold more than max_clients frames.
        """
        if (self.plan, self.bound_to) != (other.plan, other.bound_to):
            raise ConfigError("only aggregators of the same round, model, method and limits can be merged")
        self._check_alone()
        if self.senders.keys() & other.senders.keys():
            raise DuplicateFrameError("both aggregators folded a frame of the same client")
        if not self._has_room(other.count):
            raise LimitError(self._full)

    def merge(self, other: "Admission") -> None:
        """Note the frames of another part of the round."""
        self.senders |= other.senders
        self.total_weight += other.total_weight

    def _has_room(self, clients: int) -> bool:
        return self.count + clients <= self.plan.max_clients

    @property
    def _full(self) -> str:
        return f"the round was planned for {self.plan.max_clients} clients, and as many were folded"


_ALONE = "a round is of single updates or of one sum, not of both"
