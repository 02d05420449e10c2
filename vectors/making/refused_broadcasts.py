"""Frames that a client must refuse: damaged ones, and broadcasts that ask or tell what cannot be."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from math import inf, nan

from fedmrn import errors as e
from fedmrn.codecs import Float16, Support
from fedmrn.wire.frame import Frame, Kind, Role, Section
from fedmrn.wire.layout import Group
from making.damage import Change, changed, patch, patched, sealed, terms, with_body, with_header, with_sections, without
from making.federation import RECORDED, Play, Setting
from making.layouts import LAYOUTS
from making.readers import Refused, Row, each

CODED, DENSE, STATS, VARIANCE = Group
STATE, TEMPLATE, TERMS = Role.STATE, Role.TEMPLATE, Role.TERMS
MALFORMED = e.MalformedFrameError
AT = 56
"""Where the first section starts, and its header of 20 bytes."""


def play(method: str, layout: str = "tiny", **changes: object) -> Play:
    """Return a run of a method, for frames to be damaged."""
    setting = Setting(name=f"refused-{method}", about="", method=method, layout=layout, **changes)  # type: ignore[arg-type]
    return Play(LAYOUTS[layout], setting)


def broadcast(method: str = "fedmrn", layout: str = "tiny", down: object = "float32", **changes: object) -> Frame:
    """Return the first broadcast of a run."""
    server = play(method, layout, down=down, **changes).server
    return Frame.from_bytes(server.begin(1, [RECORDED]).broadcast(RECORDED))


def refused_by_clients() -> Iterator[Refused]:
    """Yield all frames of this module."""
    yield from each("frame", damaged())
    yield from each("consent", asked())
    yield from each("terms", told())
    yield from each("state", states())
    yield from each("state-coded", coded_states(), layout="lean")
    yield from each("model", models(), kind=Kind.MODEL)
    data = broadcast().to_bytes()
    for name, limits in (("bytes", {"bytes": 100}), ("sections", {"sections": 3})):
        why = f"This reader takes {limits[name]} {name} at most."
        yield Refused(name=f"limit-{name}", why=why, error=e.LimitError, data=data, limits=limits)
    error = e.MethodNotAcceptedError
    yield Refused(
        name="accept-signed", why="This client accepts fedmrn-s alone.", error=error, data=data, accept=("fedmrn-s",)
    )


def damaged() -> Iterator[Row]:
    """Frames whose own checks fail, in the order of section 7's first table."""
    good = broadcast(options={"scale": 0.01})
    data, many = good.to_bytes(), len(good.sections)
    yield "magic", e.BadMagicError, "It does not start with FMRN.", b"FMRM" + data[4:]
    yield "empty", e.TruncatedFrameError, "There is nothing.", b""
    yield "three-bytes", e.TruncatedFrameError, "It ends inside the magic.", data[:3]
    yield "header-cut", e.TruncatedFrameError, "It ends inside the header.", data[:55]
    yield "version", e.UnsupportedVersionError, "Version 2.", with_header(data, version=2)
    yield "total-huge", e.LimitError, "It declares 2^63 bytes.", with_header(data, total=1 << 63)
    yield "cut", e.TruncatedFrameError, "The last byte is missing.", data[:-1]
    yield "trailing", e.TrailingBytesError, "A byte follows.", data + b"\0"
    yield "total-small", MALFORMED, "It has 59 bytes, and says so.", patched(data[:59], 8, "<Q", 59)
    yield "checksum", e.ChecksumError, "A bit is another.", patched(data, -9, "B", data[-9] ^ 1)
    yield "kind", MALFORMED, "Kind 8 does not exist.", with_header(data, kind=8)
    yield "kind-saved", e.WrongKindError, "Kind 4 does not travel.", with_header(data, kind=4)
    yield "kind-update", e.WrongKindError, "A broadcast is expected.", with_header(data, kind=1)
    yield "sections-many", e.LimitError, "It declares 65 sections.", with_header(data, sections=65)
    yield "weight-large", e.LimitError, "Its weight is 2^20 + 1.", with_header(data, weight=(1 << 20) + 1)
    yield "weight", MALFORMED, "A broadcast has weight 1.", with_header(data, weight=1)
    yield "section-missing", MALFORMED, "It declares a section too many.", with_header(data, sections=many + 1)
    yield "section-unsaid", MALFORMED, "It declares a section too few.", with_header(data, sections=many - 1)
    cut = sealed(with_header(data, sections=many + 1)[:-4] + bytes(19 + 4))
    yield "section-cut", MALFORMED, "Nineteen bytes are left for the header of the last section.", cut
    yield "bytes-between", MALFORMED, "A byte lies before the checksum.", sealed(data[:-4] + bytes(1 + 4))
    yield "parameters-long", MALFORMED, "Parameters are longer than the frame.", sealed(patched(data, -33, "B", 255))
    long = sealed(patched(data, AT + 12, "<Q", (1 << 64) - 1))
    yield "body-long", MALFORMED, "A body of 2^64 - 1 bytes: sums must not wrap.", long
    yield "role", MALFORMED, "Role 8 does not exist.", sealed(patched(data, AT + 1, "B", 8))
    yield "role-update", MALFORMED, "A broadcast has no section of role update.", sealed(patched(data, AT + 1, "B", 0))
    yield "role-saved", MALFORMED, "Role 4 does not travel.", sealed(patched(data, AT + 1, "B", 4))
    yield "group", MALFORMED, "Group 4 does not exist.", sealed(patched(data, AT + 2, "B", 4))
    yield "twice", MALFORMED, "Two templates are of one group.", with_sections(good, good.sections[0]).to_bytes()
    full = changed(good, TEMPLATE, DENSE, body=b"\0").to_bytes()
    yield "template-with-body", MALFORMED, "A template has a body.", full


