"""Terms: what a server tells its clients about local training, in one section of the broadcast.

The section has role TERMS, codec 0, group CODED and one byte of parameters, the version. Its body is a record for each
term, in increasing order of tags: u16 tag, u32 length of the value, the value. Terms at their default are not written,
and where none is left there is no section. A reader refuses a tag that it does not know: terms are not advice.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf, isfinite
from types import MappingProxyType

from fedmrn.errors import (
    BoundError,
    ConfigError,
    MalformedFrameError,
    NonFiniteError,
    UnknownTermError,
    UnsupportedVersionError,
)
from fedmrn.text import nearest
from fedmrn.whole import shown
from fedmrn.wire.frame import Frame, Role, Section
from fedmrn.wire.layout import Group

_VERSION = 1
_RECORD = struct.Struct("<HI")
_DOUBLE, _SWITCH = struct.Struct("<d"), struct.Struct("<B")


@dataclass(frozen=True, slots=True)
class Term:
    """A setting that a broadcast may carry.

    Attributes:
        tag: its code on the wire; tags never change their meaning.
        name: of the setting of a local rule.
        kind: of the value: float (a double on the wire) or bool (a byte, 0 or 1).
        most: the largest value; the least is 0.
    """

    tag: int
    name: str
    kind: type[float] | type[bool]
    most: float

    @property
    def form(self) -> struct.Struct:
        """How the value is written."""
        return _DOUBLE if self.kind is float else _SWITCH

    @property
    def words(self) -> str:
        """What a value is, in words."""
        return (
            "true or false"
            if self.kind is bool
            else f"a number from 0{'' if self.most == inf else f' to {self.most:g}'}"
        )

    def allows(self, value: float) -> bool:
        """Whether the value is one that the term can have."""
        try:
            number = float(value)
        except OverflowError:  # a whole number of hundreds of digits
            return False
        return isfinite(number) and 0 <= value <= self.most and self.kind(value) == value


TERMS: Mapping[str, Term] = MappingProxyType(
    {
        term.name: term
        for term in (
            Term(1, "warmup", float, 1.0),
            Term(2, "rho", float, inf),
            Term(3, "progressive", bool, 1),
            Term(4, "stochastic", bool, 1),
            Term(5, "backward", bool, 1),
        )
    }
)
_BY_TAG = {term.tag: term for term in TERMS.values()}


def check_terms(terms: Mapping[str, float]) -> None:
    """Refuse what cannot be told to clients.

    Raises:
        ConfigError: a name that is not of `TERMS`, or a value out of its range.
    """
    for name, value in terms.items():
        if name not in TERMS:
            raise ConfigError(f"{name} cannot be told to clients: it is no term{nearest(name, TERMS)}")
        if not isinstance(value, int | float) or not TERMS[name].allows(value):
            raise ConfigError(f"{name} = {shown(value)} cannot be told to clients: it is {TERMS[name].words}")


def terms_section(terms: Mapping[str, float]) -> tuple[Section, ...]:
    """Return the section that tells these terms: none where there are none.

    Raises:
        ConfigError: as `check_terms`.
    """
    check_terms(terms)
    if not terms:
        return ()
    body = b""
    for term in sorted((TERMS[name] for name in terms), key=lambda term: term.tag):
        value = term.kind(terms[term.name])
        data = term.form.pack(value)
        body += _RECORD.pack(term.tag, len(data)) + data
    return (Section(0, Role.TERMS, Group.CODED, len(terms), bytes([_VERSION]), body),)


def read_terms(broadcast: Frame) -> dict[str, float]:
    """Return the terms of a broadcast by name; what is not there has its default.

    Raises:
        UnsupportedVersionError: the section is of another version.
        UnknownTermError: it has a term that this version does not know.
        NonFiniteError, BoundError: a value.
        MalformedFrameError: records are out of order, repeated, cut, of another length than their term's, or not
            as many as the section says; or the section's header is not that of terms.
    """
    sections = [s for s in broadcast.sections if s.role is Role.TERMS]
    if not sections:
        return {}
    section = sections[0]
    if len(sections) > 1 or section.codec or section.group is not Group.CODED or len(section.params) != 1:
        raise MalformedFrameError("a broadcast has one section of terms: codec 0, group coded, a version of one byte")
    if section.params[0] != _VERSION:
        raise UnsupportedVersionError(f"terms of version {section.params[0]}; this library reads version {_VERSION}")
    found: dict[str, float] = {}
    last = 0
    for tag, data in _records(memoryview(section.body)):
        if tag <= last:
            raise MalformedFrameError(f"term {tag} follows term {last}: tags must increase")
        last = tag
        if tag not in _BY_TAG:
            raise UnknownTermError(f"the broadcast sets term {tag}, which this version does not know: update fedmrn")
        term = _BY_TAG[tag]
        found[term.name] = _value(term, data)
    if not found or len(found) != section.count:
        raise MalformedFrameError(f"the section of terms says that it holds {section.count}, and holds {len(found)}")
    return found


def _records(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    at = 0
    while at < len(view):
        if len(view) - at < _RECORD.size:
            raise MalformedFrameError("the terms end inside a record's header")
        tag, length = _RECORD.unpack_from(view, at)
        at += _RECORD.size
        if len(view) - at < length:
            raise MalformedFrameError(f"term {tag} declares {length} bytes, the section has {len(view) - at} left")
        yield tag, view[at : at + length]
        at += length


def _value(term: Term, data: memoryview) -> float:
    if len(data) != term.form.size:
        raise MalformedFrameError(f"the term {term.name} takes {term.form.size} bytes, got {len(data)}")
    (value,) = term.form.unpack(data)
    if not isfinite(value):
        raise NonFiniteError(f"the term {term.name} is NaN or infinite")
    if not 0 <= value <= term.most:
        raise BoundError(f"the term {term.name} is {value:g}; 0 to {term.most:g} is accepted")
    return term.kind(value)
