"""A client's connection: the protocol of docs/http.md on httpx, with retries; needs no training framework."""

import ipaddress
import json
import random
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from fedmrn.errors import ConfigError, LimitError, ServerRefusedError
from fedmrn.http.metrics import write_metrics
from fedmrn.text import printable
from fedmrn.wire.frame import DEFAULT_LIMITS, Limits

_log = getLogger(__name__)
_AGAIN = frozenset((408, 429, 500, 502, 503, 504))
_LATE = 409
_OVER = 410
_MOST_JSON = 1 << 25
_PIECE = 1 << 18
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True, kw_only=True)
class Given:
    """A task as it came.

    Attributes:
        name: of the task, in the path of its answer.
        kind: "train" or "evaluate".
        round: from 1.
        run: names the run.
        config: what the server tells its clients.
        data: the frame's bytes.
    """

    name: str
    kind: str
    round: int
    run: str
    config: Mapping[str, Any]
    data: bytes = field(repr=False)


class _TooLongError(LimitError):
    """The body of an answer is too long; `task` is that of which it is, if it is of one."""

    def __init__(self, most: int, response: httpx.Response) -> None:
        super().__init__(
            f"the server sends more than {most} bytes, the most that this client takes: "
            "a larger model needs limits=Limits(max_bytes=...) of the client"
        )
        self.task = response.headers.get("fedmrn-task", "") if response.status_code == 200 else ""


