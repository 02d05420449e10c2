"""The smallest HTTP that will do on one machine: a door hands out parcels, and takes others in.

Nobody is asked for a name, and nothing is encrypted: see docs/http.md for what a real transport does.
"""

import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from fedmrn import FrameError

LARGEST = 64 << 20
Take = Callable[[str, bytes], None]


class Door:
    """Parcels by path, and what is done with those that come in.

    Args:
        port: on this machine.
        take: called with the path and the bytes of what comes in; a FrameError of it refuses the parcel.
    """

    def __init__(self, port: int, take: Take) -> None:
        door = self
        self.parcels: dict[str, bytes] = {}
        self.over, self._seen = False, set[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = door.parcels.get(self.path)
                if data is None and door.over:
                    door._seen.add(self.path.split("/")[2])
                    return self._answer(HTTPStatus.GONE)
                return self._answer(HTTPStatus.NOT_FOUND if data is None else HTTPStatus.OK, data or b"")

            def do_PUT(self) -> None:
                size = int(self.headers.get("Content-Length", LARGEST + 1))
                if not 0 <= size <= LARGEST:
                    return self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                try:
                    take(self.path, self.rfile.read(size))
                except FrameError as error:
                    return self._answer(HTTPStatus.UNPROCESSABLE_ENTITY, f"{type(error).__name__}: {error}".encode())
                return self._answer(HTTPStatus.OK)

            def _answer(self, status: HTTPStatus, data: bytes = b"") -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self, visitors: int, patience: float = 10.0) -> None:
        """Say that all is over, until so many visitors have heard it."""
        self.over = True
        until = time.monotonic() + patience
        while len(self._seen) < visitors and time.monotonic() < until:
            time.sleep(0.02)
        self._http.shutdown()


def fetch(url: str, patience: float = 300.0) -> bytes | None:
    """Return a parcel as soon as it is there; None if all is over.

    Raises:
        TimeoutError: it was not there in time.
    """
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            with urlopen(url, timeout=patience) as answer:  # noqa: S310 - of this machine
                return bytes(answer.read())
        except HTTPError as error:
            if error.code == HTTPStatus.GONE:
                return None
        except (URLError, ConnectionError):
            pass  # it is not open yet
        time.sleep(0.05)
    raise TimeoutError(url)


def deliver(url: str, data: bytes) -> None:
    """Hand a parcel in.

    Raises:
        HTTPError: it is refused.
    """
    with urlopen(Request(url, data, method="PUT"), timeout=60) as answer:  # noqa: S310
        answer.read()
