"""What a server assigns an edge: which clients answer there, under which keys and caps, and what they are sent.

An assignment is a frame of kind ASSIGNMENT: the templates, terms and state of the round's broadcasts, and one section
of role ASSIGNED. The noise keys of its clients are in it: it travels as confidentially as broadcasts do.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import Plane
from fedmrn.errors import ConfigError, MalformedFrameError, UnsupportedVersionError, WrongLayoutError
from fedmrn.server.caps import Clipping, RoundCaps
from fedmrn.server.plan import RoundPlan
from fedmrn.server.saved_public import client_name, read_client
from fedmrn.wire.frame import Frame, Kind, Limits, Role, Section
from fedmrn.wire.layout import Group, Layout
from fedmrn.wire.messages import read_exact_state
from fedmrn.wire.partial import DIGEST_SIZE
from fedmrn.wire.reader import ByteReader
from fedmrn.wire.terms import read_terms

_VERSION = 1
_HEAD = struct.Struct("<IBQIQdB")  # clients of the round, flags, limits (bytes, sections, weight, value), planes
_CAPS = struct.Struct("<QBII")  # weight, flags, scales, values
_CLIENT = struct.Struct("<IQI")  # index in the round, noise key, bytes of the name
_PLANES = (Plane.VALUE, Plane.SIGN, Plane.SCALE, Plane.KEPT)
_WEIGHTED, _SHARED, _CAPPED, _EXACT = 1, 2, 4, 8
_LEARNED, _HOLD, _FIRST, _TELLS = 1, 2, 4, 8
_MOST = (1 << 63) - 1
_ROUND_SIZE = 1 << 32
_LIMITS = Limits(max_bytes=1 << 48)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What an edge is assigned.

    Attributes:
        key: of the edge in this round, 64 bits.
        plan: of the round; every part of it has the same.
        shared_key: whether all clients have one noise key.
        clients: (index in the round, name, noise key) of those who answer there, in order.
        sections: of the round's broadcasts: templates, terms, and the state where it is sent as it is.
        exact: whether the edge can make the broadcasts of its clients; else they come from the root.
    """

    key: int
    plan: RoundPlan
    shared_key: bool
    clients: Sequence[tuple[int, int | str, int]]
    sections: tuple[Section, ...]
    exact: bool

    def frame(self) -> Frame:
        """Return it as a frame."""
        plan = self.plan
        body = _plan_bytes(plan, shared_key=self.shared_key, exact=self.exact) + client_records(self.clients)
        mine = Section(0, Role.ASSIGNED, Group.CODED, len(self.clients), bytes([_VERSION]), body)
        sections = (*self.sections, mine)
        return Frame(Kind.ASSIGNMENT, plan.method, plan.round, self.key, plan.layout.digest, 0, sections)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, layout: Layout) -> "Assignment":
        """Return what `frame` says, for a model of this layout.

        Raises:
            WrongLayoutError: it is of another model.
            FrameError: it is no assignment, or damaged: one subclass for each cause.
        """
        frame = Frame.from_bytes(data, kind=Kind.ASSIGNMENT, limits=_LIMITS)
        if frame.layout_digest != layout.digest:
            raise WrongLayoutError("the assignment is for a model with other tensors")
        mine = frame.select(Role.ASSIGNED, Group.CODED)
        if mine is None or mine.codec or len(mine.params) != 1 or mine is not frame.sections[-1]:
            raise MalformedFrameError("an assignment ends with the section that says what is assigned")
        if mine.params[0] != _VERSION:
            raise UnsupportedVersionError(
                f"an assignment of version {mine.params[0]}; this library reads version {_VERSION}"
            )
        reader = ByteReader(mine.body, "the bytes of an assignment")
        try:
            plan, flags = _read_plan(reader, frame, layout)
        except ConfigError as error:  # of a plan that cannot be
            raise MalformedFrameError(f"the plan of an assignment cannot be: {error}") from error
        return cls(
            key=frame.noise_key,
            plan=plan,
            shared_key=bool(flags & _SHARED),
            clients=_read_clients(reader, mine.count, plan.max_clients),
            sections=frame.sections[:-1],
            exact=bool(flags & _EXACT),
        )

    def state(self) -> NDArray[np.float32] | None:
        """Return what clients are shown, float32, shape (layout.size,), where the assignment has it.

        Raises:
            FrameError: it is not exact, or cut.
        """
        if not any(s.role is Role.STATE for s in self.sections):
            return None
        return read_exact_state(self._broadcast(), self.plan.layout)

    def theta(self) -> float:
        """Return the term theta that clients are told; 0 where masks are not private.

        Raises:
            FrameError: the terms do not read.
        """
        return float(read_terms(self._broadcast()).get("theta", 0.0))

    def _broadcast(self) -> Frame:
        plan = self.plan
        return Frame(Kind.BROADCAST, plan.method, plan.round, 0, plan.layout.digest, 0, self.sections)


def client_records(clients: Iterable[tuple[int, int | str, int]]) -> bytes:
    """Return the records of an assignment's clients: index in the round, name, noise key."""
    parts: list[bytes] = []
    for index, client, key in clients:
        name = client_name(client)
        parts += [_CLIENT.pack(index, key, len(name)), name]
    return b"".join(parts)


