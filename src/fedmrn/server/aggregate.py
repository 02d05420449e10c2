"""The streaming fold: a weighted mean of frames in O(d) memory, the same to the bit in any order and any tree.

Each contribution times its integer weight is rounded once to fixed point (a 64-bit integer in units of 2^-e), and
integers add associatively. The exponent e of a group is fixed at the start of the round from the largest value, the
largest weight and the number of clients, so that the sum cannot overflow.
"""

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from math import frexp, ldexp

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import CHUNK, Codec, Fold, Plane, Reader, codec_from, mask_of, noise_scales_of, own_fold, read_plane
from fedmrn.errors import (
    ConfigError,
    DuplicateFrameError,
    EmptyRoundError,
    FedmrnError,
    LimitError,
    WrongKeyError,
    WrongKindError,
    WrongLayoutError,
    WrongMethodError,
    WrongParametersError,
    WrongRoundError,
)
from fedmrn.numerics.bits import count_ones
from fedmrn.numerics.kernels import NEAR, fold
from fedmrn.numerics.threads import cores, in_parallel
from fedmrn.wire.frame import DEFAULT_LIMITS, Frame, Kind, Limits, Section
from fedmrn.wire.layout import Group, Layout

_WAIT_FROM = 1 << 22
"""Elements from which the sum does not fit into a cache, and frames wait for others to be folded in one pass."""
_WAITING = 8
_PART = 1 << 18
"""Elements of the sum that stay in a cache while all waiting frames are folded into them."""


