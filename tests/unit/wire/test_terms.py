"""Terms: written once, in one way; whatever is not exactly that is refused, each fault with its own error."""

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from core_examples import LAYOUT, SECRET, noisy
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmrn.errors import (
    BoundError,
    ConfigError,
    FrameError,
    MalformedFrameError,
    NonFiniteError,
    UnknownTermError,
    UnsupportedVersionError,
)
from fedmrn.methods import METHODS, method
from fedmrn.server import Server
from fedmrn.wire.frame import Frame, Role, Section
from fedmrn.wire.layout import Group
from fedmrn.wire.messages import read_state
from fedmrn.wire.plain import plain
from fedmrn.wire.terms import read_caps, read_terms, terms_section

TOLD = st.fixed_dictionaries(
    {},
    optional={
        "warmup": st.floats(0, 1),
        "rho": st.floats(0, 1e300),
        "progressive": st.booleans(),
        "stochastic": st.booleans(),
        "backward": st.booleans(),
    },
)


def broadcast(name: str = "fedbat", **options: float) -> Frame:
    """What a client is sent."""
    scheme = method(name).scheme(options)
    server = Server(LAYOUT, scheme, Server.initial(LAYOUT, scheme, noisy(LAYOUT.size, 1)), SECRET, run=bytes(16))
    return Frame.from_bytes(server.begin(1, ["a"]).broadcast("a"))


def telling(section: Section) -> Frame:
    """A broadcast with this section in place of its terms, through its bytes."""
    frame = broadcast(rho=1.0)
    sections = tuple(section if s.role is Role.TERMS else s for s in frame.sections)
    return Frame.from_bytes(replace(frame, sections=sections).to_bytes())


def record(tag: int, value: bytes) -> bytes:
    return struct.pack("<HI", tag, len(value)) + value


def body(*records: bytes, **header: object) -> Section:
    return replace(Section(0, Role.TERMS, Group.CODED, len(records), b"\1", b"".join(records)), **header)  # type: ignore[arg-type]


@settings(deadline=None)
@given(TOLD)
def test_what_is_told_is_read(told: dict[str, float]) -> None:
    sections = terms_section(told)
    assert len(sections) == bool(told)
    if sections:
        assert read_terms(telling(sections[0])) == told
        assert read_terms(telling(sections[0])) == read_terms(plain(telling(sections[0])))


@pytest.mark.parametrize("name", METHODS)
def test_defaults_are_not_written(name: str) -> None:
    row = method(name)
    frame = broadcast(name, **row.defaults)  # type: ignore[arg-type]
    assert not any(s.role is Role.TERMS for s in frame.sections)
    assert read_terms(frame) == {}


def test_what_differs_from_its_default_is_written() -> None:
    assert read_terms(broadcast(warmup=0.25)) == {"warmup": 0.25}
    assert read_terms(broadcast(rho=0.0, warmup=1)) == {"warmup": 1.0, "rho": 0.0}


def test_terms_count_as_header_and_leave_the_state_alone() -> None:
    usual, told = broadcast(), broadcast(rho=1.0)
    (section,) = terms_section({"rho": 1.0})
    for part, size in usual.account().items():
        assert told.account()[part] == size + section.size * (part == "header"), part
    assert sum(told.account().values()) == len(told.to_bytes())
    assert (read_state(told, LAYOUT) == read_state(usual, LAYOUT)).all()


