"""Public models in a server's file: all of it comes back, and what is damaged is refused by name."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from fedmrn.errors import FrameError, MalformedFrameError
from fedmrn.methods import method
from fedmrn.server import PublicGrid, Server
from fedmrn.server.publisher import Published
from fedmrn.server.saved_public import client_name, public_state, read_client, read_public_state
from fedmrn.wire.frame import Frame, Kind, Role
from fedmrn.wire.layout import Group, Layout, TensorSpec

LAYOUT = Layout.of([TensorSpec("w", (7, 9), Group.CODED), TensorSpec("v", (3,), Group.VARIANCE)])


def published(*, from_start: bool = True) -> Published:
    scheme = method("fedmrn").scheme(down=PublicGrid(from_start=from_start))
    values = np.linspace(0.1, 1, LAYOUT.size).astype(np.float32)
    publisher = Server(LAYOUT, scheme, values, b"sixteen letters!", run=bytes(16)).publisher
    assert publisher is not None
    publisher.folded("ann", 0)
    publisher.folded(-3, 0)
    publisher.folded("bob", 0)
    publisher.claimed("bob")
    publisher.publish(values * 2)
    return publisher.snapshot()


def frame_of(public: Published) -> Frame:
    return Frame(Kind.SAVED, 2, 1, 0, LAYOUT.digest, 0, tuple(public_state(LAYOUT, public)))


@pytest.mark.parametrize("from_start", [True, False])
def test_all_of_it_comes_back(from_start: bool) -> None:
    public = published(from_start=from_start)
    found = read_public_state(Frame.from_bytes(frame_of(public).to_bytes()), LAYOUT)
    assert found is not None
    assert found.start.tobytes() == public.start.tobytes()
    assert (found.number, found.held, found.lost) == (1, {"ann": 0, -3: 0}, {"bob": 1})
    assert found.models == public.models
    assert found.models.keys() == {0, 1}


def test_a_file_without_any_has_none() -> None:
    assert read_public_state(replace(frame_of(published()), sections=()), LAYOUT) is None


def changed() -> Iterator[bytes]:
    body = bytes(next(s.body for s in public_state(LAYOUT, published()) if s.role is Role.PUBLIC))
    yield from (body[:end] for end in range(len(body)))
    yield body + b"x"
    for at in range(0, len(body), 3):
        yield body[:at] + bytes([body[at] ^ 255]) + body[at + 1 :]


def test_what_is_damaged_is_refused_or_is_another_state() -> None:
    frame = frame_of(published())
    refused = 0
    for body in changed():
        sections = tuple(replace(s, body=body) if s.role is Role.PUBLIC else s for s in frame.sections)
        try:
            read_public_state(replace(frame, sections=sections), LAYOUT)
        except MalformedFrameError:
            refused += 1
    assert refused > 0.7 * sum(1 for _ in changed())


@pytest.mark.parametrize("client", [0, -(2**64) + 1, 2**64 - 1, "", "ann", "\u00e9\n"])
def test_names(client: int | str) -> None:
    assert read_client(client_name(client)) == client


@pytest.mark.parametrize("data", [b"", b"x", b"i", b"i1.5", b"s\xff", b"i" + b"9" * 100])
def test_names_that_cannot_be(data: bytes) -> None:
    with pytest.raises(FrameError):
        read_client(data)