def asked() -> Iterator[Row]:
    """Broadcasts of methods that are not accepted, and templates that no method has."""
    good = broadcast()
    data = good.to_bytes()
    yield "method", e.WrongMethodError, "Method 999 is not known.", with_header(data, method=999)
    yield "not-accepted", e.MethodNotAcceptedError, "fedavg sends floats.", broadcast("fedavg").to_bytes()
    one, signed = bytes.fromhex("00000000803f"), bytes.fromhex("0100010000803f")
    rows: list[tuple[str, type[e.FrameError], str, Group, int, bytes]] = [
        ("codec", e.UnknownCodecError, "Codec 99 does not exist.", CODED, 99, b""),
        ("codec-grid", e.UnknownCodecError, "Codec 15 is of a state alone.", CODED, 15, bytes(33)),
        ("law", MALFORMED, "Law 3 does not exist.", CODED, 1, b"\3" + one[1:]),
        ("mask-type", MALFORMED, "Mask type 2 does not exist.", CODED, 1, b"\0\2" + one[2:]),
        ("parameters-short", MALFORMED, "Codec 1 has six bytes of parameters.", CODED, 1, one[:-1]),
        ("scale", MALFORMED, "The scale is 2^81.", CODED, 1, b"\0\0" + struct.pack("<f", 2.0**81)),
        ("scale-nan", MALFORMED, "The scale is NaN.", CODED, 1, b"\0\0" + struct.pack("<f", nan)),
        ("inner-scale", MALFORMED, "Under codec 12 the scale is 1.", CODED, 12, b"\1\0\0" + struct.pack("<f", 2)),
        ("inner-codec", MALFORMED, "Codec 12 is over no codec 0.", CODED, 12, b"\0"),
        ("told-random", MALFORMED, "Codec 13 is over no codec 11.", CODED, 13, b"\13" + one + b"\20\10\110"),
        ("buckets", MALFORMED, "Codec 9 has 1 to 64 buckets.", CODED, 9, one + b"\0"),
        ("states", MALFORMED, "Codec 11 has up to 2^10 states.", CODED, 11, one + b"\20\13\110"),
        ("floats", e.WrongTemplateError, "fedmrn does not send floats.", CODED, 0, b""),
        ("signed", e.WrongTemplateError, "fedmrn sends binary masks.", CODED, 12, signed),
        ("side", e.WrongTemplateError, "Side data does not travel by codec 2.", DENSE, 2, b"\0"),
        (
            "side-levels",
            e.WrongTemplateError,
            "Side data travels by codec 5 with blocks of 64 alone.",
            STATS,
            5,
            b"\0\1\0\0\177",
        ),
    ]
    for name, error, why, group, codec, params in rows:
        yield name, error, why, changed(good, TEMPLATE, group, codec=codec, params=params).to_bytes()


