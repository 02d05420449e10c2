"""The public models of a server in its file: the models that it keeps, and who holds which.

One section of role PUBLIC: the current number, the models, the clients. The starting weights have their own.
"""

import struct
from collections.abc import Iterator

import numpy as np

from fedmrn.codecs import Raw
from fedmrn.errors import FrameError, MalformedFrameError
from fedmrn.server.publisher import Published
from fedmrn.wire.frame import Frame, Role, Section
from fedmrn.wire.grid import from_body
from fedmrn.wire.layout import Group, Layout
from fedmrn.wire.public import groups_of

_HEAD = struct.Struct("<III")  # current number, models, clients
_NUMBER = struct.Struct("<I")
_LENGTH = struct.Struct("<Q")
_CLIENT = struct.Struct("<qII")  # the number it holds or -1, how often it lost one, bytes of its name
_VERSION = 1


def public_state(layout: Layout, public: Published) -> Iterator[Section]:
    """Yield the sections of what a server keeps of its public models."""
    start = np.ascontiguousarray(public.start, "<f4").data.cast("B")
    yield Section(Raw.id, Role.START, Group.CODED, layout.size, b"", start)
    clients = sorted({*public.held, *public.lost}, key=lambda client: (isinstance(client, str), client))
    parts = [_HEAD.pack(public.number, len(public.models), len(clients))]
    for number, bodies in public.models.items():
        parts.append(_NUMBER.pack(number))
        for group in groups_of(layout):
            parts += [_LENGTH.pack(len(bodies[group])), bodies[group]]
    for client in clients:
        name = client_name(client)
        parts += [_CLIENT.pack(public.held.get(client, -1), public.lost.get(client, 0), len(name)), name]
    yield Section(0, Role.PUBLIC, Group.CODED, 1, bytes([_VERSION]), b"".join(parts))


def read_public_state(frame: Frame, layout: Layout) -> Published | None:
    """Return what `public_state` wrote; None where there is nothing.

    Raises:
        MalformedFrameError: it is cut, of another version, or its parts contradict each other.
    """
    start, section = (frame.select(role, Group.CODED) for role in (Role.START, Role.PUBLIC))
    if section is None or start is None:
        return None
    if section.params != bytes([_VERSION]) or start.count != layout.size or start.codec != Raw.id:
        raise MalformedFrameError("what a server keeps of public models is of another version or model")
    read = _Reader(memoryview(section.body))
    number, models, clients = read.numbers(_HEAD)
    found = {}
    for _ in range(models):
        (key,) = read.numbers(_NUMBER)
        found[key] = {group: bytes(read.take(read.numbers(_LENGTH)[0])) for group in groups_of(layout)}
    held, lost = dict[int | str, int](), dict[int | str, int]()
    for _ in range(clients):
        holds, losses, length = read.numbers(_CLIENT)
        client = read_client(bytes(read.take(length)))
        if holds >= 0:
            held[client] = holds
        if losses:
            lost[client] = losses
    if read.left or number not in found:
        raise MalformedFrameError(
            "what a server keeps of public models lacks the current one, or has more than it says"
        )
    try:
        for group, body in found[number].items():
            from_body(layout, group, body)
    except FrameError as error:
        raise MalformedFrameError(f"the current public model does not decode: {error}") from error
    return Published(Raw().decode(start.body, start.count, 0), number, found, held, lost)


def client_name(client: int | str) -> bytes:
    """Return a client's name as it is written in a file."""
    return (f"i{client}" if isinstance(client, int) else f"s{client}").encode()


def read_client(data: bytes) -> int | str:
    """Return the client that `client_name` wrote.

    Raises:
        MalformedFrameError: it cannot have written that.
    """
    try:
        text = data.decode()
        if text[:1] == "s":
            return text[1:]
        if len(data) <= 64 and text[:1] == "i":
            return int(text[1:])
    except ValueError as error:  # of the decoding too
        raise MalformedFrameError(f"a client is named {data[:40]!r}") from error
    raise MalformedFrameError(f"a client is named {data[:40]!r}")


class _Reader:
    """Takes bytes from the front, and never more than there are."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._at = view, 0

    @property
    def left(self) -> int:
        return len(self._view) - self._at

    def take(self, count: int) -> memoryview:
        if count > self.left:
            raise MalformedFrameError("what a server keeps of public models ends too early")
        self._at += count
        return self._view[self._at - count : self._at]

    def numbers(self, form: struct.Struct) -> tuple[int, ...]:
        return form.unpack(self.take(form.size))
