"""The server's side of the protocol of docs/http.md as an ASGI application: requests in, the desk's answers out."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from fedmrn.http.bodies import BodyError, Traffic, parts_of, pieces, read_body
from fedmrn.http.desk import MOST_TEXT, Desk, Offer
from fedmrn.http.tokens import Tokens
from fedmrn.http.verdict import Verdict, refused

_METRICS = "Fedmrn-Metrics"
_EXPOSED = ("Fedmrn-Task", "Fedmrn-Kind", "Fedmrn-Round", "Fedmrn-Run", "Fedmrn-Deadline", "Fedmrn-Config")
"""Headers of a task, which a page of another origin may read."""
_RETRY = "2"
_Handler = Callable[[Request, int], Awaitable[Response]]


class Bell:
    """Wakes requests that wait for work; rung by any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung = asyncio.Event()

    def hear(self) -> asyncio.Event:
        """Return what is set at the next ring; taken before one looks for work, so that no ring is missed."""
        self._loop = asyncio.get_running_loop()
        return self._rung

    def ring(self) -> None:
        """Wake all that wait."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._rung.set()
        self._rung = asyncio.Event()


class Counter:
    """Where clients come: their requests, one method each.

    Args:
        desk: what each client is to do.
        tokens: who is who.
        bell: rung when there is new work.
        about: client -> what it is told of the run.
        most: bytes of an answer.
        body_seconds: that an upload may take.
        max_wait: seconds that a request for work may wait.
        run: names the run, in hexadecimal digits.

    Attributes:
        traffic: all bytes of bodies.
    """

    def __init__(
        self,
        desk: Desk,
        tokens: Tokens,
        bell: Bell,
        about: Callable[[int], dict[str, object]],
        *,
        most: int,
        body_seconds: float,
        max_wait: int,
        run: str,
    ) -> None:
        self._desk, self._tokens, self._bell, self._about = desk, tokens, bell, about
        self._most, self._body_seconds, self._max_wait, self._run = most, body_seconds, max_wait, run
        self._uploading: set[int] = set()
        self.traffic = Traffic()

    def known(self, handler: _Handler) -> Callable[[Request], Awaitable[Response]]:
        """Return a handler that asks for the token before anything else."""

        async def handle(request: Request) -> Response:
            client = self._tokens.client_of(request.headers.get("authorization"))
            if client is None:
                verdict = refused(401, "NoToken", "no client has this token")
                return self._told(verdict, {"WWW-Authenticate": "Bearer", "Connection": "close"})
            return await handler(request, client)

        return handle

    async def run(self, request: Request, client: int) -> Response:
        """Tell what the run is."""
        body = json.dumps(self._about(client), separators=(",", ":")).encode()
        self.traffic.add(down=len(body))
        return Response(body, media_type="application/json")

    async def task(self, request: Request, client: int) -> Response:
        """Give a client its task, and wait for one where there is none."""
        asked = request.query_params.get("wait", "0")
        if not asked.isdecimal() or len(asked) > 9:
            return self._told(refused(400, "BadWait", "wait is a whole number of seconds"))
        granted = min(int(asked), self._max_wait)
        until = time.monotonic() + granted
        while True:
            rung = self._bell.hear()
            response = await self._work(client)
            left = until - time.monotonic()
            if response is not None or left <= 0:
                return response or Response(status_code=204, headers={"Retry-After": "0" if granted else _RETRY})
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await rung.wait()

    async def _work(self, client: int) -> Response | None:
        if self._desk.over:
            return self._told(refused(410, "RunOver", "the run is over"))
        offer = await run_in_threadpool(self._desk.offer, client)
        return None if offer is None else await self._given(offer)

    async def _given(self, offer: Offer) -> Response:
        parts = await run_in_threadpool(parts_of, offer.content)
        size = sum(map(len, parts))
        told = (offer.task, offer.kind, offer.round, self._run, offer.seconds, offer.config)
        headers = {**dict(zip(_EXPOSED, map(str, told), strict=True)), "Content-Length": str(size)}
        self.traffic.add(down=size + len(offer.config))
        return StreamingResponse(pieces(parts), headers=headers, media_type="application/octet-stream")

    async def answer(self, request: Request, client: int) -> Response:
        """Take an answer."""
        metrics = request.headers.get(_METRICS.lower(), "")
        return await self._upload(request, client, self._most, lambda n, d: self._desk.answer(client, n, d, metrics))

    async def failure(self, request: Request, client: int) -> Response:
        """Take the reason why there is no answer."""
        return await self._upload(request, client, MOST_TEXT, lambda n, d: self._desk.fail(client, n, d))

    async def _upload(
        self, request: Request, client: int, most: int, take: Callable[[str, bytes], Verdict]
    ) -> Response:
        name = request.path_params["task"]
        if client in self._uploading:
            return self._told(refused(429, "Busy", "another upload of this client is being read", again=True))
        self._uploading.add(client)
        try:
            data = await read_body(request, most, self._body_seconds)
            self.traffic.add(up=len(data) + len(request.headers.get(_METRICS.lower(), "")))
            return self._told(await run_in_threadpool(take, name, data))
        except BodyError as error:
            self.traffic.add(up=error.size)
            await run_in_threadpool(self._desk.cut, name, error.size)
            return self._told(refused(error.status or 400, error.error, str(error)), {"Connection": "close"})
        finally:
            self._uploading.discard(client)

    def _told(self, verdict: Verdict, headers: dict[str, str] | None = None) -> Response:
        self.traffic.add(down=len(verdict.body))
        more = {"Retry-After": _RETRY} if verdict.status in {408, 429, 503} else {}
        return Response(verdict.body, verdict.status, {**more, **(headers or {})}, media_type="application/json")


def application(
    counter: Counter,
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]],
    origins: Sequence[str] = (),
) -> Starlette:
    """Return the application.

    Args:
        counter: answers the requests.
        lifespan: what runs while it does.
        origins: of pages that may take part in a browser; "*" for all.
    """
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "PUT"],
        allow_headers=["Authorization", "Content-Type", _METRICS],
        expose_headers=[*_EXPOSED, "Retry-After"],
    )
    name = "{task:str}"
    return Starlette(
        routes=[
            Route("/v1/run", counter.known(counter.run), methods=["GET"]),
            Route("/v1/task", counter.known(counter.task), methods=["GET"]),
            Route(f"/v1/answer/{name}", counter.known(counter.answer), methods=["PUT"]),
            Route(f"/v1/failure/{name}", counter.known(counter.failure), methods=["PUT"]),
        ],
        middleware=[cors] if origins else [],
        lifespan=lifespan,
    )
