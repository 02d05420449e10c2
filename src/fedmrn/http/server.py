"""A federation's server over plain HTTP: it waits for clients, runs the rounds, and ends; needs no training framework.

server = open_server(folder, layout, method("fedmrn-s").scheme(), start)
tokens = read_tokens(folder / "tokens.txt")
HttpServer(server, Plan(rounds=20, clients_per_round=10), tokens, folder).run("0.0.0.0", 8000, certificate, key)
"""

import asyncio
import ipaddress
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from logging import getLogger
from pathlib import Path
from threading import Thread

import numpy as np
import uvicorn
from numpy.typing import NDArray
from starlette.applications import Starlette

from fedmrn.errors import ConfigError, FedmrnError
from fedmrn.files import locked, make_folder
from fedmrn.http.app import Bell, Counter, application
from fedmrn.http.bodies import Traffic
from fedmrn.http.desk import ClosedError, Desk
from fedmrn.http.plan import Plan
from fedmrn.http.rounds import Outcome, Rounds
from fedmrn.http.spool import Spool
from fedmrn.http.tokens import Tokens
from fedmrn.methods import METHODS
from fedmrn.server import Clipping, Server
from fedmrn.server.scheme import Scheme
from fedmrn.whole import whole
from fedmrn.wire.frame import DEFAULT_LIMITS, Limits
from fedmrn.wire.layout import Layout
from fedmrn.wire.public import tag_of

_log = getLogger(__name__)
_PROTOCOL = 1
"""Version of the protocol."""
_SLACK, _WIDEST = 1 << 16, 8


def open_server(
    folder: Path,
    layout: Layout,
    scheme: Scheme,
    model: NDArray[np.float32] | None = None,
    *,
    secret: bytes | None = None,
    run: bytes | None = None,
    clipping: Clipping | None = Clipping(),  # noqa: B008 - immutable
    limits: Limits = DEFAULT_LIMITS,
) -> Server:
    """Return the server that was saved in a folder, or a new one that starts with a model.

    Args:
        folder: is made if it is not there; its parent must be.
        layout, scheme, clipping, limits: as for `Server`.
        model: to start with, float32, shape (layout.size,); None where one was saved.
        secret, run: of a new server; by default random.

    Raises:
        RunError: what was saved is damaged, or of another model or method.
        ConfigError: nothing was saved and there is no model, or it is not one of the layout.
    """
    make_folder(folder)
    if (folder / "checkpoint.bin").exists():
        return Server.load(folder, layout, scheme, clipping=clipping, limits=limits)
    if model is None:
        raise ConfigError(f"no server was saved in {folder}, so that a new one needs a model to start with")
    state = Server.initial(layout, scheme, model)
    secret = os.urandom(32) if secret is None else secret
    return Server(layout, scheme, state, secret, run=run, clipping=clipping, limits=limits)


