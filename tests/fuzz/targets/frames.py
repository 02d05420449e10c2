"""The parser of frames alone: what it takes, it can write again, byte for byte."""

import struct
import zlib
from collections.abc import Mapping

import numpy as np

from fedmrn.codecs import Codec, EncodeKeys
from fedmrn.errors import FrameError
from fedmrn.methods import DOWN, METHODS, Method
from fedmrn.methods.method import GRID
from fedmrn.server import Server
from fedmrn.wire import frame
from fedmrn.wire.frame import CHECKSUM_SIZE, HEADER_SIZE, SECTION_SIZE, Frame, Kind, Role
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update, model_frame
from fedmrn.wire.statistics import statistics_frame

from .base import Target, require

LAYOUT = Layout.of(
    [
        TensorSpec("w", (3, 50), Group.CODED),
        TensorSpec("b", (7,), Group.CODED),
        TensorSpec("n", (4,), Group.DENSE),
        TensorSpec("s", (2,), Group.STATS),
        TensorSpec("v", (3,), Group.VARIANCE),
    ]
)
LEAN = Layout.of([TensorSpec("w", (40,), Group.CODED)])
_OPTIONS = {
    "fedmrn-post": {"coding": "entropy"},
    "fedmrn-no-pm": {"coding": "entropy"},
    "fedmrn-no-sm": {"noise_key": "round"},
}
_AT_BODY = 12  # of a section's header: where the length of its body lies


def start(row: Method, layout: Layout = LAYOUT, down: str = "float32") -> Server:
    """A server at the start of a run, from a model with a few zeros; two of the methods code their masks."""
    scheme, model = (
        row.scheme(_OPTIONS.get(row.name), down=down),
        np.linspace(-0.01, 0.01, layout.size).astype(np.float32),
    )
    model[::5] = 0
    variances = layout.span(Group.VARIANCE)
    model[variances] = np.abs(model[variances])
    return Server(layout, scheme, Server.initial(layout, scheme, model), b"a secret of tests", run=bytes(16))


def exchange(row: Method, layout: Layout = LAYOUT) -> tuple[bytes, bytes]:
    """A broadcast of a method to the client ann, and her answer."""
    started = start(row, layout)
    broadcast = started.begin(1, ["ann", "bob"]).broadcast("ann")
    vector = np.where(started.state != 0, np.linspace(0.9e-2, 1e-5, layout.size), 0).astype(np.float32)
    answer = encode_update(Frame.from_bytes(broadcast), layout, vector, weight=2, sampling_key=1)
    return broadcast, answer.to_bytes()


def reseal(data: bytes, how: int) -> bytes:
    """Repair a frame: 0 nothing; 1 to 3 its length and checksum; from 4 on the lengths of its sections as well."""
    if how == 0 or len(data) < HEADER_SIZE + CHECKSUM_SIZE:
        return data
    out = bytearray(data)
    end = len(out) - CHECKSUM_SIZE
    struct.pack_into("<Q", out, 8, len(out))
    if how >= 4:
        _fit(out, end)
    struct.pack_into("<I", out, end, zlib.crc32(memoryview(out)[:end]))
    return bytes(out)


def _fit(out: bytearray, end: int) -> None:
    """Write the number of sections that there is room for; the last one's body takes what is left."""
    at, found = HEADER_SIZE, 0
    while end - at >= SECTION_SIZE:
        found += 1
        start = at + SECTION_SIZE + out[at + 3]
        size = int.from_bytes(out[at + _AT_BODY : at + SECTION_SIZE], "little")
        if 0 <= end - start - size < SECTION_SIZE or start + size > end:
            struct.pack_into("<Q", out, at + _AT_BODY, max(end - start, 0))
            break
        at = start + size
    struct.pack_into("<I", out, 20, found)


def _check(data: bytes) -> None:
    try:
        found = Frame.from_bytes(data)
    except FrameError:
        return
    require(found.to_bytes() == data, "an accepted frame is written as other bytes")
    require(sum(found.account().values()) == len(data), "the account of an accepted frame does not add up")
    update, places = found.kind is Kind.UPDATE, {(s.role, s.group) for s in found.sections}
    weighs = found.kind is Kind.PARTIAL or (found.weight > 0) is (update or found.kind is Kind.STATISTICS)
    require(weighs, "a weight that this kind of frame cannot have")
    require(len(places) == len(found.sections), "two sections of one role and group")
    for s in found.sections:
        require((s.role is Role.UPDATE) is update, "a role that this kind of frame cannot have")
        require(s.role is not Role.TEMPLATE or not s.body, "a template with a body")
        values = found.kind in (Kind.MODEL, Kind.STATISTICS)
        require(not values or s.role is Role.STATE, "a model or statistics that ask for something")


def model_of(row: Method, codecs: Mapping[Group, Codec]) -> bytes:
    """A model to evaluate, in these codecs."""
    keys = EncodeKeys(7, 8)
    return model_frame(LAYOUT, start(row).state, method=row.id, round=1, codecs=codecs, keys=keys).to_bytes()


def models() -> list[bytes]:
    """A model to evaluate in every encoding of a state; and the broadcast of a public one."""
    row = METHODS["fedmrn"]
    found = [model_of(row, row.scheme(down=down).down) for down in DOWN if down != GRID]
    return [*found, start(row, down=GRID).begin(1, ["ann"]).broadcast("ann")]


def _seeds() -> list[bytes]:
    values = start(METHODS["fedmrn"]).state[LAYOUT.trainable :]
    statistics = statistics_frame(Frame.from_bytes(models()[0]), LAYOUT, values, weight=5).to_bytes()
    return [statistics, *models(), *(data for row in METHODS.values() for data in exchange(row))]


FRAME = Target("frame", _check, _seeds, (frame,), memory=64 << 10, repair=reseal)
