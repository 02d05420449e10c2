"""Public models that a client must refuse, in the order of section 2.16's table: whole ones, and differences."""

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fedmrn import errors as e
from fedmrn.server.grid import PublicGrid
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.grid import LARGEST_NUMBER, Points, to_body
from fedmrn.wire.layout import Group
from making.damage import Change, changed, patch, with_body, without
from making.federation import CLIENTS, RECORDED, Play
from making.layouts import LAYOUTS
from making.readers import Refused, Row, each
from making.refused_broadcasts import play

CODED, DENSE, STATS, VARIANCE = Group
STATE, MALFORMED = Role.STATE, e.MalformedFrameError
TINY = LAYOUTS["tiny"]
FLAGS, NUMBER, BASE, RUN, START, DIGEST = 0, 1, 5, 9, 17, 25
"""Where each of the parameters of codec 15 starts."""


def broadcasts(down: PublicGrid) -> tuple[Play, list[Frame]]:
    """Return a run of two rounds, and what the recorded client is sent in each."""
    run, found = play("fedmrn", down=down), []
    for number in (1, 2):
        round_ = run.server.begin(number, CLIENTS)
        for client in CLIENTS:
            data = round_.broadcast(client)
            if client == RECORDED:
                found.append(Frame.from_bytes(data))
            round_.add(client, run.answer(client, number, data)[0].to_bytes())
        round_.finish()
    return run, found


def refused_public_models() -> Iterator[Refused]:
    """Yield all frames of this module."""
    _, (whole, later) = broadcasts(PublicGrid())
    run, (counted, _) = broadcasts(PublicGrid(from_start=True))
    yield from each("grid", wholes(whole))
    before = (whole.to_bytes(),)
    yield from each("grid-difference", differences(later), before=before)
    first = ("no-base", e.LostModelError, "This client holds no public model.", later.to_bytes())
    yield from each("grid-difference", [first])
    yield from each("grid-start", starts(counted), start=run.start)
    other = run.start.copy()
    other[0] = 0.5
    wrong = ("other", e.WrongStartError, "This client started with other weights.", counted.to_bytes())
    yield from each("grid-start", [wrong], start=other)
    unknown = ("unknown", e.WrongStartError, "This client does not know what the run started with.", counted.to_bytes())
    yield from each("grid-start", [unknown])


def with_params(frame: Frame, change: Change, *groups: Group) -> bytes:
    """Return the bytes of a frame whose public model has other parameters, in these groups or in all."""
    for group in groups or Group:
        frame = changed(frame, STATE, group, params=change)
    return frame.to_bytes()


