"""Frames that a server must refuse: updates that do not belong to the round, bodies that are damaged, statistics."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from math import inf, nan

from fedmrn import errors as e
from fedmrn.errors import FrameError
from fedmrn.server import Round
from fedmrn.server.calibration import Calibration
from fedmrn.wire.frame import Frame, Kind, Role
from fedmrn.wire.layout import Group
from making.damage import Change, changed, patch, with_body, with_header, without
from making.federation import CLIENTS, RECORDED, Play
from making.readers import Refused, Row
from making.refused_broadcasts import play

CODED, DENSE, STATS, VARIANCE = Group
UPDATE, STATE = Role.UPDATE, Role.STATE
MALFORMED = e.MalformedFrameError
Damage = tuple[str, type[FrameError], str, Change]
"""(name, error, why, what is done to a body)."""


def cut(body: bytes) -> bytes:
    """Take the last byte away."""
    return body[:-1]


def more(body: bytes) -> bytes:
    """Put a byte more."""
    return body + b"\0"


class Asked:
    """A round of a method, one client's broadcast and its update, to be damaged; nothing that it refuses changes it.

    Attributes:
        play: the run.
        round: the open round.
        broadcast, update: of the recorded client.
    """

    def __init__(self, method: str, layout: str = "tiny", rounds: int = 1, **changes: object) -> None:
        changes = {"down": "float32", **changes}
        self.layout, self.play = layout, play(method, layout, **changes)
        for number in range(1, rounds + 1):
            self.round = self.play.server.begin(number, CLIENTS)
            for client in CLIENTS[number == rounds :]:
                self.round.add(client, self._answer(client, number))
            if number < rounds:
                self.round.finish()
        self.broadcast = self.round.broadcast(RECORDED)
        self.update = Frame.from_bytes(self._answer(RECORDED, rounds))

    def _answer(self, client: str, number: int) -> bytes:
        return self.play.answer(client, number, self.round.broadcast(client))[0].to_bytes()

    def refused(self, prefix: str, rows: Iterator[Row]) -> Iterator[tuple[Refused, Round | Calibration]]:
        """Yield frames that this round refuses, and the round."""
        for name, error, why, data in rows:
            row = Refused(
                name=f"{prefix}-{name}",
                why=why,
                error=error,
                data=data,
                reader="server",
                kind=Kind.UPDATE,
                layout=self.layout,
                before=(self.broadcast,),
            )
            yield row, self.round

    def damaged(self, prefix: str, rows: Iterator[Damage]) -> Iterator[tuple[Refused, Round | Calibration]]:
        """Yield updates with a damaged body of the coded group."""
        found = ((name, error, why, with_body(self.update, change)) for name, error, why, change in rows)
        yield from self.refused(prefix, found)


def refused_by_servers() -> Iterator[tuple[Refused, Round | Calibration]]:
    """Yield all frames of this module, each with what refuses it."""
    fixed = Asked("fedmrn", options={"scale": 0.01})
    yield from fixed.refused("update", headers(fixed))
    yield from fixed.damaged("codec-1", masks())
    private = Asked("fedmrn-s", "lean", options={"theta": 0.125, "scale": 0.05, "noise_key": "round"})
    weight = with_header(private.update.to_bytes(), weight=2)
    why = "Clients were told theta, and whoever draws private masks says weight 1."
    yield from private.refused("private", iter([("weight", e.WrongParametersError, why, weight)]))
    own = Asked("fedmrn-s", rounds=2)
    yield from own.damaged("codec-12", own_scales())
    yield from Asked("fedmrn-s", options={"noise_key": "round"}).damaged("codec-13", told_scales())
    yield from Asked("fedavg").damaged("codec-0", floats())
    yield from Asked("signsgd").damaged("codec-2", signs())
    yield from Asked("topk", options={"density": 0.5}).damaged("codec-3", sparse())
    yield from Asked("terngrad").damaged("codec-4", ternary())
    yield from Asked("qsgd").damaged("codec-5", levels())
    yield from Asked("eden-half", "lean").damaged("codec-6", rotated())
    yield from Asked("fedpm").damaged("codec-7", masks())
    yield from Asked("fedsparsify-global", rounds=2, options={"rounds": 2}).damaged("codec-8", floats())
    entropy = {"scale": 0.01, "noise": "gaussian"}
    yield from Asked("fedmrn", "plain", options={"coding": "sorted", **entropy}, moved=0.05).damaged("codec-9", coded())
    yield from Asked("fedmrn-mrc", "plain", options=entropy, moved=0.05, spread=0.004).damaged("codec-11", paths())
    interleaved = Asked("fedmrn", "plain", options={"coding": "entropy", **entropy}, moved=0.05)
    yield from interleaved.damaged("codec-14", lanes())
    for side, codec, rows in (("float16", 10, halves()), ("float8", 16, bytes_of_a_float())):
        asked = Asked("fedmrn", side=side)
        found = ((n, error, why, with_body(asked.update, change, DENSE)) for n, error, why, change in rows)
        yield from asked.refused(f"codec-{codec}", found)
    yield from statistics()


def headers(asked: Asked) -> Iterator[Row]:
    """Updates that are whole, and not of this round, client or model."""
    good, data = asked.update, asked.update.to_bytes()
    yield "kind", e.WrongKindError, "A broadcast comes back.", asked.broadcast
    yield "weight", MALFORMED, "It has no weight.", with_header(data, weight=0)
    yield "weight-large", e.LimitError, "Its weight is 2^20 + 1.", with_header(data, weight=(1 << 20) + 1)
    yield "method", e.WrongMethodError, "It is of method 3.", with_header(data, method=3)
    yield "round", e.WrongRoundError, "It is of round 2.", with_header(data, round=2)
    yield "layout", e.WrongLayoutError, "It is of another model.", replace(good, layout_digest=bytes(16)).to_bytes()
    key = with_header(data, noise_key=good.noise_key ^ 1)
    yield "key", e.WrongKeyError, "It repeats another noise key.", key
    swapped = replace(good, sections=good.sections[::-1]).to_bytes()
    wrong = e.WrongParametersError
    yield "order", wrong, "Its sections stand in another order.", swapped
    yield "missing", wrong, "Group 3 is missing.", without(good, UPDATE, VARIANCE).to_bytes()
    half = changed(good, UPDATE, DENSE, codec=10, body=bytes(12)).to_bytes()
    yield "codec", wrong, "Group 1 comes by codec 10, and 0 was asked for.", half
    yield "unknown-codec", wrong, "Codec 99 was not asked for.", changed(good, UPDATE, CODED, codec=99).to_bytes()
    yield "parameters", wrong, "The law is another.", changed(good, UPDATE, CODED, params=patch(0, "B", 1)).to_bytes()
    yield "elements", wrong, "Group 1 has an element less.", changed(good, UPDATE, DENSE, count=5).to_bytes()


def masks() -> Iterator[Damage]:
    """Bodies of 19 bits."""
    yield "length", MALFORMED, "It is a byte shorter.", cut
    yield "length-more", MALFORMED, "It is a byte longer.", more
    yield "padding", e.PaddingError, "An unused bit is set.", lambda body: body[:-1] + bytes([body[-1] | 128])


def floats() -> Iterator[Damage]:
    """Bodies of float32."""
    yield "length", MALFORMED, "It is a byte shorter.", cut
    yield "length-more", MALFORMED, "It is a byte longer.", more
    yield "nan", e.NonFiniteError, "A value is NaN.", patch(4, "<f", nan)
    yield "infinity", e.NonFiniteError, "A value is infinite.", patch(4, "<f", -inf)
    yield "limit", e.BoundError, "A value is above 2^16.", patch(4, "<f", 65536 + 2**-7)


def table(scale: int = 12) -> Iterator[Damage]:
    """Tables of scales: u32, then 12 bytes a run."""
    yield "table-cut", MALFORMED, "The table is cut.", lambda body: body[:3]
    yield "runs", MALFORMED, "A run more is said.", patch(0, "<I", 3)
    yield "runs-many", MALFORMED, "2^32 - 1 runs are said.", patch(0, "<I", (1 << 32) - 1)
    yield "size-0", MALFORMED, "A run has no elements.", lambda body: patch(16, "<Q", 19)(patch(4, "<Q", 0)(body))
    wrapped = (1 << 64) - 1
    yield (
        "sizes-wrap",
        MALFORMED,
        "Sizes add up modulo 2^64.",
        lambda b: patch(16, "<Q", 20)(patch(4, "<Q", wrapped)(b)),
    )
    yield "sizes", MALFORMED, "Sizes are of 18 elements.", patch(4, "<Q", 14)
    yield "scale-nan", e.NonFiniteError, "A scale is NaN.", patch(scale, "<f", nan)
    yield "scale-sign", e.BoundError, "A scale is -0.", patch(scale, "<f", -0.0)
    yield "scale-limit", e.BoundError, "A scale is above 2^16.", patch(scale, "<f", 2.0**17)
    other = e.WrongParametersError
    yield "other-runs", other, "Runs are of other tensors.", lambda b: patch(16, "<Q", 5)(patch(4, "<Q", 14)(b))


def own_scales() -> Iterator[Damage]:
    """Masks in scales of the client's own, in a round that tells caps."""
    yield from table()
    yield "cap", e.BoundError, "A scale is above its cap.", patch(12, "<f", 1.0)
    yield "power", MALFORMED, "A scale is no power of two.", patch(12, "<f", 0.75 * 2.0**-7)
    yield "scale-0", MALFORMED, "A scale is 0.", patch(12, "<f", 0.0)
    yield "scale-small", MALFORMED, "A scale is 2^-81.", patch(12, "<f", 2.0**-81)
    yield "length", MALFORMED, "The mask is a byte shorter.", cut
    yield "padding", e.PaddingError, "An unused bit is set.", lambda body: body[:-1] + bytes([body[-1] | 128])


