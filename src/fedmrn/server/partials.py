"""A round's partial sum as the bytes of `fedmrn.wire.partial`, and back: every check of what an edge server says.

What waits for the close of a round waits at its root: it goes up the tree as clients sent it. So whatever the shape of
the tree, the root holds what a single server would hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import Codec
from fedmrn.errors import (
    BoundError,
    ConfigError,
    LimitError,
    MalformedFrameError,
    UnknownClientError,
    WrongKeyError,
    WrongLayoutError,
    WrongMethodError,
    WrongParametersError,
    WrongRoundError,
)
from fedmrn.server.aggregate import Aggregator, Update
from fedmrn.server.assignment import plan_digest
from fedmrn.server.fold import ExactSum
from fedmrn.server.sum import Sum
from fedmrn.wire.frame import Frame, Kind, Section
from fedmrn.wire.layout import Group
from fedmrn.wire.partial import PARTIAL_LIMITS, Partial, PartialForm, read_sums, sum_section
from fedmrn.wire.traffic import UNKNOWN, Floors, Refusals


@dataclass(frozen=True, slots=True)
class Member:
    """One who may be in a partial sum: its index in the round, what tells it apart, and its noise key."""

    index: int
    sender: int | str
    key: int


def form_of(part: Aggregator, members: int) -> PartialForm:
    """Return the form of a round's partial sums of so many members at most."""
    plan, caps = part.plan, part.plan.caps
    first, hold = caps is not None and caps.first, caps is not None and caps.hold
    kept = frozenset(t.group for t in plan.templates if plan.waits(t.group))
    codec = part.admission.codecs.get(Group.CODED)
    tensors = len(plan.layout.sizes(Group.CODED))
    side = sum(len(plan.layout.sizes(group)) for group in Group if group is not Group.CODED)
    return PartialForm(
        templates=plan.templates,
        kept=kept,
        planes=len(plan.planes),
        scales=tensors if caps is not None and not first and codec is not None and codec.sends_scales else 0,
        values=side if caps is not None and not first and not hold else 0,
        tally=0 if first or codec is None else tensors * len(codec.observables),
        members=members,
    )


def write_partial(
    part: Aggregator,
    key: int,
    index_of: Mapping[int | str, int],
    floors: Floors,
    refused: Refusals,
) -> Frame:
    """Return a part of a round as a frame; nothing is added to it from then on.

    Args:
        part: the sum; it keeps bodies.
        key: of the edge.
        index_of: of each sender the index in the round.
        floors, refused: what came in.
    """
    part.stop(empty=True)
    with part.lock:
        form = form_of(part, part.count)
        part.sums.settle()
        senders = [*part.admission.senders]
        order = sorted(range(len(senders)), key=lambda i: index_of[senders[i]])
        plan, census = part.plan, part.census
        bodies = part.bodies or []
        waiting = {g: [bodies[i][g] for i in order] for g in form.kept}
        sums = {t.group: sum_section(t, _integers(part.sums, t.group)) for t in _summed(form)}
        return Partial(
            method=plan.method,
            round=plan.round,
            layout_digest=plan.layout.digest,
            key=key,
            plan=plan_digest(plan, part.admission.bound_to),
            weight=part.admission.total_weight,
            members=np.array([index_of[senders[i]] for i in order], np.int64),
            weights=np.array([census.weights[i] for i in order], np.int64),
            scales=_rows(census.scales, order, form.scales),
            values=_rows(census.values, order, form.values),
            kept=waiting,
            sums=sums,
            tally=_tally(part),
            floors=floors,
            refused=refused,
        ).frame(form)


def read_partial(
    data: bytes | memoryview, whole: Aggregator, form: PartialForm, key: int, members: Mapping[int, Member]
) -> Partial:
    """Parse an edge's partial sum, and check what it says of itself; `open_partial` does the rest.

    Args:
        data: as it came.
        whole: a part of the same round.
        form: `form_of` it, for as many members.
        key: of the edge.
        members: who may be in it, by index.

    Raises:
        FrameError: one subclass for each cause.
    """
    plan = whole.plan
    frame = Frame.from_bytes(data, kind=Kind.PARTIAL, limits=PARTIAL_LIMITS)
    if frame.method != plan.method:
        raise WrongMethodError(f"the round's method is {plan.method}, the partial sum's is {frame.method}")
    if frame.round != plan.round:
        raise WrongRoundError(f"the partial sum is of round {frame.round}, this is round {plan.round}")
    if frame.layout_digest != plan.layout.digest:
        raise WrongLayoutError("the partial sum was made for a model with other tensors")
    if frame.noise_key != key:
        raise WrongKeyError(
            "the partial sum has another key than the one that this edge was assigned: it is another edge's, or the "
            "round was begun again with other clients"
        )
    found = Partial.read(frame, form)
    if found.plan != plan_digest(plan, whole.admission.bound_to):
        raise WrongParametersError("the partial sum was made for other templates, caps, limits or weights")
    stranger = next((i for i in found.members.tolist() if i not in members), None)
    if stranger is not None:
        raise UnknownClientError(f"client number {stranger} of the round was not assigned to this edge")
    wrong = next((i for i, _ in found.refused if i != UNKNOWN and i not in members), None)
    if wrong is not None:
        raise MalformedFrameError(f"it reports a refusal of client number {wrong}, which it was not assigned")
    if found.floors and found.floors[0].frames > found.members.size:
        raise MalformedFrameError(
            f"it reports {found.floors[0].frames} frames of clients, and has {found.members.size} members"
        )
    _check_weights(found, whole)
    return found