class Connection:
    """Sends a client's requests, again where that may help, and counts the bytes of bodies.

    Args:
        url: of the server, such as "https://host:8000".
        token: of this client.
        authority: a file with the certificate, in PEM, of whoever signed the server's; by default the system's.
        insecure: send the token without TLS to another machine.
        patience: seconds that a server may be away before a request fails; None: for ever.
        limits: of what the server sends.

    Attributes:
        up, down: bytes of bodies, and of metrics and configurations in headers, both ways; what is sent again counts
            again.

    Raises:
        ConfigError: the address cannot be, or the token would travel in plain.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        authority: Path | str | None = None,
        insecure: bool = False,
        patience: float | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError(f"a server's address is such as https://host:8000, got {printable(url)!r}")
        if parts.scheme == "http" and not insecure and not _is_here(parts.hostname):
            raise ConfigError(
                f"the token would travel in plain to {parts.hostname}: write https://, or say insecure=True"
            )
        verify = ssl.create_default_context(cafile=None if authority is None else str(authority))
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"},
            verify=verify if parts.scheme == "https" else True,
            timeout=httpx.Timeout(30.0, read=120.0),
        )
        self._patience, self._limits = patience, limits
        self.up = self.down = 0

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def about(self) -> dict[str, Any]:
        """Return what the server says of the run.

        Raises:
            ServerRefusedError: the token is wrong, or the server speaks another protocol.
            httpx.TransportError: the server was away for longer than `patience`.
        """
        found = _json(self._ask("GET", "/v1/run", most=_MOST_JSON)[1])
        if found.get("protocol") != 1:
            raise ServerRefusedError(f"the server speaks protocol {found.get('protocol')!r:.20}, this client speaks 1")
        return found

    def task(self, wait: int = 20) -> Given | None:
        """Wait for work, and return it; None if the run is over.

        Raises:
            ServerRefusedError, httpx.TransportError: as `about`.
            LimitError: it is larger than this client takes; the server is told so, and does not wait for an answer.
        """
        while True:
            try:
                response, data = self._ask("GET", f"/v1/task?wait={wait}", most=self._limits.max_bytes)
            except _TooLongError as error:
                self._decline(error)
                raise LimitError(str(error)) from error
            if response.status_code == _OVER:
                return None
            if response.status_code == 200:
                config = response.headers.get("fedmrn-config", "{}")
                self.down += len(config)
                return Given(
                    name=response.headers.get("fedmrn-task", ""),
                    kind=response.headers.get("fedmrn-kind", ""),
                    round=int(response.headers.get("fedmrn-round", "0")),
                    run=response.headers.get("fedmrn-run", ""),
                    config=_json(config.encode()),
                    data=data,
                )
            time.sleep(_pause(response, 0))

    def answer(self, task: Given, data: bytes, metrics: Mapping[str, float]) -> bool:
        """Upload the answer to a task; return whether it was taken, and not too late.

        Raises:
            ServerRefusedError: it was refused.
            WrongMessageError: the metrics cannot travel.
            httpx.TransportError: as `about`.
        """
        told = write_metrics(metrics) if metrics else ""
        headers = {"Content-Type": "application/octet-stream", **({"Fedmrn-Metrics": told} if told else {})}
        return self._put(f"/v1/answer/{task.name}", data, headers, len(told))

    def fail(self, task: Given, text: str) -> bool:
        """Say why there is no answer to a task; return whether the server still wanted one.

        Raises:
            ServerRefusedError, httpx.TransportError: as `answer`.
        """
        return self._fail(task.name, text)

    def _fail(self, name: str, text: str) -> bool:
        data = text.encode(errors="replace")[:4000]
        return self._put(f"/v1/failure/{name}", data, {"Content-Type": "text/plain; charset=utf-8"}, 0)

    def _decline(self, error: "_TooLongError") -> None:
        """Tell the server of a task that was too large to be read; whether it hears that changes nothing here."""
        if error.task:
            with suppress(ServerRefusedError, httpx.TransportError):
                self._fail(error.task, f"{LimitError.__name__}: {error}")

    def _put(self, path: str, data: bytes, headers: dict[str, str], beside: int) -> bool:
        response, _ = self._ask("PUT", path, data, headers, beside=beside)
        if response.status_code == _LATE:
            _log.warning("%s came too late, or for the second time", path)
        return response.status_code == 200

    def _ask(
        self,
        verb: str,
        path: str,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        most: int = 1 << 16,
        beside: int = 0,
    ) -> tuple[httpx.Response, bytes]:
        """Send a request until it is answered for good; return the answer and its body."""
        began, tries = time.monotonic(), 0
        while True:
            pause, lost = 0.0, None
            try:
                self.up += len(data or b"") + beside
                with self._http.stream(verb, path, **_sent(data, headers)) as response:
                    body = self._read(response, most)
                if response.status_code not in _AGAIN:
                    return _checked(response, body)
                pause = _pause(response, tries)
            except httpx.TransportError as error:
                pause, lost = _backoff(tries), error
            if self._patience is not None and time.monotonic() + pause - began > self._patience:
                if lost is not None:
                    raise lost
                raise ServerRefusedError(f"the server answers {response.status_code} to {path}, again and again")
            tries += 1
            _log.info("%s %s: %s; again in %.1f s", verb, path, lost or response.status_code, pause)
            time.sleep(pause)

    def _read(self, response: httpx.Response, most: int) -> bytes:
        declared, found = response.headers.get("content-length", ""), bytearray()
        if len(declared) > 20 or (declared.isdecimal() and int(declared) > most):
            raise _TooLongError(most, response)
        for piece in response.iter_raw():
            found += piece
            self.down += len(piece)
            if len(found) > most:
                raise _TooLongError(most, response)
        return bytes(found)


def _sent(data: bytes | None, headers: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the arguments of a request; a body in pieces: httpx copies what is left after each write."""
    if data is None:
        return {"headers": headers}
    return {"content": _pieces(memoryview(data)), "headers": {**(headers or {}), "Content-Length": str(len(data))}}


def _pieces(data: memoryview) -> Iterator[bytes]:
    for start in range(0, len(data), _PIECE):
        yield bytes(data[start : start + _PIECE])


def _checked(response: httpx.Response, body: bytes) -> tuple[httpx.Response, bytes]:
    if response.status_code < 400 or response.status_code in {_LATE, _OVER}:
        return response, body
    text = printable(body.decode("utf-8", errors="replace"), 400)
    raise ServerRefusedError(f"{response.request.url.path}: the server answers {response.status_code}: {text}")


def _pause(response: httpx.Response, tries: int) -> float:
    told = response.headers.get("retry-after", "")
    return min(float(told), _LONGEST_PAUSE) if told.isdecimal() and len(told) < 10 else _backoff(tries)


def _backoff(tries: int) -> float:
    return min(2.0 ** min(tries, 10), _LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret


def _json(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ServerRefusedError("the server's answer is no JSON: is it a fedmrn server?") from error
    if not isinstance(found, dict):
        raise ServerRefusedError("the server's answer is no JSON object: is it a fedmrn server?")
    return found


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