def wholes(good: Frame) -> Iterator[Row]:
    """A whole public model that does not hold together."""
    yield "missing", MALFORMED, "Group 1 is missing.", without(good, STATE, DENSE).to_bytes()
    yield "elements", MALFORMED, "Group 1 has an element less.", changed(good, STATE, DENSE, count=5).to_bytes()
    raw = changed(good, STATE, DENSE, codec=0, params=b"", body=bytes(24)).to_bytes()
    yield "mixed", MALFORMED, "Group 1 travels by codec 0, and others by codec 15.", raw
    yield "parameters", MALFORMED, "Parameters have 32 bytes.", with_params(good, lambda p: p[:-1], STATS)
    yield "flags", MALFORMED, "Flag 4 does not exist.", with_params(good, patch(FLAGS, "B", 4))
    yield "base", MALFORMED, "A base is named without flag 1.", with_params(good, patch(BASE, "<I", 1))
    yield "start", MALFORMED, "A start is named without flag 2.", with_params(good, patch(START, "B", 1))
    yield "numbers-differ", MALFORMED, "Groups are of two models.", with_params(good, patch(NUMBER, "<I", 9), STATS)
    yield "runs-differ", MALFORMED, "Groups are of two runs.", with_params(good, patch(RUN, "B", 0), VARIANCE)
    digest = with_params(good, patch(DIGEST, "<Q", 0), DENSE)
    yield "digest", MALFORMED, "The digest is not that of the values.", digest

    def body(change: Change, group: Group = CODED) -> bytes:
        return with_body(good, change, group, STATE)

    # Group 0 has two tensors, and one table: steps (2 bytes), then first, values, escapes, frequencies.
    yield "steps-cut", MALFORMED, "A step is missing.", body(lambda _: b"\0")
    yield "step", e.BoundError, "A step is 2^81.", body(patch(0, "b", 81))
    yield "step-of-variances", e.BoundError, "Of group 3 every step is 17.", body(patch(0, "b", 16), VARIANCE)
    yield "table-cut", MALFORMED, "The table is cut.", body(lambda b: b[:7])
    yield "table-first", MALFORMED, "A first value is 2^30 + 1.", body(patch(2, "<i", (1 << 30) + 1))
    yield "table-escapes", MALFORMED, "Escapes are 0 or 1.", body(patch(7, "B", 2))
    yield "table-empty", MALFORMED, "A table has no values.", body(lambda b: b[:6] + bytes(2) + b[8:])
    yield "frequencies", MALFORMED, "Frequencies are 4,097 together.", body(lambda b: patch(8, "<H", _u16(b, 8) + 1)(b))
    yield "block-cut", MALFORMED, "The block is cut.", body(lambda b: b[:-1])
    yield "bytes-left", MALFORMED, "An escape is left.", body(lambda b: b + bytes(4))
    for name, number in (("number", LARGEST_NUMBER + 1), ("number-negative", -LARGEST_NUMBER - 1)):
        yield name, e.BoundError, f"A number is {number}.", body(lambda _, n=number: rewritten(CODED, n))  # type: ignore[misc]
    yield "variance", e.BoundError, "A variance has the place -1.", body(lambda _: rewritten(VARIANCE, -1), VARIANCE)
    infinite = body(lambda _: rewritten(VARIANCE, 16_320), VARIANCE)
    yield "variance-infinite", e.BoundError, "A variance has the place of infinity.", infinite


def differences(good: Frame) -> Iterator[Row]:
    """What changed since public model 0, which this client holds."""
    lost = e.LostModelError
    yield "base", lost, "It is to public model 7.", with_params(good, patch(BASE, "<I", 7))
    yield "run", lost, "It is of another run.", with_params(good, patch(RUN, "<Q", 1))
    yield "digest", lost, "The digest is not that of the values.", with_params(good, patch(DIGEST, "<Q", 0), DENSE)
    number = with_body(good, lambda _: rewritten(CODED, LARGEST_NUMBER), CODED, STATE)
    yield "sum", lost, "A sum is beyond 2^24 - 1.", number
    far = with_body(good, lambda _: rewritten(CODED, 2 * LARGEST_NUMBER + 1), CODED, STATE)
    yield "number", e.BoundError, "A difference is beyond 2 (2^24 - 1).", far
    fine = with_body(good, patch(0, "b", -80), CODED, STATE)
    yield "step", lost, "The base cannot be expressed in so fine a step.", fine
    place = with_body(good, lambda _: rewritten(VARIANCE, -16_384), VARIANCE, STATE)
    yield "variance", lost, "A variance has a place below 0.", place
    mixed = with_params(good, lambda p: struct.pack("<BII", 0, *struct.unpack_from("<I", p, NUMBER), 0) + p[9:], STATS)
    yield "mixed", MALFORMED, "Group 2 is whole, and others are differences.", mixed


def starts(good: Frame) -> Iterator[Row]:
    """A public model that counts from starting weights, which this client has."""
    digest = with_params(good, patch(START, "<Q", 1), VARIANCE)
    yield "digest", e.WrongStartError, "The digest of group 3's starting weights is another.", digest
    without_flag = with_params(good, patch(FLAGS, "B", 0))
    yield "flag", MALFORMED, "A start is named without flag 2.", without_flag


def rewritten(group: Group, number: int) -> bytes:
    """Return a body of a group in which one number is this, and the others are 1."""
    numbers: NDArray[np.int32] = np.ones(sum(TINY.sizes(group)), np.int32)
    numbers[-1] = number
    exponents = np.full(len(TINY.sizes(group)), 17 if group is VARIANCE else -10, np.int8)
    return to_body(TINY, group, Points(exponents, numbers))


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")