def told_scales() -> Iterator[Damage]:
    """Masks in scales that were told: after the table a byte for each of two tensors, then three of the mask."""
    yield "not-told", e.WrongParametersError, "A scale is another than was told.", patch(12, "<f", 2.0**-20)
    yield "wanted", MALFORMED, "A client wants 2^81.", patch(-5, "b", 81)
    yield "cut", MALFORMED, "It ends before what is wanted.", lambda body: body[:-4]
    yield "length", MALFORMED, "The mask is a byte shorter.", cut


def signs() -> Iterator[Damage]:
    """Signs and scales."""
    yield from table()
    yield "length", MALFORMED, "The signs are a byte shorter.", cut
    yield "padding", e.PaddingError, "An unused bit is set.", lambda body: body[:-1] + bytes([body[-1] | 128])


def sparse() -> Iterator[Damage]:
    """Ten values of 32 bits, then places."""
    yield "length", MALFORMED, "The values are cut.", lambda body: body[:39]
    yield "nan", e.NonFiniteError, "A value is NaN.", patch(0, "<f", nan)
    yield "limit", e.BoundError, "A value is above 2^16.", patch(0, "<f", 70_000.0)
    yield "places-cut", MALFORMED, "The last places are missing.", lambda body: body[:41]
    yield "places-beyond", MALFORMED, "A gap leads beyond the vector.", lambda body: body[:40] + b"\xff" * 8
    yield "bytes-left", MALFORMED, "A byte is left.", more
    yield "padding", e.PaddingError, "An unused bit is set.", lambda body: body[:-1] + bytes([body[-1] | 128])