class HttpServer:
    """Runs a federation's rounds with clients that come by HTTP.

    Args:
        server: of the federation, new or as `open_server` finds it.
        plan: how many rounds, with whom.
        tokens: of the clients.
        folder: where the server is saved after each round, and `rounds.jsonl` is written.
        on_round: called after each round, in a thread of its own.
        origins: of web pages that may take part; "*" for all.
        max_bytes: of an answer; by default 8 bytes a parameter and 64 KiB.
        max_wait: seconds that a request for work may wait.
        body_seconds: that an upload may take.
        linger: seconds that clients are told that the run is over, before the server ends.

    Attributes:
        federation: the server whose rounds are run.
        app: the ASGI application, for whoever has a server of their own for it; one process alone may run it.
        traffic: all bytes of bodies both ways.
        error: what ended the run; None while it goes on, and if it came to its end.

    Raises:
        ConfigError: a round has more clients than there are tokens.
    """

    def __init__(
        self,
        server: Server,
        plan: Plan,
        tokens: Tokens,
        folder: Path,
        *,
        on_round: Callable[[Outcome], None] = lambda _: None,
        origins: Sequence[str] = (),
        max_bytes: int | None = None,
        max_wait: int = 30,
        body_seconds: float = 60.0,
        linger: float = 5.0,
    ) -> None:
        if plan.wanted > len(tokens.clients):
            raise ConfigError(
                f"a round waits for {plan.wanted} clients, and there are tokens for {len(tokens.clients)}"
            )
        make_folder(folder)
        self._folder = folder
        most = min(server.limits.max_bytes, _WIDEST * server.layout.size + _SLACK) if max_bytes is None else max_bytes
        self.federation, self._plan, self._on_round, self._linger = server, plan, on_round, linger
        self._most, self._max_wait = most, max_wait
        self._run_tag = tag_of(server.run).hex()
        bell, spool = Bell(), Spool(folder, most + _SLACK)
        self._desk = Desk(spool.keep, bell.ring)
        self._rounds = Rounds(server, plan, self._desk, spool, folder, lately=3.0 * max_wait)
        counter = Counter(
            self._desk,
            tokens,
            bell,
            self._about,
            most=most,
            body_seconds=body_seconds,
            max_wait=max_wait,
            run=self._run_tag,
        )
        self.traffic: Traffic = counter.traffic
        self.error: BaseException | None = None
        self.app = application(counter, self._lifespan, origins)
        self._uvicorn: uvicorn.Server | None = None
        self._thread = Thread(target=self._run_rounds, name="fedmrn-rounds", daemon=True)

    def run(
        self,
        host: str = "127.0.0.1",
        port: int = 8000,
        certificate: Path | None = None,
        key: Path | None = None,
        *,
        insecure: bool = False,
        connections: int = 1000,
        listener: socket.socket | None = None,
    ) -> None:
        """Serve until the run is over.

        Args:
            host, port: to listen on; port 0 takes a free one, and the log says which.
            certificate, key: of TLS, files in PEM.
            insecure: listen without TLS on more than this machine: behind a proxy that ends TLS.
            connections: at the same time; more are answered by 503.
            listener: a socket that is bound already, in place of host and port.

        Raises:
            ConfigError: it would listen beyond this machine without TLS, or cannot listen there.
            RunError: another server runs in the folder.
            FedmrnError, OSError: what ended the run.
            KeyboardInterrupt: Ctrl-C; started again, the run goes on.
        """
        if certificate is None and not insecure and not _is_loopback(host):
            raise ConfigError(
                f"tokens would travel in plain to {host}: give a certificate and its key, or say insecure=True "
                "where a proxy in front ends TLS"
            )
        config = uvicorn.Config(
            self.app,
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=connections,
            h11_max_incomplete_event_size=1 << 14,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=2,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        self._uvicorn = uvicorn.Server(config)
        with locked(self._folder), closing(_listen(host, port) if listener is None else listener) as door:
            scheme, address = "http" if certificate is None else "https", door.getsockname()
            _log.info("listening on %s://%s:%s, after round %s", scheme, *address[:2], self.federation.round)
            try:
                self._uvicorn.run([door])
            except KeyboardInterrupt:
                said = f"stopped in round {self.federation.round + 1}; start it again to go on"
                raise KeyboardInterrupt(said) from None
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """End now: a round that is open is begun again when the server is started again. Any thread may call it."""
        self._desk.close()
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._desk.close()
            await asyncio.to_thread(self._thread.join)

    def _run_rounds(self) -> None:
        try:
            for outcome in self._rounds.run():
                self._on_round(outcome)
        except ClosedError:
            return
        except (FedmrnError, OSError) as error:
            _log.error("the run ends: %s", error)
            self.error = error
        except BaseException as error:
            self.error = error
            raise
        finally:
            self._desk.end()
            until = time.monotonic() + self._linger
            while not self._desk.closed and time.monotonic() < until:
                time.sleep(0.05)
            if self._uvicorn is not None:
                self._uvicorn.should_exit = True

    def _about(self, client: int) -> dict[str, object]:
        server = self.federation
        return {
            "protocol": _PROTOCOL,
            "run": self._run_tag,
            "client": client,
            "method": next((name for name, row in METHODS.items() if row.id == server.scheme.method), ""),
            "layout": json.loads(server.layout.to_json()),
            "round": server.round,
            "rounds": self._plan.rounds,
            "max_bytes": self._most,
            "max_wait": self._max_wait,
        }


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigError: there is no such address or port, or somebody else has it.
    """
    port = whole(port, "port", least=0, most=65_535)
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
