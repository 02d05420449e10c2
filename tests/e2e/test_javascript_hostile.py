"""The client in JavaScript and the library on the same damaged frames: the same values to the bit, or one error."""

import json
import re
import struct
import subprocess
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from node import NODE, needs_node
from numpy.typing import NDArray

from fedmrn.codecs import codec_from
from fedmrn.errors import FrameError
from fedmrn.methods import METHODS, check_consent
from fedmrn.server import Round, Server
from fedmrn.wire.frame import Frame, Kind
from fedmrn.wire.held import Held
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import check_templates, encode_update, read_state
from fedmrn.wire.terms import read_terms

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "examples" / "javascript" / "fedmrn"
TABLE = ROOT / "src" / "fedmrn" / "numerics" / "gaussian.bin"
LAYOUT = Layout.of(
    [
        TensorSpec("w", (30, 9), Group.CODED),
        TensorSpec("b", (7,), Group.CODED),
        TensorSpec("n", (4,), Group.DENSE),
        TensorSpec("s", (2,), Group.STATS),
        TensorSpec("v", (3,), Group.VARIANCE),
    ]
)
TEXT = LAYOUT.to_json()
DOWNS = ("float32", "float16", "eden2", "eden4", "grid")
OPTIONS: dict[str, list[dict[str, str]]] = {
    "fedmrn": [{}, {"coding": "entropy"}, {"coding": "sorted", "noise": "gaussian"}, {"noise_key": "round"}],
    "fedmrn-s": [{}, {"noise": "gaussian"}],
}
EACH = 40
"""Damaged broadcasts and updates, each, for every good one."""


class Exchange:
    """The second round of a client: what it was sent before and now, and what it answers."""

    def __init__(self, method: str, options: dict[str, str], down: str) -> None:
        row = METHODS[method]
        scheme, model = row.scheme(options or None, down=down), np.linspace(-0.01, 0.01, LAYOUT.size).astype(np.float32)
        model[::5] = 0
        variances = LAYOUT.span(Group.VARIANCE)
        model[variances] = np.abs(model[variances])
        server = Server(LAYOUT, scheme, Server.initial(LAYOUT, scheme, model), b"a secret of tests", run=bytes(16))
        self.masked = row.masked
        first = server.begin(1, ["ann"])
        self.before = first.broadcast("ann")
        first.add("ann", self._answer(server, self.before))
        first.finish()
        self.round: Round = server.begin(2, ["ann"])
        self.broadcast = self.round.broadcast("ann")
        self.update = self._answer(server, self.broadcast)

    def _answer(self, server: Server, broadcast: bytes) -> bytes:
        vector = np.where(server.state != 0, np.linspace(0.9e-2, 1e-5, LAYOUT.size), 0).astype(np.float32)
        return encode_update(Frame.from_bytes(broadcast), LAYOUT, vector, weight=2, sampling_key=1).to_bytes()


@dataclass
class Row:
    """Frames for the client in JavaScript, and what the library says of them."""

    name: str
    before: bytes
    broadcast: bytes
    update: bytes | None
    expected: str

    def line(self) -> str:
        """Return it as JSON."""
        update = None if self.update is None else self.update.hex()
        row = {"layout": TEXT, "before": [self.before.hex()], "broadcast": self.broadcast.hex(), "update": update}
        return json.dumps(row)


def kinds() -> Iterator[tuple[str, dict[str, str], str]]:
    """Every method; of two of them every encoding of the broadcast and several of the mask."""
    for name in METHODS:
        for options in OPTIONS.get(name, [{}]):
            yield name, options, "float32"
    for down in DOWNS[1:]:
        yield "fedmrn", {}, down
        yield "fedmrn-s", {}, down


def reseal(out: bytearray) -> bytes:
    """Put a frame's length and checksum right."""
    if len(out) < 60:
        return bytes(out)
    struct.pack_into("<Q", out, 8, len(out))
    struct.pack_into("<I", out, len(out) - 4, zlib.crc32(memoryview(out)[:-4]))
    return bytes(out)