def ternary() -> Iterator[Damage]:
    """Scales, then 19 digits in four bytes."""
    yield from table()
    yield "length", MALFORMED, "It is a byte shorter.", cut
    yield "digit", MALFORMED, "A byte is 243.", patch(-2, "B", 243)
    yield "padding", e.PaddingError, "The unused digit is not 0.", lambda body: body[:-1] + bytes([body[-1] % 81 + 81])


def levels() -> Iterator[Damage]:
    """One norm, then 19 symbols of four bits, 0 to 14."""
    yield "length", MALFORMED, "It is a byte shorter.", cut
    yield "norm-nan", e.NonFiniteError, "A norm is NaN.", patch(0, "<f", nan)
    yield "norm-sign", e.BoundError, "A norm is -0.", patch(0, "<f", -0.0)
    yield "norm-limit", e.BoundError, "A norm is above 2^16.", patch(0, "<f", 70_000.0)
    yield "symbol", MALFORMED, "A symbol is 15.", patch(4, "B", 0x7F)
    yield "padding", e.PaddingError, "An unused bit is set.", lambda body: body[:-1] + bytes([body[-1] | 128])


def rotated() -> Iterator[Damage]:
    """About half of 135 elements: fewer than a block, so all are dense."""
    yield "length", MALFORMED, "It is a byte shorter.", cut
    yield "elements", MALFORMED, "It holds an element more.", lambda body: body + bytes(4)
    yield "nan", e.NonFiniteError, "A dense value is NaN.", patch(0, "<f", nan)
    yield "limit", e.BoundError, "Over keep, a dense value is above 2^16.", patch(0, "<f", 40_000.0)


