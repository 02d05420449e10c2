"""Bodies of requests and responses: read within limits of length and time, sent in pieces, counted both ways."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from threading import Lock

from starlette.requests import ClientDisconnect, Request

from fedmrn.wire.frame import Frame

_PIECE = 1 << 18


class Traffic:
    """All bytes of bodies both ways, and of metrics and configurations in headers, since the server was started.

    Attributes:
        up: from clients.
        down: to clients.
    """

    def __init__(self) -> None:
        self.up, self.down, self._lock = 0, 0, Lock()

    def add(self, *, up: int = 0, down: int = 0) -> None:
        """Count bytes."""
        with self._lock:
            self.up += up
            self.down += down


class BodyError(Exception):
    """A body was not read to its end.

    Attributes:
        status: of HTTP; 0 where nobody is there to be told.
        error: its name.
        size: bytes that were read.
    """

    def __init__(self, status: int, error: str, text: str, size: int = 0) -> None:
        super().__init__(text)
        self.status, self.error, self.size = status, error, size


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """Return a request's body.

    Args:
        request: whose.
        most: bytes that it may have.
        seconds: that it may take.

    Raises:
        BodyError: it is longer than that, or declared so; it took longer; or the connection was lost.
    """
    declared = request.headers.get("content-length", "")
    if len(declared) > 20 or (declared.isdecimal() and int(declared) > most):
        raise BodyError(413, "LimitError", f"a body has at most {most} bytes, and this one would have {declared[:20]}")
    found = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.stream():
                found += piece
                if len(found) > most:
                    raise BodyError(413, "LimitError", f"a body has at most {most} bytes", len(found))
    except TimeoutError as error:
        raise BodyError(408, "Slow", f"a body takes at most {seconds:g} s", len(found)) from error
    except ClientDisconnect as error:
        raise BodyError(0, "Lost", "the connection was lost", len(found)) from error
    return bytes(found)


def parts_of(content: Frame | bytes) -> list[bytes | memoryview]:
    """Return a body in parts; those of a frame are views of what it is made of."""
    return content.parts() if isinstance(content, Frame) else [content]


async def pieces(parts: Iterable[bytes | memoryview]) -> AsyncIterator[bytes]:
    """Yield a body's parts in pieces, so that a model is not copied as a whole for each client."""
    for part in parts:
        for start in range(0, len(part), _PIECE):
            yield bytes(part[start : start + _PIECE])