def damaged(data: bytes, dice: np.random.Generator) -> bytes:
    """A frame with some bytes changed, inserted or cut, and repaired to some extent."""
    out = bytearray(data)
    for _ in range(int(dice.integers(1, 4))):
        at = int(dice.integers(4, len(out)))
        what = int(dice.integers(8))
        if what == 0:
            del out[at : at + int(dice.integers(1, 9))]
        elif what == 1:
            out[at:at] = dice.bytes(int(dice.integers(1, 9)))
        elif what == 2:
            out[at] ^= 1 << int(dice.integers(8))
        else:
            out[at] = int(dice.choice([0, 1, 2, 127, 128, 255, int(dice.integers(256))]))
    return reseal(out)


def shown(values: NDArray[np.float32]) -> str:
    return sha256(values.astype("<f4").tobytes()).hexdigest()


def read_by_client(exchange: Exchange, data: bytes) -> str:
    """What the library says of a broadcast, in the order of its client."""
    held = Held(LAYOUT)
    read_state(Frame.from_bytes(exchange.before), LAYOUT, held)
    try:
        frame = Frame.from_bytes(data, kind=Kind.BROADCAST)
        row = check_consent(frame, "any")
        row.local_options(read_terms(frame))
        state = read_state(frame, LAYOUT, held)
        check_templates(frame, LAYOUT)
    except FrameError as error:
        return type(error).__name__
    return shown(state)


def read_by_server(exchange: Exchange, data: bytes) -> str:
    """What the library says of an update; where it is taken, the exchange is used up."""
    try:
        frame = exchange.round.add("ann", data)
    except FrameError as error:
        return type(error).__name__
    held = Held(LAYOUT)
    read_state(Frame.from_bytes(exchange.before), LAYOUT, held)
    state = read_state(Frame.from_bytes(exchange.broadcast), LAYOUT, held)
    values = np.empty(LAYOUT.size, np.float32)
    for section in frame.sections:
        where = LAYOUT.span(section.group)
        codec = codec_from(section.codec, section.params).bind(state[where])
        values[where] = codec.decode(section.body, section.count, frame.noise_key)
    return shown(values)


def rows(method: str, options: dict[str, str], down: str) -> Iterator[Row]:
    """A good broadcast and update, then damaged ones."""
    name, exchange = f"{method} {options} {down}", Exchange(method, options, down)
    before, broadcast, update = exchange.before, exchange.broadcast, exchange.update
    dice = np.random.default_rng(zlib.crc32(name.encode()))
    yield Row(name, before, broadcast, None, read_by_client(exchange, broadcast))
    yield Row(name, before, broadcast, update, read_by_server(exchange, update))
    for k in range(EACH):
        bad = damaged(broadcast, dice)
        yield Row(f"{name}, broadcast {k}", before, bad, None, read_by_client(exchange, bad))
        exchange = Exchange(method, options, down) if exchange.round.answered else exchange
        bad = damaged(update, dice)
        yield Row(f"{name}, update {k}", before, broadcast, bad, read_by_server(exchange, bad))


@pytest.mark.slow
@needs_node
def test_both_say_the_same() -> None:
    given = [row for kind in kinds() for row in rows(*kind)]
    script = str(ROOT / "tests" / "support" / "verdicts.mjs")
    command = [str(NODE), script, CLIENT.as_uri() + "/", str(TABLE)]
    text = "".join(row.line() + "\n" for row in given)
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    differ = [
        f"{row.name}: {row.expected}, in JavaScript {one}"
        for row, one in zip(given, said, strict=True)
        if row.expected != one
    ]
    assert not differ, f"{len(differ)} of {len(given)}: " + "\n".join(differ[:40])
    expected = {row.expected for row in given}
    assert len({e for e in expected if re.fullmatch("[0-9a-f]{64}", e)}) > len(METHODS)
    assert {"MalformedFrameError", "BoundError", "WrongParametersError", "LostModelError", "PaddingError"} <= expected
