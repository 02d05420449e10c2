"""Frames in their places: an update into a round, a broadcast into a client, any frame into `fedmrn inspect`."""

import struct
import zlib
from functools import cache

import numpy as np

from fedmrn.codecs import codec_from
from fedmrn.errors import EncodeError, FrameError
from fedmrn.methods import ANY, METHODS, Method, check_consent, consent
from fedmrn.server import Round, admission, aggregate, fold, round, server, tally
from fedmrn.wire import frame, messages
from fedmrn.wire.frame import CHECKSUM_SIZE, DEFAULT_LIMITS, HEADER_SIZE, SECTION_SIZE, Frame, Kind, Limits
from fedmrn.wire.messages import encode_update, read_model, read_state
from fedmrn.wire.plain import plain

from .base import Target, require
from .frames import LAYOUT, LEAN, exchange, models, reseal, start
from .sections import CODEC_MODULES

_ROWS = {row.id: row for row in METHODS.values()}
_MODULES = (frame, messages, consent, round, server, aggregate, admission, fold, tally, *CODEC_MODULES)
_SMALL = Limits(max_bytes=1 << 16)
_BOB = 3
"""The weight of the client that has answered."""
_VECTOR = np.linspace(-0.01, 0.01, LAYOUT.size).astype(np.float32)


@cache
def _exchange(name: str) -> tuple[bytes, bytes]:
    return exchange(METHODS[name])


def _row(data: bytes) -> Method:
    """The method that a frame names; any will do for one that names none."""
    return _ROWS.get(int.from_bytes(data[6:8], "little"), METHODS["fedmrn"])


def _envelope(data: bytes, how: int) -> bytes:
    """Repair as `reseal` does; from 5 on, put every header that the receiver knows in place, around mutated bodies."""
    if how < 5 or len(data) < HEADER_SIZE + CHECKSUM_SIZE:
        return reseal(data, how)
    kind = data[5] == Kind.UPDATE
    good = _exchange(_row(data).name)[kind]
    out = bytearray(good[:HEADER_SIZE])
    out[48:56] = data[48:56] if kind and how == 5 else good[48:56]  # the weight is the client's to choose
    spare, at, there = len(data) - len(good), HEADER_SIZE, HEADER_SIZE
    for s in Frame.from_bytes(good).sections:
        head, size = SECTION_SIZE + len(s.params), len(s.body)
        more = size and max(spare, -size)  # the first body takes what was inserted or cut
        spare = 0 if size else spare
        out += good[at : at + 12] + struct.pack("<Q", size + more) + s.params
        body = data[there + head : there + head + size + more]
        out += body.ljust(size + more, b"\0")
        at, there = at + head + size, there + head + size + more
    struct.pack_into("<Q", out, 8, len(out) + CHECKSUM_SIZE)
    return bytes(out) + struct.pack("<I", zlib.crc32(out))


class _Fold:
    """A round of a method in which bob's update was folded."""

    def __init__(self, row: Method) -> None:
        self.server = start(row)
        self.round: Round = self.server.begin(1, ["ann", "bob"])
        broadcast = Frame.from_bytes(self.round.broadcast("bob"))
        vector = np.where(self.server.state != 0, 0.005, 0).astype(np.float32)
        self.round.add("bob", encode_update(broadcast, LAYOUT, vector, weight=_BOB, sampling_key=2).to_bytes())
        self.sum = self.content()

    def content(self) -> tuple[object, ...]:
        folded = self.round.aggregator
        return (
            folded.sums.integers.tobytes(),
            len(folded.kept),
            tuple(folded.census.weights),
            (len(folded.census.scales), len(folded.census.values)),
            frozenset(folded.admission.senders),
            folded.total_weight,
            frozenset(self.round.answered),
        )


_folds: dict[int, _Fold] = {}


def _check_update(data: bytes) -> None:
    row = _row(data)
    fold = _folds.pop(row.id, None) or _Fold(row)
    try:
        found = fold.round.add("ann", data)
    except FrameError:
        require(fold.content() == fold.sum, "a refused frame has changed the sum")
        _folds[row.id] = fold
        return
    require(found.to_bytes() == data, "an accepted frame is written as other bytes")
    cap = 4 * min(_BOB, found.weight)  # the lower median of two is the smaller
    weight = min(_BOB, cap) + min(found.weight, cap) if row.weighted else 2
    require(fold.round.aggregator.total_weight == weight, "the total weight is not that of both clients")
    limit = DEFAULT_LIMITS.max_value
    for s in found.sections:
        codec = codec_from(s.codec, s.params).bind(fold.server.state[LAYOUT.span(s.group)])
        values = codec.decode(s.body, s.count, found.noise_key, limit)
        require(bool((np.abs(values) <= codec.bound(limit)).all()), f"{codec.name}: a value above its bound, or NaN")
    require(bool(np.isfinite(fold.round.finish()).all()), "the state after the round is not finite")


def _check_broadcast(data: bytes) -> None:
    """A client may also find that it cannot send what is asked: not zero where the state is, too large for 16 bits."""
    layout = LEAN if data[32:48] == LEAN.digest else LAYOUT
    try:
        found = Frame.from_bytes(data)
        if found.kind is Kind.MODEL:
            require(
                bool(np.isfinite(read_model(found, layout)).all()), "the values of an accepted model are not finite"
            )
            return
        require(check_consent(found, ANY).id == found.method, "consent to another method than the frame's")
        state = read_state(found, layout)
        require(bool(np.isfinite(state).all()), "the state of an accepted broadcast is not finite")
        answer = encode_update(found, layout, _VECTOR[: layout.size], weight=1, sampling_key=2)
    except (FrameError, EncodeError):
        return
    require(Frame.from_bytes(answer.to_bytes(), kind=Kind.UPDATE) == answer, "the answer is not the frame that it was")


def _check_inspect(data: bytes) -> None:
    try:
        shown = plain(Frame.from_bytes(data, limits=_SMALL), _SMALL)
    except FrameError:
        return
    again = Frame.from_bytes(shown.to_bytes())
    require(again == shown, "the plain frame is not one that can be read")
    require(plain(again).to_bytes() == shown.to_bytes(), "what is plain is not plain")


def _updates() -> list[bytes]:
    return [_exchange(name)[1] for name in METHODS]


def _broadcasts() -> list[bytes]:
    return [_exchange(name)[0] for name in METHODS] + [exchange(METHODS["topk"], LEAN)[0]]


UPDATE = Target("update", _check_update, _updates, _MODULES, memory=1 << 20, repair=_envelope)
BROADCAST = Target(
    "broadcast", _check_broadcast, lambda: _broadcasts() + models(), _MODULES, memory=1 << 20, repair=_envelope
)
INSPECT = Target(
    "inspect",
    _check_inspect,
    lambda: _updates() + _broadcasts() + models(),
    _MODULES,
    memory=16 * _SMALL.max_bytes,
    repair=reseal,
)