def told() -> Iterator[Row]:
    """Terms that a client of fedmrn-mrc does not take; and caps and scales."""
    good = broadcast("fedmrn-mrc")
    half = struct.pack("<d", 0.5)

    def with_terms(*records: tuple[int, bytes], **options: int) -> bytes:
        return with_sections(good, terms(*records, **options)).to_bytes()

    def with_fields(**fields: object) -> bytes:
        return changed(with_sections(good, terms((6, half))), TERMS, CODED, **fields).to_bytes()

    yield "codec", MALFORMED, "The section has codec 1.", with_fields(codec=1)
    yield "parameters", MALFORMED, "The version has two bytes.", with_fields(params=b"\1\0")
    yield "group", MALFORMED, "The section is of group 1.", with_fields(group=DENSE)
    yield "version", e.UnsupportedVersionError, "Terms of version 2.", with_terms((6, half), version=2)
    yield "record-cut", MALFORMED, "A record's header is cut.", with_terms((6, half), (7, b""), cut=1)
    yield "value-cut", MALFORMED, "A value is cut.", with_terms((6, half), cut=1)
    yield "order", MALFORMED, "Tags do not increase.", with_terms((6, half), (6, half))
    yield "unknown", e.UnknownTermError, "Tag 8 is not known.", with_terms((8, half))
    yield "length", MALFORMED, "A budget has eight bytes.", with_terms((6, half[1:]))
    yield "nan", e.NonFiniteError, "A budget that is NaN.", with_terms((6, struct.pack("<d", nan)))
    yield "range", e.BoundError, "A budget of 2 bits.", with_terms((6, struct.pack("<d", 2)))
    yield "switch", e.BoundError, "Progressive is 0 or 1.", with_terms((3, b"\2"))
    yield "count", MALFORMED, "There is one record, and two are said.", with_terms((6, half), count=2)
    yield "none", MALFORMED, "There is no record.", with_terms()
    yield "other-method", MALFORMED, "Warmup is a term of fedbat.", with_terms((1, half))
    yield "caps", MALFORMED, "Three caps for two tensors.", with_terms((32, b"\0\0\0"))
    yield "caps-empty", MALFORMED, "No cap at all.", with_terms((32, b""))
    yield "cap", e.BoundError, "A cap of 2^-127.", with_terms((32, b"\0\x81"))
    yield "scales", MALFORMED, "Scales are told to codec 12.", with_terms((33, b"\0\0"))
    shared = broadcast("fedmrn", options={"noise_key": "round"})
    section = shared.select(TERMS, CODED)
    yield "no-scales", MALFORMED, "Codec 13 is told no scales.", without(shared, TERMS, CODED).to_bytes()
    if section is not None:
        body = bytes(section.body)
        wide = changed(shared, TERMS, CODED, body=body[:-1] + b"\x51").to_bytes()
        yield "scale", e.BoundError, "A scale of 2^81 is told.", wide