def open_partial(found: Partial, whole: Aggregator, form: PartialForm, members: Mapping[int, Member]) -> Aggregator:
    """Return a partial sum as a part of the round, to be merged.

    Args:
        found: as `read_partial` returns it.
        whole: a part of the same round; it does not change.
        form: as for `read_partial`.
        members: who may be in it, by index.

    Raises:
        FrameError: one subclass for each cause.
    """
    part = whole.empty()
    who = [members[i] for i in found.members.tolist()]
    with part.sums:
        for t in _summed(form):
            _fill(part.sums, t.group, found.sums[t.group], found.weight, len(who))
        for at, member in enumerate(who):
            part.admission.note(member.sender, min(int(found.weights[at]), part.plan.max_weight))
        if form.kept:
            _open_kept(part, form, found, who)
        else:
            part.bodies = [{} for _ in who]
        if not (part.plan.caps is not None and part.plan.caps.first):
            part.census.weights = found.weights.tolist()
            part.census.scales = [*found.scales] if form.scales else []
            _put_tally(part, found)
            if form.values:
                part.census.values = [*found.values]
                part.side.magnitudes = [*found.values]
    return part


def _check_weights(found: Partial, whole: Aggregator) -> None:
    limit = whole.plan.limits.max_weight
    wrong = next((w for w in found.weights.tolist() if not 1 <= w <= limit), None)
    if wrong is not None:
        raise LimitError(f"weight {wrong} is not in 1..{limit}")
    total = sum(min(w, whole.plan.max_weight) for w in found.weights.tolist())
    if found.weight != total:
        raise MalformedFrameError(f"a partial sum says that it weighs {found.weight}; its members weigh {total}")


def _summed(form: PartialForm) -> list[Section]:
    return [t for t in form.templates if t.group not in form.kept]


def _integers(sums: ExactSum, group: Group) -> list[tuple[NDArray[np.int64], NDArray[np.int64] | None]]:
    return [(total.integers, total.rest) for total in sums.planes_of(group)]


def _fill(sums: ExactSum, group: Group, section: Section, weight: int, clients: int) -> None:
    totals: Sequence[Sum] = sums.planes_of(group)
    for total, rest in zip(totals, read_sums(section, [t.integers for t in totals]), strict=True):
        total.rest = rest
        total.check(weight, clients)


def _rows(rows: Sequence[NDArray[np.int16]], order: Sequence[int], columns: int) -> NDArray[np.int16]:
    if not columns or not order:
        return np.zeros((len(order), columns), np.int16)
    return np.stack([rows[i] for i in order])


def _open_kept(part: Aggregator, form: PartialForm, found: Partial, who: Sequence[Member]) -> None:
    """Open what waits as the frames that it came in were opened, and let it wait here."""
    counts = {t.group: t.count for t in form.templates}
    first = part.plan.caps is not None and part.plan.caps.first
    for at, member in enumerate(who):
        sections = [
            (t.group, part.admission.open_body(t.group, found.kept[t.group][at], counts[t.group], member.key))
            for t in form.templates
            if t.group in form.kept
        ]
        weight = int(found.weights[at])
        update = Update(sections, weight, part.side.measure(sections))
        if part.bodies is not None:
            part.bodies.append({group: bodies[at] for group, bodies in found.kept.items()})
        if first:
            part.kept.append(update)
            part.note(update)
        else:
            part.census.values.append(update.magnitudes)
            part.side.add(part.sums, sections, min(weight, part.plan.max_weight), update.magnitudes)


def _observables(part: Aggregator) -> tuple[Codec | None, list[int]]:
    return part.admission.codecs.get(Group.CODED), [*part.plan.layout.sizes(Group.CODED)]


def _tally(part: Aggregator) -> NDArray[np.int64]:
    codec, sizes = _observables(part)
    if codec is None or part.plan.waits(Group.CODED):  # who closes the round makes it again
        return np.zeros(0, np.int64)
    strange = [o.name for o in part.tally.sums if o not in codec.observables]
    if strange:
        raise ConfigError(f"codec {codec.name} observes {strange[0]!r}, which is not among its `observables`")
    rows = [part.tally.sums.get(o, [0] * len(sizes)) for o in codec.observables]
    return np.array([n for row in rows for n in row], np.int64)


def _put_tally(part: Aggregator, found: Partial) -> None:
    codec, sizes = _observables(part)
    if codec is None or not found.tally.size:
        return
    n, rows = found.members.size, found.tally.reshape(len(codec.observables), -1).tolist()
    for observable, row in zip(codec.observables, rows, strict=True):
        for number, size in zip(row, sizes, strict=True):
            least, most = observable.span(size)
            if not least * n <= number <= most * n:
                raise BoundError(f"the {observable.name} of {n} members cannot add up to {number}")
        if n:
            part.tally.sums[observable] = row