def _plan_bytes(plan: RoundPlan, *, shared_key: bool = False, exact: bool = False) -> bytes:
    """Return a round's plan as bytes, but for what each frame of the round says.

    Raises:
        ConfigError: a limit or the number of clients is too large to be written.
    """
    limits, caps = plan.limits, plan.caps
    if limits.max_weight > _MOST or plan.max_clients >= _ROUND_SIZE or plan.capacity >= 1 << 64:
        raise ConfigError(
            "in a tree a round has fewer than 2^32 clients, a weight at most 63 bits, and all together 64: "
            f"{plan.max_clients} clients of up to {plan.max_weight} are too heavy; lower Limits.max_weight"
        )
    flags = _WEIGHTED * plan.weighted | _SHARED * shared_key | _CAPPED * (caps is not None) | _EXACT * exact
    numbers = (min(limits.max_bytes, _MOST), min(limits.max_sections, _ROUND_SIZE - 1), limits.max_weight)
    head = _HEAD.pack(plan.max_clients, flags, *numbers, limits.max_value, len(plan.planes))
    planes = bytes(_PLANES.index(plane) for plane in plan.planes)
    if caps is None:
        return head + planes
    what = _LEARNED * caps.learned | _HOLD * caps.hold | _FIRST * caps.first | _TELLS * caps.tells
    weight = min(caps.weight, limits.max_weight)
    fixed = _CAPS.pack(weight, what, len(caps.scales), len(caps.values))
    return head + planes + fixed + np.array([*caps.scales, *caps.values], "<i2").tobytes()


def plan_digest(plan: RoundPlan, bound_to: bytes) -> bytes:
    """Return 16 bytes that only partial sums with this plan have.

    Args:
        plan: of the round.
        bound_to: the digest of the state that codecs are bound to; empty where none is.
    """
    digest = blake2b(digest_size=DIGEST_SIZE, person=b"fedmrn-plan")
    digest.update(plan.layout.digest + struct.pack("<HI", plan.method, plan.round) + _plan_bytes(plan))
    for t in plan.templates:
        digest.update(struct.pack("<BBBQ", t.codec, t.group, len(t.params), t.count) + t.params)
    digest.update(bound_to)
    return digest.digest()


def _read_plan(reader: ByteReader, frame: Frame, layout: Layout) -> tuple[RoundPlan, int]:
    clients, flags, max_bytes, max_sections, max_weight, max_value, planes = reader.numbers(_HEAD)
    numbers = reader.take(planes)
    if flags > 15 or not numbers or any(n >= len(_PLANES) for n in numbers):
        raise MalformedFrameError("the plan of an assignment has flags or planes that are not known")
    plan = RoundPlan(
        layout=layout,
        templates=tuple(s for s in frame.sections if s.role is Role.TEMPLATE),
        method=frame.method,
        round=frame.round,
        max_clients=clients,
        weighted=bool(flags & _WEIGHTED),
        limits=Limits(max_bytes, max_sections, max_weight, max_value),
        planes=tuple(_PLANES[n] for n in numbers),
        caps=_read_caps(reader, layout) if flags & _CAPPED else None,
    )
    written = _plan_bytes(plan, shared_key=bool(flags & _SHARED), exact=bool(flags & _EXACT))
    if bytes(memoryview(frame.sections[-1].body)[: len(written)]) != written:
        raise MalformedFrameError("the plan of an assignment is not written as it must be")
    return plan, flags


def _read_caps(reader: ByteReader, layout: Layout) -> RoundCaps:
    weight, what, scales, values = reader.numbers(_CAPS)
    side = sum(len(layout.sizes(group)) for group in Group if group is not Group.CODED)
    if what > 15 or not weight or (scales, values) != (len(layout.sizes(Group.CODED)), side):
        raise MalformedFrameError("the caps of an assignment are not for the tensors of this model")
    found = np.frombuffer(reader.take(2 * (scales + values)), "<i2").tolist()
    if any(not -126 <= e <= 127 for e in found):
        raise MalformedFrameError("a cap of an assignment is not from 2^-126 to 2^127")
    return RoundCaps(
        weight=weight,
        scales=tuple(found[:scales]),
        values=tuple(found[scales:]),
        learned=bool(what & _LEARNED),
        hold=bool(what & _HOLD),
        first=bool(what & _FIRST),
        clipping=Clipping(),  # only who closes a round needs it, and that is its root
        tells=bool(what & _TELLS),
    )


def _read_clients(reader: ByteReader, count: int, most: int) -> list[tuple[int, int | str, int]]:
    if count * _CLIENT.size > len(reader.left):
        raise MalformedFrameError("an assignment has not as many clients as it says")
    found: list[tuple[int, int | str, int]] = []
    for _ in range(count):
        index, key, length = reader.numbers(_CLIENT)
        name = bytes(reader.take(length))
        client = read_client(name)
        if client_name(client) != name:
            raise MalformedFrameError(f"a client is named {name[:40]!r}")
        if index >= most or (found and index <= found[-1][0]):
            raise MalformedFrameError("the clients of an assignment are not in increasing order")
        found.append((index, client, key))
    reader.end()
    if not found or len({client for _, client, _ in found}) != count:
        raise MalformedFrameError("an assignment names no client, or one twice")
    return found