def states() -> Iterator[Row]:
    """States that a client does not take, and templates that do not fit the model."""
    good = broadcast()
    other = replace(good, layout_digest=bytes(16))
    yield "layout", e.WrongLayoutError, "It is for another model.", other.to_bytes()
    yield "missing", MALFORMED, "The state of group 1 is missing.", without(good, STATE, DENSE).to_bytes()
    short = changed(good, STATE, DENSE, count=5, body=lambda body: body[:-4]).to_bytes()
    yield "elements", MALFORMED, "The state of group 1 has an element less.", short
    yield "codec", e.UnknownCodecError, "Codec 17 does not exist.", changed(good, STATE, CODED, codec=17).to_bytes()
    yield "parameters", MALFORMED, "Codec 0 has no parameters.", changed(good, STATE, CODED, params=b"\0").to_bytes()
    support = changed(good, STATE, CODED, codec=Support.id).to_bytes()
    yield "support", MALFORMED, "Codec 8 is for updates.", support
    half = changed(good, STATE, VARIANCE, codec=Float16.id, body=bytes(6)).to_bytes()
    yield "variance-float16", MALFORMED, "The state of group 3 travels by codec 0.", half
    yield "length", MALFORMED, "Codec 0 has four bytes an element.", with_body(good, lambda b: b[:-1], CODED, STATE)
    for name, value in (("nan", nan), ("infinity", inf)):
        yield name, e.NonFiniteError, f"A weight is {value}.", with_body(good, patch(0, "<f", value), CODED, STATE)
    negative = with_body(good, patch(4, "<f", -(2.0**-149)), VARIANCE, STATE)
    yield "variance", e.BoundError, "A variance is below 0.", negative
    yield "template-missing", MALFORMED, "It asks for nothing of group 1.", without(good, TEMPLATE, DENSE).to_bytes()
    fewer = changed(good, TEMPLATE, DENSE, count=5).to_bytes()
    yield "template-elements", MALFORMED, "It asks for five of six elements.", fewer


def coded_states() -> Iterator[Row]:
    """States by codecs 6 and 10 that a client does not take."""
    rotated, half = broadcast(layout="lean", down="eden2"), broadcast(layout="lean", down="float16")

    def other(frame: Frame, change: Change) -> bytes:
        return with_body(frame, change, CODED, STATE)

    yield "length", MALFORMED, "Codec 6 has a byte more.", other(rotated, lambda body: body + b"\0")
    yield "scale-nan", e.NonFiniteError, "A scale of codec 6 is NaN.", other(rotated, patch(0, "<f", nan))
    yield "scale-sign", e.BoundError, "A scale of codec 6 is -0.", other(rotated, patch(0, "<f", -0.0))
    yield "scale-large", e.BoundError, "A scale of codec 6 is 2^120.", other(rotated, patch(0, "<f", 2.0**120))
    yield "float16-infinity", e.NonFiniteError, "Codec 10 holds infinity.", other(half, patch(0, "<e", inf))


def models() -> Iterator[Row]:
    """Models to evaluate that a client does not take."""
    server = play("fedmrn", down="float32").server
    good = server.calibrate([RECORDED]).frame
    yield "kind", e.WrongKindError, "A broadcast comes for a model.", broadcast().to_bytes()
    yield "layout", e.WrongLayoutError, "It is of another model.", replace(good, layout_digest=bytes(16)).to_bytes()
    yield "weight", MALFORMED, "A model has no weight.", with_header(good.to_bytes(), weight=1)
    yield "missing", MALFORMED, "Group 2 is missing.", without(good, STATE, STATS).to_bytes()
    asks = with_sections(good, Section(0, TEMPLATE, CODED, 19, b"")).to_bytes()
    yield "template", MALFORMED, "A model has no templates.", asks
    yield "nan", e.NonFiniteError, "A weight is NaN.", with_body(good, patch(0, "<f", nan), CODED, STATE)
    yield "variance", e.BoundError, "A variance is below 0.", with_body(good, patch(0, "<f", -1), VARIANCE, STATE)