class Aggregator:
    """The partial sum of one round's updates.

    Args:
        layout: of the model.
        templates: the sections that every update must have, in order (from the broadcast).
        method: id of the method.
        round: number of the round.
        max_clients: how many frames can be folded at most, all merged aggregators together.
        weighted: whether a frame counts by its weight, or each frame alike.
        limits: what is accepted; max_weight and max_value also fix the resolution of the sum.
        threads: worker threads for models above a million elements, by default as many as there are cores; the result
            does not depend on it.
        planes: what is summed of the coded group, at least one; of the other groups it is always the values.
        state: the broadcast's state, float32, shape (layout.size,); only codecs that are bound to it need it.

    Raises:
        ConfigError: if a template names no group of the layout, a codec lacks a plane or its state, or max_clients or
            threads is below 1.
    """

    def __init__(
        self,
        layout: Layout,
        templates: Sequence[Section],
        *,
        method: int,
        round: int,
        max_clients: int,
        weighted: bool = True,
        limits: Limits = DEFAULT_LIMITS,
        threads: int | None = None,
        planes: Sequence[Plane] = (Plane.VALUE,),
        state: NDArray[np.float32] | None = None,
    ) -> None:
        threads = cores() if threads is None else threads
        if max_clients < 1 or threads < 1:
            raise ConfigError("an aggregator needs max_clients and threads of at least 1")
        self.layout, self.templates = layout, tuple(t.template for t in templates)
        self.method, self.round, self.weighted = method, round, weighted
        self.max_clients, self.limits, self.threads = max_clients, limits, threads
        self.planes = tuple(planes)
        self._codecs: dict[Group, Codec] = {}
        for t in self.templates:
            span = layout.span(t.group)
            if t.count != span.stop - span.start:
                raise ConfigError(
                    f"a template has {t.count} elements of group {t.group.name.lower()}, not the layout's"
                )
            codec = codec_from(t.codec, t.params)
            if codec.needs_state and state is None:
                raise ConfigError(f"codec {codec.name} is bound to the broadcast's state, which is not given")
            self._codecs[t.group] = codec if state is None else codec.bind(state[span])
        bound = any(codec.needs_state for codec in self._codecs.values())
        self._bound = blake2b(state.tobytes()).digest() if bound and state is not None else b""
        coded = self._codecs.get(Group.CODED)
        if coded is not None and not coded.planes.issuperset(self.planes):
            raise ConfigError(
                f"codec {coded.name} has no plane {' or '.join(p.value for p in self.planes if p not in coded.planes)}"
            )
        self._capacity = min(max_clients * limits.max_weight, limits.max_total_weight) if weighted else max_clients
        least = 1.0 if {Plane.SIGN, Plane.KEPT} & {*self.planes} else 0.0  # signs and counts go up to 1
        self._bounds = {group: max(least, codec.bound(limits.max_value)) for group, codec in self._codecs.items()}
        self._exponents = {
            group: 62 - frexp(bound)[1] - self._capacity.bit_length() for group, bound in self._bounds.items()
        }
        # Further planes of the coded group follow the flat vector.
        self._coded = layout.span(Group.CODED).stop
        self._sum = np.zeros(layout.size + (len(self.planes) - 1) * self._coded, np.int64)
        self._waiting: list[tuple[Reader, float, bool]] = []
        self._senders: set[int | str] = set()
        self._ones: Counter[str] = Counter()
        self._scales: Counter[str] = Counter()  # exponents of two
        self._torn = False
        self.total_weight = 0

    @property
    def count(self) -> int:
        """The number of frames folded so far."""
        return len(self._senders)

    def add(self, frame: Frame, noise_key: int, client: int | str | None = None) -> None:
        """Fold one update; all or nothing. One thread at a time: give each thread an aggregator, and merge them.

        Where the sum is larger than the caches, up to 7 frames of a codec that allows it (masked noise) are kept,
        checked, and folded together with the next: an eighth of the sum's memory at most.

        Args:
            frame: as parsed.
            noise_key: the key that this client was sent.
            client: who sent it, where clients share a noise key; else the key tells them apart.

        Raises:
            FrameError: one subclass for each cause; the sum is then as it was before.
        """
        sender = noise_key if client is None else client
        readers = self._check(frame, noise_key, sender)
        weight = frame.weight if self.weighted else 1
        self._torn = True  # until the fold is through: an interrupt half-way must not leave a sum that looks whole
        for group, reader in readers:
            factor = ldexp(weight, self._exponents[group])
            near = self._bounds[group] * factor < NEAR
            if group is not Group.CODED:
                self._fold([(reader, factor, near)], self._sum[self.layout.span(group)])
                continue
            self._count(reader)
            if self.planes == (Plane.VALUE,) and self._coded >= _WAIT_FROM and own_fold(reader):
                self._waiting.append((reader, factor, near))
            else:
                for i, plane in enumerate(self.planes):
                    self._fold([(read_plane(reader, plane), factor, near)], self._sum[self._span(i)])
        if len(self._waiting) == _WAITING:
            self._fold_waiting()
        self._senders.add(sender)
        self.total_weight += weight
        self._torn = False

    def _count(self, reader: Reader) -> None:
        mask, scales = mask_of(reader), noise_scales_of(reader)
        for tensor in self.layout.tensors:
            if tensor.group is not Group.CODED or not tensor.size:
                continue
            where = self.layout.slices[tensor.name]
            if mask is not None:
                self._ones[tensor.name] += count_ones(mask, where.start, where.stop)
            if scales is not None:
                self._scales[tensor.name] += frexp(scales.at(where.start))[1] - 1

    def noise_scales(self) -> dict[str, float]:
        """Return for each coded tensor the geometric mean of the noise scales that clients chose; empty if none did."""
        return {name: 2.0 ** (total / self.count) for name, total in self._scales.items()}

    def density(self) -> dict[str, float]:
        """Return for each coded tensor the share of ones in the masks folded so far; nothing where no mask was sent."""
        sizes = {t.name: t.size for t in self.layout.tensors}
        return {name: ones / (sizes[name] * self.count) for name, ones in self._ones.items()}

    def _check(self, frame: Frame, noise_key: int, sender: int | str) -> list[tuple[Group, Reader]]:
        self._check_whole()
        if frame.kind is not Kind.UPDATE:
            raise WrongKindError("an update was expected, got a broadcast")
        if frame.method != self.method:
            raise WrongMethodError(f"the round's method is {self.method}, the frame's is {frame.method}")
        if frame.round != self.round:
            raise WrongRoundError(f"the frame is of round {frame.round}, this is round {self.round}")
        if frame.layout_digest != self.layout.digest:
            raise WrongLayoutError("the frame was made for a model with other tensors")
        if frame.noise_key != noise_key:
            raise WrongKeyError("the frame repeats another noise key than the one this client was sent")
        if sender in self._senders:
            raise DuplicateFrameError("a frame of this client was folded already")
        if not 1 <= frame.weight <= self.limits.max_weight:
            raise LimitError(f"weight {frame.weight} is not in 1..{self.limits.max_weight}")
        self._check_room(1, frame.weight if self.weighted else 1)
        if tuple(s.template for s in frame.sections) != self.templates:
            raise WrongParametersError("the sections are not those that the broadcast asked for")
        limit = self.limits.max_value
        return [(s.group, self._codecs[s.group].open(s.body, s.count, noise_key, limit)) for s in frame.sections]

    def _check_whole(self) -> None:
        if self._torn:
            raise FedmrnError(
                f"round {self.round}: it is closed, or a fold was interrupted half-way; start the round again"
            )

    def _check_room(self, clients: int, weight: int) -> None:
        if self.count + clients > self.max_clients:
            raise LimitError(f"the round was planned for {self.max_clients} clients, and as many were folded")
        if self.total_weight + weight > self._capacity:
            raise LimitError(f"weight {weight} more would take the round above its total of {self._capacity}")

    def _span(self, i: int) -> slice:
        """Where the i-th plane of the coded group lies."""
        start = 0 if i == 0 else self.layout.size + (i - 1) * self._coded
        return slice(start, start + self._coded)

    def _fold_waiting(self) -> None:
        self._fold(self._waiting, self._sum[self._span(0)])
        self._waiting = []

    def _fold(self, readers: Sequence[tuple[Reader, float, bool]], total: NDArray[np.int64]) -> None:
        """Add (what is read, its factor, whether products are below NEAR), all of a part of the sum at a time."""

        folds = [(own_fold(reader) or _reading(reader), factor, near) for reader, factor, near in readers]

        def work(first: int, last: int) -> None:
            for start in range(first, last, _PART):
                for add, factor, near in folds:
                    add(start, factor, near, total[start : min(start + _PART, last)])

        in_parallel(work, total.size, self.threads, CHUNK)

    def merge(self, other: "Aggregator") -> None:
        """Add another partial sum of the same round; all or nothing.

        Raises:
            ConfigError: if it was set up for another round, model, method or limit.
            DuplicateFrameError: if both folded the same client.
            LimitError: if together they hold more than max_clients frames, or too much weight.
        """
        self._check_whole()
        other._check_whole()
        if self._plan() != other._plan():
            raise ConfigError("only aggregators of the same round, model, method and limits can be merged")
        if self._senders & other._senders:
            raise DuplicateFrameError("both aggregators folded a frame of the same client")
        self._check_room(other.count, other.total_weight)
        self._torn = other._torn = True  # as in `add`
        self._fold_waiting()
        other._fold_waiting()
        other._torn = False
        self._sum += other._sum
        self._senders |= other._senders
        self._ones.update(other._ones)
        self._scales.update(other._scales)
        self.total_weight += other.total_weight
        self._torn = False

    def _plan(self) -> tuple[object, ...]:
        return (
            self.layout.digest,
            self.templates,
            self.method,
            self.round,
            self.weighted,
            self.max_clients,
            self.limits,
            self.planes,
            self._bound,
        )

    def finish(self) -> NDArray[np.float32]:
        """Return the weighted mean of the updates, float32, shape (layout.size,); of the coded group, the first plane.

        Raises:
            EmptyRoundError: if no frame was folded.
            FedmrnError: if a fold was interrupted half-way.
        """
        self._check_folded()
        mean = np.zeros(self.layout.size, np.float32)
        for group in self._exponents:
            span = self.layout.span(group)
            self._mean(group, span, mean[span])
        return mean

    def close(self) -> NDArray[np.float32]:
        """Return what `finish` does, written over the sum: no memory is needed beside it, and nothing can follow.

        Raises:
            EmptyRoundError: if no frame was folded.
            FedmrnError: if a fold was interrupted half-way, or the aggregator is closed.
        """
        self._check_folded()
        self._torn = True
        mean = self._sum.view(np.float32)  # half as wide: what is written was read before
        for group in Group:
            span = self.layout.span(group)
            if group in self._exponents:
                self._mean(group, span, mean[span])
            else:
                mean[span] = 0
        total, self._sum = self._sum, np.empty(0, np.int64)
        del mean
        total.resize(-(-self.layout.size // 2), refcheck=False)  # gives the rest back, without a copy
        return total.view(np.float32)[: self.layout.size]

    def finish_plane(self, plane: Plane) -> NDArray[np.float32]:
        """Return the weighted mean of one plane of the coded group, float32, shape (elements of it,).

        Raises:
            EmptyRoundError, FedmrnError: as `finish`.
            ValueError: the plane was not asked for.
        """
        self._check_folded()
        mean = np.empty(self._coded, np.float32)
        self._mean(Group.CODED, self._span(self.planes.index(plane)), mean)
        return mean

    def _check_folded(self) -> None:
        self._check_whole()
        if not self.total_weight:
            raise EmptyRoundError(f"round {self.round}: no update was folded, so there is no mean")
        self._torn = True
        self._fold_waiting()
        self._torn = False

    def _mean(self, group: Group, span: slice, out: NDArray[np.float32]) -> None:
        """Write the mean of a part of the sum that has the unit of a group; a model may have no coded group."""
        factor = ldexp(1.0, -self._exponents.get(group, 0)) / self.total_weight
        for start in range(0, out.size, _PART):
            part = self._sum[span.start + start : min(span.start + start + _PART, span.stop)]
            out[start : start + part.size] = part * factor


def _reading(reader: Reader) -> Fold:
    def read_and_fold(start: int, factor: float, near: bool, total: NDArray[np.int64]) -> None:
        values = np.empty(CHUNK, np.float32)
        for at in range(0, total.size, CHUNK):
            part = values[: min(CHUNK, total.size - at)]
            reader.read(start + at, part)
            fold(part, factor, near, total[at : at + part.size])

    return read_and_fold