RHO, WARMUP = record(2, struct.pack("<d", 1.0)), record(1, struct.pack("<d", 0.5))
FAULTS = {
    "no term": (body(count=0), MalformedFrameError),
    "a count too many": (body(RHO, count=2), MalformedFrameError),
    "a count of 2^63": (body(RHO, count=1 << 63), MalformedFrameError),
    "another group": (body(RHO, group=Group.DENSE), MalformedFrameError),
    "another codec": (body(RHO, codec=1), MalformedFrameError),
    "no version": (body(RHO, params=b""), MalformedFrameError),
    "a version of two bytes": (body(RHO, params=b"\1\0"), MalformedFrameError),
    "version 2": (body(RHO, params=b"\2"), UnsupportedVersionError),
    "a header cut off": (body(RHO[:5]), MalformedFrameError),
    "a value cut off": (body(RHO[:-1]), MalformedFrameError),
    "a byte too many": (body(RHO + b"\0"), MalformedFrameError),
    "a value of 4 GiB": (body(struct.pack("<HI", 2, 0xFFFFFFFF)), MalformedFrameError),
    "a value too short": (body(record(2, struct.pack("<f", 1.0))), MalformedFrameError),
    "tags that fall": (body(RHO, WARMUP), MalformedFrameError),
    "a tag twice": (body(RHO, RHO), MalformedFrameError),
    "tag 0": (body(record(0, b"")), MalformedFrameError),
    "a tag of tomorrow": (body(RHO, record(0x7FFF, b"x")), UnknownTermError),
    "NaN": (body(record(2, struct.pack("<d", float("nan")))), NonFiniteError),
    "infinity": (body(record(2, struct.pack("<d", float("inf")))), NonFiniteError),
    "below 0": (body(record(2, struct.pack("<d", -1e-300))), BoundError),
    "a share above 1": (body(record(1, struct.pack("<d", 1 + 2.0**-52))), BoundError),
    "a switch of 2": (body(record(3, b"\2")), BoundError),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_its_error(name: str) -> None:
    section, error = FAULTS[name]
    with pytest.raises(FrameError) as caught:
        read_terms(telling(section))
    assert type(caught.value) is error


@pytest.mark.parametrize("role", [Role.TERMS, Role.STATE, Role.TEMPLATE])
def test_an_update_has_no_terms(role: Role) -> None:
    with pytest.raises(MalformedFrameError, match=f"role {int(role)}"):
        Frame.from_bytes(_as_update(role))


def _as_update(role: Role) -> bytes:
    frame = broadcast(rho=1.0)
    section = next(s for s in frame.sections if s.role is role)
    return replace(frame, kind=type(frame.kind)(1), weight=1, sections=(section,)).to_bytes()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"rho": -1.0}, r"rho = -1.0 cannot be told to clients: it is a number from 0$"),
        ({"warmup": 7.0}, r"it is a number from 0 to 1$"),
        ({"progressive": 2}, r"it is true or false$"),
        ({"progresive": 1}, r"it is no term; did you mean 'progressive'"),
        ({"rho": "6"}, r"rho = '6' cannot be told"),
    ],
)
def test_a_scheme_whose_terms_cannot_be_is_not_made(told: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(method("fedbat").scheme(), terms=told)


@pytest.mark.parametrize(
    "told", [{"rho": float("nan")}, {"warmup": 1.5}, {"progressive": 2}, {"progressive": 0.5}, {"momentum": 0.9}]
)
def test_what_cannot_be_told_is_refused_before_it_is_sent(told: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="cannot be told"):
        terms_section(told)


def test_a_model_of_the_size_of_a_term_is_not_mistaken_for_it() -> None:
    """The state's section has role and group of its own."""
    frame = broadcast(rho=1.0)
    assert [s.role for s in frame.sections if s.group is Group.CODED] == [Role.TEMPLATE, Role.TERMS, Role.STATE]
    assert np.isfinite(read_state(frame, LAYOUT)).all()


CAPS = [(0,), (-126, 127, 0, -1)]


@pytest.mark.parametrize("caps", CAPS)
def test_caps_are_read(caps: tuple[int, ...]) -> None:
    for told in ({}, {"rho": 1.0}):
        (section,) = terms_section(told, caps)
        frame = telling(section)
        assert (read_terms(frame), read_caps(frame)) == (told, caps)
        assert section.count == len(told) + 1
    assert read_caps(telling(*terms_section({"rho": 1.0}))) == ()


@pytest.mark.parametrize("caps", [(-127,), (128,), (0, 300)])
def test_caps_beyond_float32_cannot_be_told(caps: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="a cap is"):
        terms_section({}, caps)


@pytest.mark.parametrize(
    ("value", "error"), [(b"", MalformedFrameError), (b"\x80", BoundError), (b"\x00\x81", BoundError)]
)
def test_caps_that_cannot_be(value: bytes, error: type[Exception]) -> None:
    frame = telling(Section(0, Role.TERMS, Group.CODED, 1, b"\1", record(32, value)))
    assert read_terms(frame) == {}
    with pytest.raises(error):
        read_caps(frame)


@pytest.mark.parametrize("caps", [(0,), (0, 0, 0)])
def test_as_many_caps_as_coded_tensors(caps: tuple[int, ...]) -> None:
    usual = broadcast()
    frame = replace(usual, sections=(*usual.sections, *terms_section({}, caps)))
    with pytest.raises(MalformedFrameError, match="the model has 2 coded tensors"):
        read_state(frame, LAYOUT)
