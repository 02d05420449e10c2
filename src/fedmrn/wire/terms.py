"""Terms: what a server tells its clients about local training, in one section of the broadcast.

The section has role TERMS, codec 0, group CODED and one byte of parameters, the version. Its body is a record for each
term, in increasing order of tags: u16 tag, u32 length of the value, the value. Terms at their default are not written,
and where none is left there is no section. A reader refuses a tag that it does not know: terms are not advice.

Two terms are no settings, but change from round to round; each has one signed byte for each coded tensor that is not
empty. Tag 32, the *caps*: the exponent of the largest scale 2^e that an update may have. Tag 33, the *scales*: that of
the scale which the round's noise has.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from types import MappingProxyType

import numpy as np

from fedmrn.codecs.mask.scale import LARGEST_EXPONENT, SMALLEST_EXPONENT
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
LEAST_CAP, LARGEST_CAP = -126, 127
"""The exponents that a cap can have: 2^e is a normal float32."""


@dataclass(frozen=True, slots=True)
class Exponents:
    """A term of one exponent a tensor: its tag, what one is called, and the range of 2^e."""

    tag: int
    name: str
    least: int
    largest: int


_CAPS = Exponents(32, "cap", LEAST_CAP, LARGEST_CAP)
_SCALES = Exponents(33, "scale", SMALLEST_EXPONENT, LARGEST_EXPONENT)
_A_TENSOR = {_CAPS.tag, _SCALES.tag}


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
            Term(6, "budget", float, 1.0),
            Term(7, "theta", float, 0.25),
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


def terms_section(
    terms: Mapping[str, float], caps: Sequence[int] = (), scales: Sequence[int] = ()
) -> tuple[Section, ...]:
    """Return the section that tells these terms: none where there are none.

    Args:
        terms: settings by name.
        caps: exponents of the largest scale of each coded tensor that is not empty; none where they are not told.
        scales: exponents of the scale that the noise of each has; none where they are not told.

    Raises:
        ConfigError: as `check_terms`, or a cap or a scale is out of its range.
    """
    check_terms(terms)
    records = []
    for term in sorted((TERMS[name] for name in terms), key=lambda term: term.tag):
        records.append((term.tag, term.form.pack(term.kind(terms[term.name]))))
    for kind, values in ((_CAPS, caps), (_SCALES, scales)):
        if not all(kind.least <= e <= kind.largest for e in values):
            raise ConfigError(
                f"a {kind.name} is 2^{kind.least} to 2^{kind.largest}, got exponents {min(values)} to {max(values)}"
            )
        if values:
            records.append((kind.tag, np.array(values, np.int8).tobytes()))
    if not records:
        return ()
    body = b"".join(_RECORD.pack(tag, len(data)) + data for tag, data in records)
    return (Section(0, Role.TERMS, Group.CODED, len(records), bytes([_VERSION]), body),)


def read_terms(broadcast: Frame) -> dict[str, float]:
    """Return the settings among a broadcast's terms by name; what is not there has its default.

    Raises:
        UnsupportedVersionError: the section is of another version.
        UnknownTermError: it has a term that this version does not know.
        NonFiniteError, BoundError: a value.
        MalformedFrameError: records are out of order, repeated, cut, of another length than their term's, or not
            as many as the section says; or the section's header is not that of terms.
    """
    return {_BY_TAG[tag].name: _value(_BY_TAG[tag], data) for tag, data in _checked(broadcast) if tag in _BY_TAG}


def read_caps(broadcast: Frame) -> tuple[int, ...]:
    """Return the exponents of the caps that a broadcast tells, one for each coded tensor that is not empty; or none.

    Raises:
        BoundError: a cap is not a normal float32.
        FrameError: as `read_terms`.
    """
    return _exponents(broadcast, _CAPS)


def read_scales(broadcast: Frame) -> tuple[int, ...]:
    """Return the exponents of the scales that a broadcast tells, one for each coded tensor that is not empty; or none.

    Raises:
        BoundError: a scale is not from 2^-80 to 2^80.
        FrameError: as `read_terms`.
    """
    return _exponents(broadcast, _SCALES)


def _exponents(broadcast: Frame, kind: Exponents) -> tuple[int, ...]:
    data = next((data for tag, data in _checked(broadcast) if tag == kind.tag), None)
    if data is None:
        return ()
    found: list[int] = np.frombuffer(data, np.int8).tolist()
    if not found:
        raise MalformedFrameError(f"the term of {kind.name}s is empty")
    wrong = next((e for e in found if not kind.least <= e <= kind.largest), None)
    if wrong is not None:
        raise BoundError(f"a {kind.name} of 2^{wrong} is told; 2^{kind.least} to 2^{kind.largest} is accepted")
    return tuple(found)


def _checked(broadcast: Frame) -> list[tuple[int, memoryview]]:
    """Return (tag, value) of each term, once header, order and number of the records are checked."""
    sections = [s for s in broadcast.sections if s.role is Role.TERMS]
    if not sections:
        return []
    section = sections[0]
    if len(sections) > 1 or section.codec or section.group is not Group.CODED or len(section.params) != 1:
        raise MalformedFrameError("a broadcast has one section of terms: codec 0, group coded, a version of one byte")
    if section.params[0] != _VERSION:
        raise UnsupportedVersionError(f"terms of version {section.params[0]}; this library reads version {_VERSION}")
    found: list[tuple[int, memoryview]] = []
    last = 0
    for tag, data in _records(memoryview(section.body)):
        if tag <= last:
            raise MalformedFrameError(f"term {tag} follows term {last}: tags must increase")
        last = tag
        if tag not in _A_TENSOR and tag not in _BY_TAG:
            raise UnknownTermError(f"the broadcast sets term {tag}, which this version does not know: update fedmrn")
        found.append((tag, data))
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
