"""Consent: which methods a client is willing to send, and whether a broadcast asks for what its method sends.

A client's code says `accept`: a method's name, the word "masked" (every method of masked noise, the default), the word
"private" (masks of differential privacy, with the term `theta`, and none without), the word "any", or several of these.
Whatever a server asks for beyond that is refused before the model is touched.
"""

from collections.abc import Iterable

from fedmrn.codecs import codec_from
from fedmrn.errors import ConfigError, MethodNotAcceptedError, WrongMethodError, WrongTemplateError
from fedmrn.methods.method import SIDE, Method
from fedmrn.methods.table import METHODS
from fedmrn.text import nearest
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group
from fedmrn.wire.terms import read_terms

MASKED = "masked"
"""Stands for every method whose updates are masked noise (`Method.masked`)."""
ANY = "any"
"""Stands for every method."""
PRIVATE = "private"
"""Stands for masks that the server tells to draw privately, by a `theta` above 0."""
Accept = str | Iterable[str]
"""What a client accepts: a method's name, `MASKED`, `PRIVATE`, `ANY`, or several of these."""


_WORDS = (MASKED, PRIVATE, ANY)


def check_consent(broadcast: Frame, accept: Accept = MASKED) -> Method:
    """Return the method of a broadcast, if the client accepts it and the broadcast asks for what it sends.

    Raises:
        ConfigError: `accept` names nothing, or a method that does not exist.
        WrongMethodError: the broadcast is of a method that this version does not know.
        MethodNotAcceptedError: it is of one that is not accepted, or tells no theta where private masks alone are.
        WrongTemplateError: it asks for another code than its method's.
        UnknownCodecError, MalformedFrameError: it asks for a code that does not exist.
    """
    words = _words(accept)
    row = next((row for row in METHODS.values() if row.id == broadcast.method), None)
    if row is None:
        raise WrongMethodError(f"the broadcast is of method {broadcast.method}, which this version does not know")
    if PRIVATE in words and read_terms(broadcast).get("theta", 0.0) > 0:
        words.append(row.name)
    if not (ANY in words or row.name in words or (MASKED in words and row.masked)):
        if words == [PRIVATE]:
            raise MethodNotAcceptedError(
                f"the server asks for method {row.name} without theta, and this client sends private masks alone "
                f"(accept={PRIVATE!r}): whoever runs the server sets theta, an option of fedmrn-s"
            )
        accepted = ", ".join(f"all of masked noise ({MASKED!r})" if w == MASKED else w for w in words)
        both = ", ".join(map(repr, [*words, row.name]))
        raise MethodNotAcceptedError(
            f"the server asks for method {row.name} ({row.summary}), and this client accepts {accepted}: "
            f"to accept it, write accept=({both})"
        )
    for section in broadcast.sections:
        if section.role is Role.TEMPLATE:
            codec = codec_from(section.codec, section.params)
            if section.group is Group.CODED:
                fits = any(codec.family == own.family for own in row.codecs())
            else:
                fits = codec in SIDE.values()
            if not fits:
                raise WrongTemplateError(
                    f"the broadcast says method {row.name} and asks for group {section.group.name.lower()} by codec "
                    f"{codec.name}, which this method does not send: nothing was trained; tell whoever runs the server"
                )
    return row


def _words(accept: Accept) -> list[str]:
    try:
        words = [accept] if isinstance(accept, str) else list(dict.fromkeys(accept))
    except TypeError as error:  # no iterable, or of what is no text
        raise ConfigError(f"accept is a method's name, {MASKED!r}, {ANY!r} or several, got {accept!r:.60}") from error
    if not words:
        raise ConfigError(f"accept names no method: leave it out for all of masked noise, or write {ANY!r}")
    for word in words:
        if word not in (*METHODS, *_WORDS):
            raise ConfigError(f"accept: method {word!r} does not exist{nearest(str(word), [*METHODS, *_WORDS])}")
    return words