def coded() -> Iterator[Damage]:
    """Codec 9 in mode 1: three tensors, of one, three and one contexts."""
    yield "empty", MALFORMED, "There is no mode.", lambda _: b""
    yield "mode", MALFORMED, "Mode 2 does not exist.", patch(0, "B", 2)
    yield "plain-length", MALFORMED, "Mode 0, and no bits.", lambda _: b"\0"
    yield "sizes-cut", MALFORMED, "The sizes are cut.", lambda body: body[:20]
    yield "tensors", MALFORMED, "2^32 - 1 tensors are said.", patch(1, "<I", (1 << 32) - 1)
    yield "sizes", MALFORMED, "Sizes are of 366 elements.", patch(5, "<Q", 107)
    yield "size-0", MALFORMED, "A tensor has no elements.", lambda body: patch(21, "<Q", 0)(patch(5, "<Q", 115)(body))
    yield "words", MALFORMED, "The last word is cut.", cut
    yield "last-word", MALFORMED, "The last word is 0.", lambda body: body + bytes(4)
    yield "word-left", MALFORMED, "A word is left.", lambda body: body + b"\1\0\0\0"
    yield "frequency", MALFORMED, "The frequency of a context is 0.", patch(29, "B", 0)
    yield "state", MALFORMED, "The last state is not 0.", lambda body: patch(30, "B", body[30] ^ 64)(body)


def paths() -> Iterator[Damage]:
    """Codec 11 in mode 1: three tensors, tables of priors and of informations, a path."""
    yield "mode", MALFORMED, "Mode 2 does not exist.", patch(0, "B", 2)
    yield "sizes", MALFORMED, "Sizes are of 366 elements.", patch(5, "<Q", 107)
    yield "tables-cut", MALFORMED, "The tables are cut.", lambda body: body[:33]
    yield "prior", MALFORMED, "The prior of a context is 0.", patch(29, "B", 0)
    yield "path-cut", MALFORMED, "The path is a byte shorter.", cut
    yield "path-left", MALFORMED, "The path is a byte longer.", more
    yield "padding", e.PaddingError, "An unused bit is set.", lambda body: body[:-1] + bytes([body[-1] | 128])


