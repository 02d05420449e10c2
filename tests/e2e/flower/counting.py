"""A TCP proxy on loopback that counts what passes, in both directions."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class CountingProxy:
    """Passes connections on to a port; `up` and `down` are the bytes from and to those who connect here."""

    def __init__(self) -> None:
        self.up = self.down = self.connections = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._port = 0

    def to(self, port: int) -> int:
        """Start passing on to this port; return the port to connect to."""
        self._port = port
        self._run(self._accept)
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        """Cut every connection, and wait for all threads."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()

    def _run(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                client.close()
                continue
            self.connections += 1
            self._sockets += [client, server]
            self._run(self._pass, client, server, "up")
            self._run(self._pass, server, client, "down")

    def _pass(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
                with self._lock:
                    setattr(self, way, getattr(self, way) + len(data))
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def counting() -> Iterator[CountingProxy]:
    """A proxy that is closed on the way out."""
    proxy = CountingProxy()
    try:
        yield proxy
    finally:
        proxy.close()