def lanes() -> Iterator[Damage]:
    """Codec 14 in mode 1: three tensors, frequencies, one block of two lanes."""
    yield "mode", MALFORMED, "Mode 2 does not exist.", patch(0, "B", 2)
    yield "sizes", MALFORMED, "Sizes are of 366 elements.", patch(5, "<Q", 107)
    yield "frequency", MALFORMED, "The frequency of a context is 0.", patch(29, "B", 0)
    yield "words", MALFORMED, "A word is cut.", cut
    yield "word-left", MALFORMED, "A word is left.", lambda body: body + bytes(2)
    yield "state-small", MALFORMED, "A state is below 2^16.", patch(34, "<I", (1 << 16) - 1)
    yield "state", MALFORMED, "A last state is not 2^16.", patch(34, "<I", (1 << 16) + 7)


def halves() -> Iterator[Damage]:
    """Six values of 16 bits."""
    yield "length", MALFORMED, "It is a byte shorter.", cut
    yield "nan", e.NonFiniteError, "A value is NaN.", patch(2, "<e", nan)
    yield "infinity", e.NonFiniteError, "A value is infinite.", patch(2, "<e", inf)


def bytes_of_a_float() -> Iterator[Damage]:
    """An exponent, and six values of 8 bits."""
    yield "length", MALFORMED, "It is a byte shorter.", cut
    yield "exponent", MALFORMED, "The exponent is 101.", patch(0, "b", 101)
    yield "zero", MALFORMED, "A value is -0.", patch(1, "B", 0x80)
    yield "limit", e.BoundError, "A value is above 2^16.", lambda body: struct.pack("b", 30) + b"\x7f" + body[2:]


def statistics() -> Iterator[tuple[Refused, Round | Calibration]]:
    """Answers to a model that a server does not take."""
    run: Play = play("fedmrn", down="float32")
    calibration = run.server.calibrate(CLIENTS)
    model = calibration.frame_for(RECORDED)
    good = run.statistics(RECORDED, model)
    data = good.to_bytes()

    def rows() -> Iterator[Row]:
        yield "kind", e.WrongKindError, "The model comes back.", model.to_bytes()
        yield "weight", MALFORMED, "They have no weight.", with_header(data, weight=0)
        yield "method", e.WrongMethodError, "They are of method 3.", with_header(data, method=3)
        yield "round", e.WrongRoundError, "They are of round 1.", with_header(data, round=1)
        yield "key", e.WrongKeyError, "They repeat another key.", with_header(data, noise_key=good.noise_key ^ 1)
        yield "layout", e.WrongLayoutError, "Of another model.", replace(good, layout_digest=bytes(16)).to_bytes()
        yield "missing", MALFORMED, "Group 3 is missing.", without(good, STATE, VARIANCE).to_bytes()
        more = replace(good, sections=model.sections[1:2] + good.sections).to_bytes()
        yield "trained", MALFORMED, "Group 1 is no statistic.", more
        half = changed(good, STATE, STATS, codec=10, body=bytes(6)).to_bytes()
        yield "codec", MALFORMED, "They travel by codec 0.", half
        yield "nan", e.NonFiniteError, "A mean is NaN.", with_body(good, patch(0, "<f", nan), STATS, STATE)
        yield "limit", e.BoundError, "A mean is above 2^16.", with_body(good, patch(0, "<f", 7e4), STATS, STATE)
        yield "variance", e.BoundError, "A variance is below 0.", with_body(good, patch(0, "<f", -1.0), VARIANCE, STATE)
        large = with_body(good, patch(0, "<f", 2.0**127), VARIANCE, STATE)
        yield "variance-large", e.BoundError, "A variance is above 2^126.", large

    for name, error, why, frame in rows():
        row = Refused(
            name=f"statistics-{name}",
            why=why,
            error=error,
            data=frame,
            reader="server",
            kind=Kind.STATISTICS,
            before=(model.to_bytes(),),
        )
        yield row, calibration
